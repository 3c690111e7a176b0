"""A trained model as a person uses it: sound and text in, vectors, classes and captions out."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.evaluation.zero_shot import DEFAULT_TEMPLATE, ZeroShotError, class_embeddings, class_prompts
from slap_jax.export.safetensors import ExportError, check_shapes, load_export
from slap_jax.inference.audio_input import Audio, as_list, read_audio
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder
from slap_jax.inference.model_id import model_id
from slap_jax.inference.results import Frames, Scores, Windows
from slap_jax.inference.windows import Window, join_columns, overlapping_windows

# The longest clips of training where an export does not tell them.
_USUAL_MAX_SECONDS = 30.0
_DECODED_AT_ONCE = 64  # clips whose samples are in memory together
_DECODE_THREADS = 4


class TextError(ValueError):
    """Text that cannot be embedded; the message names it by its place in the list."""


class SlapModel:
    """Embeds, compares, classifies and captions sound of any rate, channels and duration.

    Everything is deterministic: the same input gives the same bits, alone, in a list, and in any order. Nothing is
    cropped or repeated.

    Attributes:
        config: of the export.
        embed_dim: E, the size of the vectors.
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
        self._max_seconds: float = config.data.get("max_seconds", _USUAL_MAX_SECONDS)
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ExportError(
                f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model only {config.model.vocab_size}; "
                "use the vocabulary that the model was trained with"
            )
        self._embedder = Embedder(config)
        check_shapes(params["model"], self._embedder.abstract_params(), "model")
        self._params = jax.device_put(params["model"])
        self._captioner: Captioner | None = None
        objectives = params.get("objectives", {})
        decoder = objectives.get("captioning", {}).get("decoder")
        if decoder is not None:
            self._captioner = Captioner(self._embedder, self._max_tokens)
            check_shapes(decoder, self._captioner.abstract_params, "caption decoder")
            self._decoder_params = jax.device_put(decoder)
        contrastive = objectives.get("contrastive", {})
        scale = float(np.exp(contrastive["log_scale"])) if "log_scale" in contrastive else 1 / 0.07
        self._all_params = {"model": self._params, "objectives": objectives}
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
        return cls(exported.config, exported.params, load_tokenizer(exported.tokenizer_path))

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained with a caption decoder."""
        return self._captioner is not None

    @functools.cached_property
    def model_id(self) -> str:
        """A short name by the content of weights, settings and vocabulary; an index of sounds knows its model by it."""
        return model_id(self.config, self._all_params, self._tokenizer.path)

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
        parts = [
            self._embedder.audio(self._params, self._decode(audio, start, sample_rate))
            for start in range(0, len(as_list(audio)), _DECODED_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.embed_dim), np.float32)

    def windows(self, clip: Audio, seconds: float = 10.0, hop: float = 5.0, sample_rate: int | None = None) -> Windows:
        """Embeds overlapping windows of one recording.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of one window to that of the next.
            sample_rate: of samples that come alone, in Hz.

        Returns:
            Windows at 0, hop, 2 hop, ...; the last ends with the recording.

        Raises:
            AudioError: see `embed_audio`.
        """
        rate = self.config.audio.sample_rate
        waveform = read_audio(clip, rate, array_rate=sample_rate)
        windows = list(overlapping_windows([waveform], round(seconds * rate), round(hop * rate)))
        start = np.array([window.start / rate for window in windows], np.float32)
        end = np.array([(window.start + len(window.samples)) / rate for window in windows], np.float32)
        embeddings = self._embedder.audio(self._params, [window.samples for window in windows])
        return Windows(start, end, embeddings)

    def frames(self, clip: Audio, sample_rate: int | None = None) -> Frames:
        """Dense features of one recording, one for each 160 ms.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            sample_rate: of samples that come alone, in Hz.

        Raises:
            AudioError: see `embed_audio`.
        """
        return Frames(*self._over_time(clip, sample_rate, self._embedder.frames))

    def scores(self, clip: Audio, texts: Sequence[str], sample_rate: int | None = None) -> Scores:
        """Similarity of every 160 ms of one recording with texts.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            texts: as for `embed_text`.
            sample_rate: of samples that come alone, in Hz.

        Raises:
            AudioError: see `embed_audio`.
            TextError: see `embed_text`.
        """
        text = self.embed_text(texts)

        def scores(params: Any, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [columns @ text.T for columns in self._embedder.frame_embeddings(params, waveforms)]

        return Scores(*self._over_time(clip, sample_rate, scores))

    def _over_time(
        self, clip: Audio, sample_rate: int | None, of_windows: Callable[[Any, Sequence[np.ndarray]], list[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and ends of the columns of a recording, and what `of_windows` says of them."""
        rate, per_column = self.config.audio.sample_rate, self._embedder.per_column
        waveform = read_audio(clip, rate, array_rate=sample_rate)
        if len(waveform) <= self._max_seconds * rate:
            windows = [Window(0, waveform)]
        else:
            length = int(self._max_seconds * rate) // per_column
            windows = list(overlapping_windows([waveform], length * per_column, length * 2 // 3 * per_column))
        values = of_windows(self._params, [window.samples for window in windows])
        starts = [window.start // per_column for window in windows]
        columns = join_columns(zip(starts, values, strict=True))
        start = np.arange(len(columns), dtype=np.float32) * (per_column / rate)
        return start, np.minimum(start + per_column / rate, np.float32(len(waveform) / rate)), columns

    def embed_text(self, texts: Sequence[str]) -> Float[np.ndarray, "m E"]:
        """Embeds texts, cut at `data.max_caption_tokens` tokens.

        Returns:
            fp32 unit vectors.

        Raises:
            TextError: not a list of strings, or a string without content.
        """
        if isinstance(texts, str):
            raise TextError("expected a list of texts, found one string: write [text]")
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"text {index} is {text!r}; expected a string with content")
        return self._embedder.text(self._params, [self._tokenizer.encode(text, self._max_tokens) for text in texts])

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
        if isinstance(labels, str) or not labels or len(set(labels)) != len(labels):
            raise ZeroShotError(f"labels are {labels!r}; expected a list of distinct names, at least one")
        prompts = self.embed_text(class_prompts(labels, template))
        similarity = self.similarity(self.embed_audio(audio, sample_rate), class_embeddings(prompts, len(labels)))
        logits = self._scale * similarity.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        names = list(labels)
        return [{names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")} for row in probabilities]

    def caption(self, audio: Sequence[Audio], beam: int = 1, sample_rate: int | None = None) -> list[str]:
        """Describes each clip in words, taking the likeliest token each time (greedy decoding).

        Args:
            audio: as for `embed_audio`.
            beam: how many beginnings of a caption are followed at a time.
            sample_rate: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
            ExportError: the model has no caption decoder.
        """
        if self._captioner is None:
            raise ExportError(
                "this model has no caption decoder: it was trained with config.objectives.captioning.weight=0; train "
                "with a weight above 0 to get captions"
            )
        captions: list[str] = []
        for start in range(0, len(as_list(audio)), _DECODED_AT_ONCE):
            tokens = self._captioner(self._params, self._decoder_params, self._decode(audio, start, sample_rate))
            # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
            captions.extend(
                self._tokenizer.decode([i for i in ids if i < self._tokenizer.vocab_size]) for ids in tokens
            )
        return captions

    # The names of transformers' models of this kind.
    get_audio_features = embed_audio
    get_text_features = embed_text

    def _decode(self, audio: Sequence[Audio], start: int, sample_rate: int | None) -> list[np.ndarray]:
        chunk = list(enumerate(audio))[start : start + _DECODED_AT_ONCE]
        rate = self.config.audio.sample_rate
        with ThreadPoolExecutor(_DECODE_THREADS) as threads:
            return list(threads.map(lambda item: read_audio(item[1], rate, f"clip {item[0]}", sample_rate), chunk))
