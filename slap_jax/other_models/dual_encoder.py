"""A model of another family with the methods of `SlapModel`, made from two functions: of waveforms, and of texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, Recordings, as_recordings
from slap_jax.inference.bucketing import check_batch_size
from slap_jax.inference.long_audio import (
    Segment,
    WindowError,
    Windows,
    WindowSpec,
    context_windows,
    decode_segments,
    mean_embedding,
    regular_windows,
    segment_times,
)
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, LabelEmbeddings, label_probabilities
from slap_jax.inference.text_input import as_texts, warn_truncated

_WINDOWS_AT_ONCE = 32  # in memory: 60 MB of 10 s at 48 kHz
_TEXTS_AT_ONCE = 256


class OtherModelError(UserError, ValueError):
    """A model of another family that cannot be read, or something that it cannot do."""


class Encoder(Protocol):
    """What a family provides.

    Attributes:
        family: name of the kind of model, such as "ClapModel".
        source: where the model came from, for messages.
        sample_rate: of the waveforms, in Hz.
        max_seconds: longest waveform that is embedded whole.
        embed_dim: E.
        max_tokens: longest text; longer ones are truncated.
        scale: inverse temperature of the softmax over labels.
        model_id: hash of weights and settings.
    """

    family: str
    source: str
    sample_rate: int
    max_seconds: float
    embed_dim: int
    max_tokens: int
    scale: float
    model_id: str

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds mono float32 waveforms of 1 to `max_seconds * sample_rate` samples, at least one of them."""
        ...

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts with content, at least one of them."""
        ...

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        ...


class DualEncoder:
    """Embeds, compares and classifies audio of any sample rate, number of channels and duration.

    A clip of up to `max_seconds` is embedded as its family does it. A longer recording is cut into windows of that
    length, each sharing a third with the next, and its vector is their mean weighted by duration, scaled to length 1.
    Nothing is cropped, at random or otherwise.

    Attributes:
        encoder: the model.
        reload: reads the model again; it is pickled instead of the weights. None for a model made in memory.
    """

    can_caption = False

    def __init__(self, encoder: Encoder):
        """Wraps a model; `slap_jax.other_models.load.load_model` reads one."""
        self.encoder = encoder
        self.reload: Callable[[], DualEncoder] | None = None
        self._labels = LabelEmbeddings()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(family={self.encoder.family!r}, id={self.model_id!r}, embed_dim={self.embed_dim}, "
            f"sample_rate={self.sample_rate}, max_seconds={self.max_seconds:g}, source={self.encoder.source!r})"
        )

    def __reduce__(self) -> Any:
        if self.reload is None:
            raise OtherModelError(f"{self!r} was made in memory, so it cannot be pickled; use `load_model`")
        return self.reload, ()

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio of another rate is resampled to it."""
        return self.encoder.sample_rate

    @property
    def max_seconds(self) -> float:
        """Duration in seconds of the longest clip that is embedded whole; longer recordings are cut into windows."""
        return self.encoder.max_seconds

    @property
    def embed_dim(self) -> int:
        """E, the size of the embeddings."""
        return self.encoder.embed_dim

    @property
    def model_id(self) -> str:
        """A short hash of weights and settings; a search index identifies its model by it."""
        return self.encoder.model_id

    def embed_audio(
        self,
        audio: Audio | Iterable[Audio],
        sample_rate: int | None = None,
        window_seconds: float | Literal["trained"] | None = "trained",
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        normalize: bool = True,
        allow_silence: bool = False,
    ) -> Float[np.ndarray, "n E"]:
        """Embeds clips and recordings of any length.

        Args:
            audio: one clip or several, as for `slap_jax.inference.model.SlapModel.embed_audio`.
            sample_rate: sample rate of bare samples, in Hz.
            window_seconds: length of the windows of longer recordings, at most `max_seconds`; "trained" means
                `max_seconds`.
            batch_size: largest number of windows in memory; None for 32.
            show_progress: whether to show a progress bar on standard error.
            normalize: must be True: not every family shows its vectors before that.
            allow_silence: whether a silent clip gets a vector, which means nothing, instead of an error.

        Returns:
            fp32 unit vectors, one per clip; one clip gives an array of one row.

        Raises:
            AudioError: a clip is unreadable, empty or silent, or contains NaN; the message gives its index in the list.
            WindowError: `window_seconds` is None or above `max_seconds`: the model cannot embed longer windows.
            BatchSizeError: `batch_size` is not a positive integer.
            OtherModelError: the model computes vectors that are not finite, or `normalize` is False.
        """
        self._check_normalize(normalize)
        recordings, spec = as_recordings(audio, sample_rate, allow_silence), self._context(window_seconds)
        parts: list[list[tuple[Segment, np.ndarray]]] = [[] for _ in recordings.clips]
        segments = decode_segments(recordings, self.sample_rate, spec)
        with tqdm(total=len(parts), unit=" clips", disable=not show_progress) as bar:
            for where, samples in _in_batches(segments, check_batch_size(batch_size) or _WINDOWS_AT_ONCE):
                for segment, vector in zip(where, self._audio(samples), strict=True):
                    bar.update(not parts[segment.recording])
                    parts[segment.recording].append((segment, vector))
        vectors = [mean_embedding(outputs) for outputs in parts]
        return np.stack(vectors) if vectors else np.zeros((0, self.embed_dim), np.float32)

    def windows(
        self,
        clip: Audio,
        seconds: float = 10.0,
        hop: float | None = None,
        sample_rate: int | None = None,
        *,
        allow_silence: bool = False,
    ) -> Windows:
        """Embeds overlapping windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window; a window above `max_seconds` is embedded like a recording of this length.
            hop: seconds from the start of a window to the start of the next; None for half a window.
            sample_rate: sample rate of bare samples, in Hz.
            allow_silence: as for `embed_audio`.

        Returns:
            Windows that start at 0, hop, 2 hop, ...; the last one ends with the recording and may be shorter.

        Raises:
            AudioError: see `embed_audio`.
            WindowError: unless 0 < hop <= seconds.
        """
        spec = regular_windows(seconds, hop, self.sample_rate, overlap=0.5)
        segments: list[Segment] = []
        vectors: list[np.ndarray] = []
        recording = Recordings([clip], sample_rate, False, allow_silence)
        for where, samples in _in_batches(decode_segments(recording, self.sample_rate, spec), _WINDOWS_AT_ONCE):
            segments.extend(where)
            if spec.length <= self.max_seconds * self.sample_rate:
                vectors.extend(self._audio(samples))
            else:
                clips = [(window, self.sample_rate) for window in samples]
                vectors.extend(self.embed_audio(clips, allow_silence=True))
        return Windows(*segment_times(segments, self.sample_rate), np.stack(vectors))

    def embed_text(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        normalize: bool = True,
    ) -> Float[np.ndarray, "m E"]:
        """Embeds texts; one of more than `max_tokens` tokens is truncated, with a warning in the log.

        Args:
            texts: one text or several.
            batch_size: largest number of texts in a call of the model; None for 256.
            show_progress: as for `embed_audio`.
            normalize: as for `embed_audio`.

        Returns:
            fp32 unit vectors, one per text; one text gives an array of one row.

        Raises:
            TextError: `texts` is neither a string nor a list of strings, or a string is blank or not UTF-8.
            BatchSizeError, OtherModelError: see `embed_audio`.
        """
        self._check_normalize(normalize)
        listed = as_texts(texts)
        for index, text in enumerate(listed):
            if len(text) > self.encoder.max_tokens:  # a token has at least one character, so shorter texts fit
                length = self.encoder.count_tokens(text)
                if length > self.encoder.max_tokens:
                    warn_truncated(index, length, self.encoder.max_tokens)
        return self.text_vectors(listed, check_batch_size(batch_size) or _TEXTS_AT_ONCE, show_progress)

    def text_vectors(
        self, texts: Sequence[str], at_once: int = _TEXTS_AT_ONCE, show_progress: bool = False
    ) -> Float[np.ndarray, "m E"]:
        """Embeds strings with content, without warnings about those that are truncated."""
        parts = []
        with tqdm(total=len(texts), unit=" texts", disable=not show_progress) as bar:
            for start in range(0, len(texts), at_once):
                batch = texts[start : start + at_once]
                parts.append(self._unit(self.encoder.text_vectors(batch), "texts"))
                bar.update(len(batch))
        return np.concatenate(parts) if parts else np.zeros((0, self.embed_dim), np.float32)

    @staticmethod
    def similarity(audio: Float[np.ndarray, "n E"], text: Float[np.ndarray, "m E"]) -> Float[np.ndarray, "n m"]:
        """Returns the cosine similarity, -1 to 1, of embeddings."""
        return np.asarray(audio, np.float32) @ np.asarray(text, np.float32).T

    def classify(
        self,
        audio: Audio | Iterable[Audio],
        labels: Iterable[str],
        template: str = DEFAULT_TEMPLATE,
        sample_rate: int | None = None,
        **settings: Any,
    ) -> list[dict[str, float]]:
        """Classifies clips without training; see `slap_jax.inference.model.SlapModel.classify`.

        Raises:
            AudioError: see `embed_audio`.
            ZeroShotError: there are no labels, a label occurs twice, or the template is unknown.
        """
        names, classes = self._labels.embed(labels, template, self.embed_text)
        similarity = self.similarity(self.embed_audio(audio, sample_rate, **settings), classes)
        return label_probabilities(similarity, names, self.encoder.scale)

    def caption(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `OtherModelError`: these models have no caption decoder."""
        self._refuse("has no caption decoder, so it cannot describe sounds in words")

    def caption_windows(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `OtherModelError`, as `caption` does."""
        self.caption()

    def frames(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `OtherModelError`: these models have one vector per window."""
        self._refuse("has one vector per window, and no features over time")

    def scores(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `OtherModelError`, as `frames` does."""
        self.frames()

    # The names that transformers gives these methods.
    get_audio_features = embed_audio
    get_text_features = embed_text

    def _refuse(self, reason: str) -> NoReturn:
        raise OtherModelError(
            f"{self.encoder.family} {self.encoder.source} {reason}; use a model of `slap export`, or `windows` and "
            "`embed_text` for similarity over time"
        )

    def _check_normalize(self, normalize: bool) -> None:
        if not normalize:
            raise OtherModelError(f"{self.encoder.family} gives unit vectors only; leave out normalize=False")

    def _context(self, window_seconds: float | Literal["trained"] | None) -> WindowSpec:
        seconds = self.max_seconds if window_seconds == "trained" else window_seconds
        if seconds is None or (isinstance(seconds, (int, float)) and seconds > self.max_seconds):
            raise WindowError(
                f"window_seconds is {window_seconds}, and {self.encoder.family} embeds at most {self.max_seconds:g} s "
                f"at once; write a number up to {self.max_seconds:g}, or 'trained'"
            )
        return context_windows(seconds, self.sample_rate, 1)

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Float[np.ndarray, "b E"]:
        return self._unit(self.encoder.audio_vectors(waveforms), "sounds")

    def _unit(self, vectors: np.ndarray, what: str) -> Float[np.ndarray, "b E"]:
        vectors = np.asarray(vectors, np.float32)
        if not np.isfinite(vectors).all():
            raise OtherModelError(
                f"{self.encoder.family} {self.encoder.source} gives vectors of {what} that are not finite; its weights "
                "are damaged, or need a wider number type"
            )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))


def _in_batches(
    segments: Iterator[tuple[Segment, np.ndarray]], size: int
) -> Iterator[tuple[list[Segment], list[np.ndarray]]]:
    where: list[Segment] = []
    waveforms: list[np.ndarray] = []
    for segment, samples in segments:
        where.append(segment)
        waveforms.append(samples)
        if len(where) == size:
            yield where, waveforms
            where, waveforms = [], []
    if where:
        yield where, waveforms
