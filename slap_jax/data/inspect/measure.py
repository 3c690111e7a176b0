"""`slap stats`: what the clips of training sources are like, from a seeded sample, and how full rows will be.

The log-mel of clips on the host, by librosa: for statistics and pictures; training computes it on the device.
"""

import dataclasses
from collections.abc import Sequence

import librosa
import numpy as np
from jaxtyping import Float, Int16, Int64
from ml_collections import ConfigDict
from tqdm import tqdm

from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import INT16_SCALE, SAMPLE_RATE
from slap_jax.data.batches.labels import CaptionPolicy, MissingCaptionError, caption_policy, choose_caption
from slap_jax.data.batches.stream import derive_seed, generator_at, mixing_weights
from slap_jax.data.clip_statistics import ClipStatistics, loudness
from slap_jax.data.index import open_index
from slap_jax.data.inspect.packing_forecast import Forecast, RowRoom, clips_needed, forecast
from slap_jax.data.packing import clip_columns
from slap_jax.data.records import Record, Records, RecordsError, open_split
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.errors import UserError

SAMPLED_CLIPS = 1_000
CLIPPED_RUN = 3  # samples at full scale, one after another
_CHUNK = 1 << 20  # durations that are looked at together


class StatisticsError(UserError, ValueError):
    """There is nothing to measure."""


