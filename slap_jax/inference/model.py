"""A trained model as a person uses it: sound and text in, vectors, classes and captions out."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.data.audio import AudioError, decode_audio, prepare_waveform
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.zero_shot import DEFAULT_TEMPLATE, ZeroShotError, class_embeddings, class_prompts
from slap_jax.export.safetensors import ExportError, check_shapes, load_export
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder

# A file's path, its encoded bytes, or (samples, sample rate in Hz).
Audio = str | os.PathLike[str] | bytes | tuple[Any, int]

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
        return cls(exported.config, exported.params, Tokenizer(exported.tokenizer_path))

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained with a caption decoder."""
        return self._captioner is not None

    def embed_audio(self, audio: Sequence[Audio]) -> Float[np.ndarray, "n E"]:
        """Embeds whole clips.

        Args:
            audio: for each clip a path, the bytes of an audio file, or a pair (samples, sample rate). Samples are [n]
                or [n, channels] as soundfile returns them; integers are scaled by their type, floats have full scale 1.
                Channels are averaged and the rate is converted. A NumPy array alone is refused: it has no rate.

        Returns:
            fp32 unit vectors.

        Raises:
            AudioError: unreadable, empty, or with NaN samples; the message gives the place in the list.
        """
        parts = [
            self._embedder.audio(self._params, self._decode(audio, start))
            for start in range(0, len(_as_list(audio)), _DECODED_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.embed_dim), np.float32)

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
        self, audio: Sequence[Audio], labels: Sequence[str], template: str = DEFAULT_TEMPLATE
    ) -> list[dict[str, float]]:
        """Zero-shot classification: how much each label fits, relative to the other labels given.

        Args:
            audio: as for `embed_audio`.
            labels: the classes; one of them is assumed to be right.
            template: a name of `slap_jax.evaluation.zero_shot.TEMPLATES`, or a prompt with {}, like "the sound of {}".

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
        similarity = self.similarity(self.embed_audio(audio), class_embeddings(prompts, len(labels)))
        logits = self._scale * similarity.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        names = list(labels)
        return [{names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")} for row in probabilities]

    def caption(self, audio: Sequence[Audio]) -> list[str]:
        """Describes each clip in words, taking the likeliest token each time (greedy decoding).

        Args:
            audio: as for `embed_audio`.

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
        for start in range(0, len(_as_list(audio)), _DECODED_AT_ONCE):
            tokens = self._captioner(self._params, self._decoder_params, self._decode(audio, start))
            # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
            captions.extend(
                self._tokenizer.decode([i for i in ids if i < self._tokenizer.vocab_size]) for ids in tokens
            )
        return captions

    def _decode(self, audio: Sequence[Audio], start: int) -> list[np.ndarray]:
        chunk = list(enumerate(audio))[start : start + _DECODED_AT_ONCE]
        rate = self.config.audio.sample_rate
        with ThreadPoolExecutor(_DECODE_THREADS) as threads:
            return list(threads.map(lambda item: _waveform(item[1], item[0], rate), chunk))


def _as_list(audio: Any) -> Sequence[Audio]:
    if isinstance(audio, (str, bytes, os.PathLike, np.ndarray)) or (
        isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[0]) > 0 and np.ndim(audio[1]) == 0
    ):
        raise AudioError("expected a list of clips, found one clip: write [clip]")
    return audio


def _waveform(item: Any, index: int, sample_rate: int) -> np.ndarray:
    """Mono float32 samples of one clip."""
    name = f"clip {index}"
    if isinstance(item, bytes):
        return decode_audio(item, sample_rate, name=f"{name} ({len(item)} bytes)")
    if isinstance(item, (str, os.PathLike)):
        try:
            return decode_audio(item, sample_rate)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
    if isinstance(item, tuple) and len(item) == 2:
        samples, rate = item
        return prepare_waveform(np.asarray(samples), rate, sample_rate, name=name)
    raise AudioError(
        f"{name} is a {type(item).__name__}; expected a path, the bytes of a file, or a pair (samples, sample rate)"
    )
