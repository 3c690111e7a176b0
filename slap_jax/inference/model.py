"""A trained model as a person uses it: sound and text in, vectors, classes and captions out."""

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import ExportError, check_shapes, load_export, model_id
from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, as_list
from slap_jax.inference.captioner import Captioner, check_beam
from slap_jax.inference.compile_cache import use_compile_cache
from slap_jax.inference.embedder import AudioProgram, Embedder, Output
from slap_jax.inference.long_audio import (
    WHOLE,
    Captions,
    Cut,
    Frames,
    Scores,
    Span,
    Windows,
    columns_over_time,
    even_cut,
    mean_of_windows,
    overlapping_cut,
    stream_windows,
    window_times,
)
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, ZeroShotError, class_embeddings, class_prompts

# The longest clips of training where an export does not tell them.
_USUAL_MAX_SECONDS = 30.0


class TextError(UserError, ValueError):
    """Text that cannot be embedded; the message names it by its place in the list."""


class SlapModel:
    """Embeds, compares, classifies and captions sound of any rate, channels and duration.

    Everything is deterministic: the same input gives the same bits, alone, in a list, and in any order. Nothing is
    cropped or repeated.

    Attributes:
        config: of the export.
        embed_dim: E, the size of the vectors.
        params: on the device, `{"model": ..., "objectives": ...}`.
    """

    def __init__(self, config: ConfigDict, params: dict[str, Any], tokenizer: Tokenizer):
        """Takes a model that is in memory; `SlapModel.load` reads one from a directory.

        Args:
            config: `audio`, `model`, `objectives.contrastive` and `data.max_caption_tokens` are read.
            params: `{"model": ..., "objectives": ...}`; `objectives` may lack the caption decoder.
            tokenizer: of the run.

        Raises:
            ExportError: the parameters are not those that the config describes.
        """
        self.config = config
        self.embed_dim: int = config.model.embed_dim
        self._tokenizer = tokenizer
        self._max_tokens: int = config.data.max_caption_tokens
        self._rate: int = config.audio.sample_rate
        self._max_seconds: float = config.data.get("max_seconds", _USUAL_MAX_SECONDS)
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ExportError(
                f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model only {config.model.vocab_size}; "
                "use the vocabulary that the model was trained with"
            )
        self._embedder = Embedder(config)
        check_shapes(params["model"], self._embedder.abstract_params(), "model")
        self.params = jax.device_put({"model": params["model"], "objectives": dict(params.get("objectives", {}))})
        objectives = self.params["objectives"]
        self._classes: dict[tuple[tuple[str, ...], str], np.ndarray] = {}  # of the labels that were asked for last
        self._captioners: dict[int, Captioner] = {}  # by the size of the beam
        self._decoder_params = objectives.get("captioning", {}).get("decoder")
        if self._decoder_params is not None:
            self._captioners[1] = Captioner(self._embedder, self._max_tokens)
            check_shapes(self._decoder_params, self._captioners[1].abstract_params, "caption decoder")
        contrastive = objectives.get("contrastive", {})
        scale = float(np.exp(contrastive["log_scale"])) if "log_scale" in contrastive else 1 / 0.07
        self._scale = min(scale, float(config.objectives.contrastive.max_scale))

    @classmethod
    def load(cls, directory: str | os.PathLike[str], compute_dtype: str | None = None) -> "SlapModel":
        """Reads a directory that `slap export` wrote.

        Args:
            directory: holds `model.safetensors`, `config.json` and `tokenizer.model`.
            compute_dtype: "float32" or "bfloat16"; None for that of training.

        Raises:
            ExportError: a file is missing, damaged, or of another version.
        """
        exported = load_export(directory)
        if compute_dtype is not None:
            if compute_dtype not in ("float32", "bfloat16"):
                raise ExportError(f"compute_dtype is {compute_dtype!r}; write 'float32' or 'bfloat16'")
            exported.config.model.compute_dtype = compute_dtype
        use_compile_cache()
        return cls(exported.config, exported.params, load_tokenizer(exported.tokenizer_path))

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained with a caption decoder."""
        return self._decoder_params is not None

    @functools.cached_property
    def model_id(self) -> str:
        """A short name by the content of weights, settings and vocabulary; an index of sounds knows its model by it."""
        return model_id(self.config, self.params, self._tokenizer.path)

    def embed_audio(
        self,
        audio: Sequence[Audio],
        sample_rate: int | None = None,
        window_seconds: float | Literal["trained"] | None = "trained",
    ) -> Float[np.ndarray, "n E"]:
        """Embeds clips and recordings of any length.

        Args:
            audio: for each clip a path, the bytes of an audio file, a pair (samples, sample rate), or samples alone.
                Samples are [n] or [n, channels] as soundfile returns them; integers are scaled by their type, floats
                have full scale 1. Channels are averaged and the rate is converted.
            sample_rate: of samples that come alone, in Hz.
            window_seconds: what is longer is embedded in windows of this length; None for whole whatever the length,
                "trained" for the longest clips of training.

        Returns:
            fp32 unit vectors.

        Raises:
            AudioError: unreadable, empty, or with NaN samples; the message gives the place in the list.
        """
        clips = as_list(audio)
        windows: list[list[tuple[Span, np.ndarray]]] = [[] for _ in clips]
        cut = self._cut(window_seconds)
        for span, vector in stream_windows(self._embedder, self._program("audio"), clips, cut, sample_rate):
            windows[span.recording].append((span, vector))
        vectors = [mean_of_windows(parts) for parts in windows]
        return np.stack(vectors) if vectors else np.zeros((0, self.embed_dim), np.float32)

    def windows(
        self, clip: Audio, seconds: float = 10.0, hop: float | None = None, sample_rate: int | None = None
    ) -> Windows:
        """Embeds overlapping windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of one window to that of the next; None for half a window.
            sample_rate: of samples that come alone, in Hz.

        Returns:
            Windows at 0, hop, 2 hop, ...; the last one ends with the recording and may be shorter. A recording of up to
            `seconds` is one window.

        Raises:
            AudioError: see `embed_audio`.
            WindowError: windows without length, or gaps between them.
        """
        cut = even_cut(seconds, hop, self._rate, overlap=0.5)
        found = stream_windows(self._embedder, self._program("audio"), [clip], cut, sample_rate, one=True)
        parts = sorted(found, key=lambda part: part[0])
        return Windows(
            *window_times([span for span, _ in parts], self._rate), np.stack([vector for _, vector in parts])
        )

    def frames(self, clip: Audio, sample_rate: int | None = None) -> Frames:
        """Dense features of one recording of any length, one for each 160 ms.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            sample_rate: of samples that come alone, in Hz.

        Raises:
            AudioError: see `embed_audio`.
        """
        program, cut = self._program("frames"), self._cut("trained")
        return Frames(*columns_over_time(self._embedder, program, clip, cut, sample_rate, lambda columns: columns))

    def scores(self, clip: Audio, texts: Sequence[str], sample_rate: int | None = None) -> Scores:
        """Similarity of every 160 ms of one recording of any length with texts.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            texts: as for `embed_text`.
            sample_rate: of samples that come alone, in Hz.

        Raises:
            AudioError: see `embed_audio`.
            TextError: see `embed_text`.
        """
        text = self.embed_text(texts)
        program, cut = self._program("frame_embeddings"), self._cut("trained")
        return Scores(*columns_over_time(self._embedder, program, clip, cut, sample_rate, lambda own: own @ text.T))

    def embed_text(self, texts: Sequence[str]) -> Float[np.ndarray, "m E"]:
        """Embeds texts.

        A text of more than `data.max_caption_tokens` tokens is cut there, with a warning in the log.

        Returns:
            fp32 unit vectors.

        Raises:
            TextError: not a list of strings, or a string without content.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = "one string: write [text]" if isinstance(texts, str) else repr(texts)
            raise TextError(f"expected a list of texts, found {found}")
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"text {index} is {text!r}; expected a string with content")
            try:
                text.encode()
            except UnicodeEncodeError:  # arguments of the command line that are not UTF-8 come like this
                raise TextError(f"text {index} is {text!r}, which is not UTF-8; type it anew") from None
        captions = [self._tokenizer.encode(text, self._max_tokens) for text in texts]
        for index, (text, tokens) in enumerate(zip(texts, captions, strict=True)):
            # Only a text that fills the window may be longer.
            if len(tokens) == self._max_tokens and (length := self._tokenizer.length(text)) > self._max_tokens:
                logging.warning(
                    "text %d has %d tokens and the model reads %d: the rest is cut off", index, length, self._max_tokens
                )
        return self._embedder.text(self.params["model"], captions)

    @staticmethod
    def similarity(audio: Float[np.ndarray, "n E"], text: Float[np.ndarray, "m E"]) -> Float[np.ndarray, "n m"]:
        """Cosine similarity, -1 to 1, of embeddings."""
        return np.asarray(audio, np.float32) @ np.asarray(text, np.float32).T

    def classify(
        self,
        audio: Sequence[Audio],
        labels: Sequence[str],
        template: str = DEFAULT_TEMPLATE,
        sample_rate: int | None = None,
    ) -> list[dict[str, float]]:
        """Zero-shot classification: how much each label fits, relative to the other labels given.

        Args:
            audio: as for `embed_audio`.
            labels: the classes; one of them is assumed to be right.
            template: a name of `slap_jax.evaluation.zero_shot.TEMPLATES`, or a prompt with {}, like "the sound of {}".
            sample_rate: as for `embed_audio`.

        Returns:
            For each clip label -> probability, the most probable first: the softmax over the labels of cosine
            similarity times the scale (inverse temperature) that the contrastive objective learned.

        Raises:
            AudioError: see `embed_audio`.
            ZeroShotError: no labels, a label twice, or an unknown template.
        """
        names = [] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
        named = all(isinstance(name, str) and name.strip() for name in names)
        if not names or not named or len(set(names)) != len(names):
            raise ZeroShotError(
                f"labels are {names or labels!r}; expected a list of distinct names with content, at least one"
            )
        prompts = class_prompts(names, template)
        asked = (tuple(names), template)
        if asked not in self._classes:  # a folder is classified in several calls
            self._classes = {asked: class_embeddings(self.embed_text(prompts), len(names))}
        similarity = self.similarity(self.embed_audio(audio, sample_rate), self._classes[asked])
        logits = self._scale * similarity.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return [{names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")} for row in probabilities]

    def caption(self, audio: Sequence[Audio], beam: int = 1, sample_rate: int | None = None) -> list[str]:
        """Describes each clip in words.

        A recording longer than the clips of training gets one of the captions of its windows: that whose text embedding
        is nearest to the recording's. `caption_windows` returns all of them.

        Args:
            audio: as for `embed_audio`.
            beam: how many beginnings of a caption are followed at a time; 1 takes the likeliest token each time.
            sample_rate: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
            ExportError: the model has no caption decoder.
        """
        clips = as_list(audio)
        found: list[list[str]] = [[] for _ in clips]
        for span, text in self._captions(clips, self._cut("trained"), beam, sample_rate):
            found[span.recording].append(text)
        for index, texts in enumerate(found):
            if len(texts) > 1:
                distinct = sorted({text for text in texts if text.strip()})
                if distinct:
                    recording = self.embed_audio([clips[index]], sample_rate)
                    found[index] = [distinct[int(self.similarity(recording, self.embed_text(distinct)).argmax())]]
        return [texts[0] for texts in found]

    def caption_windows(
        self,
        clip: Audio,
        seconds: float = 10.0,
        hop: float | None = None,
        beam: int = 1,
        sample_rate: int | None = None,
    ) -> Captions:
        """Describes the windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of one window to that of the next; None for one window after the other.
            beam: as for `caption`.
            sample_rate: of samples that come alone, in Hz.

        Raises:
            AudioError: see `embed_audio`.
            ExportError: the model has no caption decoder.
            WindowError: windows without length, or gaps between them.
        """
        parts = self._captions([clip], even_cut(seconds, hop, self._rate), beam, sample_rate, one=True)
        return Captions(*window_times([span for span, _ in parts], self._rate), [text for _, text in parts])

    # The names of transformers' models of this kind.
    get_audio_features = embed_audio
    get_text_features = embed_text

    def _program(self, output: Output) -> AudioProgram:
        return self._embedder.audio_program(self.params["model"], output)

    def _captions(
        self, audio: Sequence[Audio], cut: Cut, beam: int, sample_rate: int | None, one: bool = False
    ) -> list[tuple[Span, str]]:
        """A caption of each window, in order."""
        if self._decoder_params is None:
            raise ExportError(
                "this model has no caption decoder: it was trained with config.objectives.captioning.weight=0; train "
                "with a weight above 0 to get captions"
            )
        check_beam(beam)  # before a beam of 2.0 is taken for that of 2
        if beam not in self._captioners:
            self._captioners[beam] = Captioner(self._embedder, self._max_tokens, beam)
        program = self._captioners[beam].program(self.params["model"], self._decoder_params)
        written = sorted(
            stream_windows(self._embedder, program, audio, cut, sample_rate, one), key=lambda part: part[0]
        )
        # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
        known = self._tokenizer.vocab_size
        return [(span, self._tokenizer.decode([i for i in ids.tolist() if i < known])) for span, ids in written]

    def _cut(self, window_seconds: float | Literal["trained"] | None) -> Cut:
        seconds = self._max_seconds if window_seconds == "trained" else window_seconds
        return WHOLE if seconds is None else overlapping_cut(seconds, self._rate, self._embedder.per_column)