@dataclasses.dataclass(frozen=True)
class ClipMeasures:
    """What is measured of one clip.

    Attributes:
        record: as stored, without its audio.
        samples: that training takes of it: all, or `config.data.max_seconds`.
        loudness_dbfs: root mean square against full scale (a sine at full scale: -3.0).
        clipped: whether `CLIPPED_RUN` samples in a row are at full scale.
        frames: of the log-mel of those samples.
        mel_sum: over the frames, for each band.
        mel_squares: of the squares, likewise.
        has_caption: whether training finds a caption for it, or makes one of its labels.
        tokens: of such a caption as training cuts it; 0 without a tokenizer or without a caption.
        caption_tokens: of each of its captions, uncut; empty without a tokenizer.
    """

    record: Record
    samples: int
    loudness_dbfs: float
    clipped: bool
    frames: int
    mel_sum: Float[np.ndarray, " mels"]
    mel_squares: Float[np.ndarray, " mels"]
    has_caption: bool
    tokens: int
    caption_tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SourceStatistics:
    """What a source is like.

    Attributes:
        path: of the prepared data.
        split: name, or several joined by "+".
        clips: number of clips of the split.
        measured: the clips that were decoded, in stored order.
        timed: clips whose durations are known: all where the data have an index, else the measured ones.
        seconds: their duration together.
        longest: the duration of the longest of them, in seconds.
        distributions: of their durations, and of the loudness of the measured ones.
    """

    path: str
    split: str
    clips: int
    measured: list[ClipMeasures]
    timed: int
    seconds: float
    longest: float
    distributions: ClipStatistics


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a training mixture is like.

    Attributes:
        sources: in the order of the config.
        shares: of each source in the stream of clips.
        mean: of the log-mel over all frames and bands of that stream, as `config.audio.mean` wants it.
        std: likewise.
        band_mean: mean of each band.
        band_std: standard deviation of each band.
        max_caption_tokens: at which captions are cut; None without a tokenizer.
        packing: how full rows will be.
    """

    sources: dict[str, SourceStatistics]
    shares: dict[str, float]
    mean: float
    std: float
    band_mean: Float[np.ndarray, " mels"]
    band_std: Float[np.ndarray, " mels"]
    max_caption_tokens: int | None
    packing: Forecast


def measure(
    config: ConfigDict, tokenizer: Tokenizer | None = None, clips: int = SAMPLED_CLIPS, seed: int = 0
) -> Statistics:
    """Measures every source of `config.data.train` and forecasts the rows of their mixture.

    Args:
        config: `audio` (but for its mean and std) and `data` are used.
        tokenizer: of the captions; without one, tokens are not counted and text is left out of the forecast.
        clips: the most clips of each source to decode.
        seed: chooses them, their captions and parts.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        StatisticsError: there is no source, a source is empty, or no clip of the sample has a caption or label.
        PackingError: a clip that no row can hold.
    """
    data = config.data
    if not data.train or clips < 1:
        raise StatisticsError(
            f"there are {len(data.train)} sources and {clips} clips of each to measure: name a source, and measure "
            "at least one clip"
        )
    sources = {
        name: measure_source(name, open_split(source.path, source.split), config, tokenizer, clips, seed)
        for name, source in data.train.items()
    }
    weights = [float(data.train[name].weight) for name in sources]
    shares = mixing_weights(weights, [source.clips for source in sources.values()], data.temperature)
    mean, squares = _mixed_mel(list(sources.values()), shares)
    return Statistics(
        sources=sources,
        shares=dict(zip(sources, shares, strict=True)),
        mean=float(mean.mean()),
        std=float(np.sqrt(max(0.0, squares.mean() - mean.mean() ** 2))),
        band_mean=mean,
        band_std=np.sqrt(np.maximum(0.0, squares - mean**2)),
        max_caption_tokens=data.max_caption_tokens if tokenizer else None,
        packing=_forecast(list(sources.values()), shares, config, tokenizer is not None, seed),
    )


def measure_source(
    name: str, records: Records, config: ConfigDict, tokenizer: Tokenizer | None, clips: int, seed: int
) -> SourceStatistics:
    """Measures a seeded sample of one source.

    Args:
        name: of the source in `config.data.train`.
        records: its split.
        config: `audio` and `data` are used.
        tokenizer: of the captions, or None.
        clips: the most clips to decode.
        seed: chooses them, their captions and parts.

    Raises:
        StatisticsError: the split has no clip.
    """
    if not len(records):
        raise StatisticsError(f"split {records.split!r} of {records.path} has no clips: nothing can be measured")
    size = min(clips, len(records))
    sample = np.random.default_rng(derive_seed(seed, "sample", name)).choice(len(records), size, replace=False)
    policy = caption_policy(config.data.train[name].captions)
    measured = [
        measure_clip(
            records[int(index)], config, policy, tokenizer, generator_at(derive_seed(seed, "measure", name), int(index))
        )
        for index in tqdm(np.sort(sample), desc=name, unit=" clips", disable=None, leave=False)
    ]
    samples = _lengths(records, measured)
    distributions = ClipStatistics()
    distributions.add_loudness(np.array([clip.loudness_dbfs for clip in measured]))
    for start in range(0, len(samples), _CHUNK):
        distributions.add_durations(samples[start : start + _CHUNK])
    return SourceStatistics(
        path=records.path,
        split=records.split,
        clips=len(records),
        measured=measured,
        timed=len(samples),
        seconds=int(samples.sum()) / SAMPLE_RATE,
        longest=int(samples.max()) / SAMPLE_RATE,
        distributions=distributions,
    )


def _lengths(records: Records, measured: Sequence[ClipMeasures]) -> Int64[np.ndarray, " n"]:
    """Returns the samples of every clip, mapped from the index; without an index, of the measured clips."""
    try:
        return open_index(records.path, records.split).samples
    except RecordsError:  # prepared before there were indexes, or by another builder
        return np.array([round(clip.record.duration_s * SAMPLE_RATE) for clip in measured], np.int64)


def measure_clip(
    record: Record,
    config: ConfigDict,
    policy: CaptionPolicy,
    tokenizer: Tokenizer | None,
    generator: np.random.Generator,
) -> ClipMeasures:
    """Measures one clip; its log-mel where it is too long for training on a part, its loudness on the whole.

    Raises:
        AudioError: the record's audio is damaged.
    """
    data, waveform = config.data, record.waveform()
    try:
        caption = choose_caption(record, policy, generator)
    except MissingCaptionError:
        caption = None
    most = round(data.max_seconds * SAMPLE_RATE)
    start = int(generator.integers(len(waveform) - most + 1)) if len(waveform) > most else 0
    part = waveform[start : start + most]
    mel = log_mel(part, config.audio)
    return ClipMeasures(
        record=dataclasses.replace(record, audio=b""),
        samples=len(part),
        loudness_dbfs=loudness(waveform),
        clipped=is_clipped(waveform),
        frames=len(mel),
        mel_sum=mel.sum(axis=0, dtype=np.float64),
        mel_squares=np.square(mel, dtype=np.float64).sum(axis=0),
        has_caption=caption is not None,
        tokens=len(tokenizer.encode(caption, data.max_caption_tokens)) if tokenizer and caption is not None else 0,
        caption_tokens=tuple(tokenizer.length(text) for text in record.captions) if tokenizer else (),
    )


def is_clipped(waveform: Int16[np.ndarray, " n"]) -> bool:
    """Whether `CLIPPED_RUN` samples in a row have the largest or the smallest value that there is."""
    limits = np.iinfo(np.int16)
    for limit in (limits.min, limits.max):
        ends = np.flatnonzero(np.diff(np.concatenate([[False], waveform == limit, [False]]).astype(np.int8)))
        if len(ends) and (ends[1::2] - ends[::2]).max() >= CLIPPED_RUN:
            return True
    return False


def _mixed_mel(
    sources: Sequence[SourceStatistics], shares: Sequence[float]
) -> tuple[Float[np.ndarray, " mels"], Float[np.ndarray, " mels"]]:
    """Returns mean and mean square of each band over the frames of the stream, to which long clips give more."""
    frames, total, squares = 0.0, 0.0, 0.0
    for source, share in zip(sources, shares, strict=True):
        each = share / len(source.measured)
        frames += each * sum(clip.frames for clip in source.measured)
        total += each * np.sum([clip.mel_sum for clip in source.measured], axis=0)
        squares += each * np.sum([clip.mel_squares for clip in source.measured], axis=0)
    return np.asarray(total / frames), np.asarray(squares / frames)


def _forecast(
    sources: Sequence[SourceStatistics], shares: Sequence[float], config: ConfigDict, with_text: bool, seed: int
) -> Forecast:
    """Packs clips drawn from the sample as the mixture draws them from the sources."""
    data = config.data
    room = RowRoom(data.columns, data.slots, data.text_tokens, data.packing_bins)
    sizes, probabilities = [], []
    for source, share in zip(sources, shares, strict=True):
        usable = [clip for clip in source.measured if clip.has_caption]
        sizes += [(clip_columns(clip.samples, samples_per_column(config.audio)), clip.tokens) for clip in usable]
        probabilities += [share / max(1, len(usable))] * len(usable)
    if not sizes:
        raise StatisticsError(
            "no clip of the sample has a caption, or a label to make one of: there is nothing to pack"
        )
    columns, tokens = np.array(sizes, np.int64).T
    weights = np.array(probabilities) / sum(probabilities)
    count = clips_needed(float(weights @ columns), room)
    drawn = np.random.default_rng(derive_seed(seed, "forecast")).choice(len(sizes), count, p=weights)
    return forecast(columns[drawn], tokens[drawn] if with_text else None, room)


def log_mel(waveform: Int16[np.ndarray, " n"], audio: ConfigDict) -> Float[np.ndarray, "frames mels"]:
    """Computes the natural log-mel frames that a clip has in a packed row.

    Args:
        waveform: 16 kHz mono.
        audio: `config.audio`.

    Returns:
        `frames_per_column` frames for each column that the clip owns.
    """
    columns = clip_columns(len(waveform), samples_per_column(audio))
    padded = np.zeros(columns * samples_per_column(audio), np.float32)
    padded[: len(waveform)] = waveform / np.float32(INT16_SCALE)
    mel = librosa.feature.melspectrogram(
        y=padded,
        sr=audio.sample_rate,
        n_fft=audio.n_fft,
        win_length=audio.window_length,
        hop_length=audio.hop_length,
        center=True,
        pad_mode="constant",
        power=2.0,
        n_mels=audio.mels,
        fmin=audio.f_min,
        fmax=audio.f_max,
    )
    return np.log(np.maximum(mel, audio.log_floor)).T[: columns * audio.frames_per_column]
