"""The Python API of a trained model: audio and text in; embeddings, classes, captions and moments out."""

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import ExportError, check_shapes, model_id
from slap_jax.checkpoints.read_model import read_model
from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, as_list
from slap_jax.inference.captioner import Captioner, check_beam
from slap_jax.inference.compile_cache import use_compile_cache
from slap_jax.inference.embedder import AudioProgram, Embedder, Output
from slap_jax.inference.long_audio import (
    WHOLE,
    Frames,
    Scores,
    Segment,
    WindowCaptions,
    Windows,
    WindowSpec,
    column_outputs,
    context_windows,
    longest_clip,
    mean_embedding,
    outputs_per_recording,
    regular_windows,
    segment_times,
    windows_of_training,
)
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, ZeroShotError, class_embeddings, class_prompts


class TextError(UserError, ValueError):
    """Text that cannot be embedded; the message gives its index in the list."""


class SlapModel:
    """Embeds, compares, classifies and captions audio of any sample rate, number of channels and duration.

    Everything is deterministic: an input gives the same bits alone, in a list, and in any order (on CPU). Nothing is
    cropped or repeated.

    Attributes:
        config: config of the export.
        embed_dim: E, the size of the embeddings.
        params: on the device, `{"model": ..., "objectives": ...}`.
    """

    def __init__(self, config: ConfigDict, params: dict[str, Any], tokenizer: Tokenizer):
        """Wraps an in-memory model; `SlapModel.load` reads one from a directory.

        Args:
            config: `audio`, `model`, `objectives.contrastive` and `data.max_caption_tokens` are read.
            params: `{"model": ..., "objectives": ...}`; the caption decoder is optional.
            tokenizer: tokenizer of the run.

        Raises:
            ExportError: the parameters do not have the shapes that the config describes.
        """
        self.config = config
        self.embed_dim: int = config.model.embed_dim
        self._tokenizer = tokenizer
        self._max_tokens: int = config.data.max_caption_tokens
        self._rate: int = config.audio.sample_rate
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ExportError(
                f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model only {config.model.vocab_size}; "
                "use the vocabulary that the model was trained with"
            )
        self._embedder = Embedder(config)
        check_shapes(params["model"], self._embedder.abstract_params(), "model")
        self.params = jax.device_put({"model": params["model"], "objectives": dict(params.get("objectives", {}))})
        objectives = self.params["objectives"]
        self._classes: dict[tuple[tuple[str, ...], str], np.ndarray] = {}  # embeddings of the most recent labels
        self._captioners: dict[int, Captioner] = {}  # by beam width
        self._decoder_params = objectives.get("captioning", {}).get("decoder")
        if self._decoder_params is not None:
            self._captioners[1] = Captioner(self._embedder, self._max_tokens)
            check_shapes(self._decoder_params, self._captioners[1].abstract_params, "caption decoder")
        contrastive = objectives.get("contrastive", {})
        scale = float(np.exp(contrastive["log_scale"])) if "log_scale" in contrastive else 1 / 0.07
        self._scale = min(scale, float(config.objectives.contrastive.max_scale))

    @classmethod
    def load(cls, directory: str | os.PathLike[str], compute_dtype: str | None = None) -> "SlapModel":
        """Reads an export, or the newest checkpoint of a run.

        Args:
            directory: directory that `slap export` or `slap train` wrote, or the `best` of a run.
            compute_dtype: "float32" or "bfloat16"; None for the precision of training.

        Raises:
            ExportError: a file is missing or damaged, or has another version.
        """
        exported = read_model(directory)
        if compute_dtype is not None:
            if compute_dtype not in ("float32", "bfloat16"):
                raise ExportError(f"compute_dtype is {compute_dtype!r}; write 'float32' or 'bfloat16'")
            exported.config.model.compute_dtype = compute_dtype
        use_compile_cache()
        return cls(exported.config, exported.params, load_tokenizer(exported.tokenizer_path))

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio of another rate is resampled to it."""
        return self._rate

    @property
    def max_seconds(self) -> float:
        """Duration in seconds of the longest clip that is embedded whole; longer recordings are cut into windows."""
        return longest_clip(self.config)

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained with a caption decoder."""
        return self._decoder_params is not None

    @functools.cached_property
    def model_id(self) -> str:
        """A short hash of weights, settings and vocabulary; a search index identifies its model by it."""
        return model_id(self.config, self.params, self._tokenizer.path)

    def embed_audio(
        self,
        audio: Sequence[Audio],
        sample_rate: int | None = None,
        window_seconds: float | Literal["trained"] | None = "trained",
    ) -> Float[np.ndarray, "n E"]:
        """Embeds clips and recordings of any length.

        Args:
            audio: for each clip a path, the bytes of an audio file, a pair (samples, sample rate), or bare samples.
                Samples are [n] or [n, channels], as soundfile returns them. Integers are scaled by the range of their
                type; floats have full scale 1. Channels are averaged and the rate is converted.
            sample_rate: sample rate of bare samples, in Hz.
            window_seconds: longer recordings are embedded in windows of this length. "trained" means the longest
                clips of training; None embeds every recording whole.

        Returns:
            fp32 unit vectors.

        Raises:
            AudioError: a clip is unreadable or empty, or contains NaN; the message gives its index in the list.
            WindowError: `window_seconds` is too short, or not a number.
        """
        clips, spec = as_list(audio), self._window_spec(window_seconds)
        outputs = outputs_per_recording(self._embedder, self._program("audio"), clips, spec, sample_rate)
        vectors = [mean_embedding(parts) for parts in outputs]
        return np.stack(vectors) if vectors else np.zeros((0, self.embed_dim), np.float32)

    def windows(
        self, clip: Audio, seconds: float = 10.0, hop: float | None = None, sample_rate: int | None = None
    ) -> Windows:
        """Embeds overlapping windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of a window to the start of the next; None for half a window.
            sample_rate: sample rate of bare samples, in Hz.

        Returns:
            Windows that start at 0, hop, 2 hop, ...; the last one ends with the recording and may be shorter. A
            recording of up to `seconds` is one window.

        Raises:
            AudioError: see `embed_audio`.
            WindowError: unless 0 < hop <= seconds.
        """
        spec, program = regular_windows(seconds, hop, self._rate, overlap=0.5), self._program("audio")
        (parts,) = outputs_per_recording(self._embedder, program, [clip], spec, sample_rate, numbered=False)
        times = segment_times([segment for segment, _ in parts], self._rate)
        return Windows(*times, np.stack([vector for _, vector in parts]))

    def frames(self, clip: Audio, sample_rate: int | None = None) -> Frames:
        """Computes dense features of one recording of any length, one for each 160 ms.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            sample_rate: sample rate of bare samples, in Hz.

        Raises:
            AudioError: see `embed_audio`.
        """
        program, spec = self._program("frames"), self._window_spec("trained")
        return Frames(*column_outputs(self._embedder, program, clip, spec, sample_rate, lambda columns: columns))

    def scores(self, clip: Audio, texts: Sequence[str], sample_rate: int | None = None) -> Scores:
        """Computes the similarity of every 160 ms of one recording of any length with texts.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            texts: as for `embed_text`.
            sample_rate: sample rate of bare samples, in Hz.

        Raises:
            AudioError: see `embed_audio`.
            TextError: see `embed_text`.
        """
        text = self.embed_text(texts)
        program, spec = self._program("frame_embeddings"), self._window_spec("trained")
        return Scores(*column_outputs(self._embedder, program, clip, spec, sample_rate, lambda own: own @ text.T))

    def embed_text(self, texts: Sequence[str]) -> Float[np.ndarray, "m E"]:
        """Embeds texts.

        A text of more than `data.max_caption_tokens` tokens is truncated, with a warning in the log.

        Returns:
            fp32 unit vectors.

        Raises:
            TextError: `texts` is not a list of strings, or a string is blank or not UTF-8.
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
            except UnicodeEncodeError:  # Python decodes command-line arguments that are not UTF-8 to surrogates
                raise TextError(f"text {index} is {text!r}, which is not UTF-8; type it again") from None
        captions = [self._tokenizer.encode(text, self._max_tokens) for text in texts]
        for index, (text, tokens) in enumerate(zip(texts, captions, strict=True)):
            if len(tokens) == self._max_tokens and (length := self._tokenizer.length(text)) > self._max_tokens:
                logging.warning(
                    "text %d has %d tokens and the model reads %d: the rest is cut off", index, length, self._max_tokens
                )
        return self._embedder.text(self.params["model"], captions)

    @staticmethod
    def similarity(audio: Float[np.ndarray, "n E"], text: Float[np.ndarray, "m E"]) -> Float[np.ndarray, "n m"]:
        """Returns the cosine similarity, -1 to 1, of embeddings."""
        return np.asarray(audio, np.float32) @ np.asarray(text, np.float32).T

    def classify(
        self,
        audio: Sequence[Audio],
        labels: Sequence[str],
        template: str = DEFAULT_TEMPLATE,
        sample_rate: int | None = None,
    ) -> list[dict[str, float]]:
        """Classifies clips without training: how well each label fits, relative to the other labels.

        Args:
            audio: as for `embed_audio`.
            labels: the classes; one of them is assumed to be right.
            template: a name of `slap_jax.inference.prompts.TEMPLATES`, or a prompt with {}, like "the sound of {}".
            sample_rate: as for `embed_audio`.

        Returns:
            For each clip label -> probability, the most probable label first. Probabilities are the softmax over the
            labels of the cosine similarity times the scale (inverse temperature) that the contrastive objective
            learned.

        Raises:
            AudioError: see `embed_audio`.
            ZeroShotError: there are no labels, a label occurs twice, or the template is unknown.
        """
        names = [] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
        named = all(isinstance(name, str) and name.strip() for name in names)
        if not names or not named or len(set(names)) != len(names):
            raise ZeroShotError(
                f"labels are {names or labels!r}; expected a list of distinct names with content, at least one"
            )
        prompts = class_prompts(names, template)
        key = (tuple(names), template)
        if key not in self._classes:  # classifying a folder takes several calls with the same labels
            self._classes = {key: class_embeddings(self.embed_text(prompts), len(names))}
        similarity = self.similarity(self.embed_audio(audio, sample_rate), self._classes[key])
        logits = self._scale * similarity.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return [{names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")} for row in probabilities]

    def caption(self, audio: Sequence[Audio], beam: int = 1, sample_rate: int | None = None) -> list[str]:
        """Describes each clip in words.

        A recording longer than the clips of training gets the caption of one of its windows: the one whose text
        embedding is nearest to the embedding of the recording. `caption_windows` returns all of them.

        Args:
            audio: as for `embed_audio`.
            beam: beam width; 1 is greedy decoding.
            sample_rate: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
            BeamError: `beam` is not a positive integer.
            ExportError: the model has no caption decoder.
        """
        clips = as_list(audio)
        captions = []
        for index, parts in enumerate(self._captions(clips, self._window_spec("trained"), beam, sample_rate)):
            texts = [text for _, text in parts]
            distinct = sorted({text for text in texts if text.strip()})
            if len(texts) > 1 and distinct:
                recording = self.embed_audio([clips[index]], sample_rate)
                captions.append(distinct[int(self.similarity(recording, self.embed_text(distinct)).argmax())])
            else:
                captions.append(texts[0])
        return captions

    def caption_windows(
        self,
        clip: Audio,
        seconds: float = 10.0,
        hop: float | None = None,
        beam: int = 1,
        sample_rate: int | None = None,
    ) -> WindowCaptions:
        """Describes the windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of a window to the start of the next; None for windows without overlap.
            beam: as for `caption`.
            sample_rate: sample rate of bare samples, in Hz.

        Raises:
            AudioError: see `embed_audio`.
            BeamError: `beam` is not a positive integer.
            ExportError: the model has no caption decoder.
            WindowError: unless 0 < hop <= seconds.
        """
        spec = regular_windows(seconds, hop, self._rate)
        (parts,) = self._captions([clip], spec, beam, sample_rate, numbered=False)
        times = segment_times([segment for segment, _ in parts], self._rate)
        return WindowCaptions(*times, [text for _, text in parts])

    # The names that transformers gives these methods.
    get_audio_features = embed_audio
    get_text_features = embed_text

    def _program(self, output: Output) -> AudioProgram:
        return self._embedder.audio_program(self.params["model"], output)

    def _captions(
        self, audio: Sequence[Audio], spec: WindowSpec, beam: int, sample_rate: int | None, numbered: bool = True
    ) -> list[list[tuple[Segment, str]]]:
        """Returns the captions of the windows of each recording, in order."""
        if self._decoder_params is None:
            raise ExportError(
                "this model has no caption decoder: it was trained with config.objectives.captioning.weight=0; train "
                "with a weight above 0 to get captions"
            )
        check_beam(beam)  # before the lookup, where 2.0 == 2
        if beam not in self._captioners:
            self._captioners[beam] = Captioner(self._embedder, self._max_tokens, beam)
        program = self._captioners[beam].program(self.params["model"], self._decoder_params)
        outputs = outputs_per_recording(self._embedder, program, audio, spec, sample_rate, numbered)
        return [[(segment, self._text(ids.tolist())) for segment, ids in parts] for parts in outputs]

    def _text(self, ids: Sequence[int]) -> str:
        # The model may have more ids than the vocabulary has pieces; the surplus ids have no text.
        return self._tokenizer.decode([i for i in ids if i < self._tokenizer.vocab_size])

    def _window_spec(self, window_seconds: float | Literal["trained"] | None) -> WindowSpec:
        if window_seconds is None:
            return WHOLE
        if window_seconds == "trained":
            return windows_of_training(self.config)
        return context_windows(window_seconds, self._rate, self._embedder.per_column)
