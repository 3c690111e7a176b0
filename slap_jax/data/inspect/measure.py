"""Measures a seeded sample of the clips of training sources, for `slap stats`, and forecasts how full rows will be."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16, Int64
from ml_collections import ConfigDict
from tqdm import tqdm

from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.batches.augment import lead_in_samples
from slap_jax.data.batches.labels import CaptionPolicy, MissingCaptionError, caption_policy, choose_caption
from slap_jax.data.batches.stream import derive_seed, generator_at, mixing_weights
from slap_jax.data.clip_statistics import ClipStatistics, loudness
from slap_jax.data.index import open_index
from slap_jax.data.inspect.packing_forecast import Forecast, RowSize, clips_needed, forecast
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.records import Record, Records, RecordsError, open_split
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.errors import UserError

SAMPLED_CLIPS = 1_000
CLIPPED_RUN = 3  # consecutive samples at full scale
_CHUNK = 1 << 20  # durations per update of the histogram


class StatisticsError(UserError, ValueError):
    """There is nothing to measure."""


@dataclasses.dataclass(frozen=True)
class ClipMeasures:
    """Measurements of one clip.

    Attributes:
        record: as stored, without its audio.
        samples: used by training: all, or a crop of `config.data.max_seconds`.
        loudness_dbfs: root mean square relative to full scale (a full-scale sine: -3.0).
        clipped: whether `CLIPPED_RUN` consecutive samples are at full scale.
        frames: number of log-mel frames of the used samples.
        mel_sum: sum over these frames for each band.
        mel_squares: sum of squares over these frames for each band.
        has_caption: whether training has a caption for it, or makes one from its labels.
        tokens: length of that caption after truncation; 0 without a tokenizer or a caption.
        caption_tokens: untruncated length of each caption; empty without a tokenizer.
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
    """Statistics of one source.

    Attributes:
        path: path of the prepared data.
        split: name, or several joined by "+".
        clips: number of clips in the split.
        measured: the decoded clips in stored order.
        timed: number of clips with known duration: all if the data have an index, else the measured ones.
        seconds: total duration of the timed clips.
        longest: duration of the longest timed clip in seconds.
        distributions: durations of the timed clips and loudness of the measured clips.
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
class MixtureStatistics:
    """Statistics of a training mixture.

    Attributes:
        sources: sources in the order of the config.
        fractions: fraction of each source in the stream of clips.
        mean: mean of the log-mel over all frames and bands of the stream, for `config.audio.mean`.
        std: standard deviation, for `config.audio.std`.
        band_mean: mean of each band.
        band_std: standard deviation of each band.
        max_caption_tokens: length at which captions are cut; None without a tokenizer.
        packing: how full rows will be.
    """

    sources: dict[str, SourceStatistics]
    fractions: dict[str, float]
    mean: float
    std: float
    band_mean: Float[np.ndarray, " mels"]
    band_std: Float[np.ndarray, " mels"]
    max_caption_tokens: int | None
    packing: Forecast


def measure_mixture(
    config: ConfigDict, tokenizer: Tokenizer | None = None, clips: int = SAMPLED_CLIPS, seed: int = 0
) -> MixtureStatistics:
    """Measures the sources of `config.data.train` and forecasts the rows of their mixture.

    Args:
        config: `audio` (except mean and std) and `data` are used.
        tokenizer: tokenizer of the captions; None leaves tokens uncounted and text out of the forecast.
        clips: largest number of clips to decode per source.
        seed: seed of the sample, its captions and crops.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        StatisticsError: there is no source, a source is empty, or no sampled clip has a caption or label.
        PackingError: a clip does not fit into a row.
    """
    data = config.data
    if not data.train or clips < 1:
        raise StatisticsError(
            f"{len(data.train)} sources and {clips} clips per source to measure; expected at least one of each: name a "
            "source in config.data.train, or raise --clips"
        )
    sources = {
        name: measure_source(name, open_split(source.path, source.split), config, tokenizer, clips, seed)
        for name, source in data.train.items()
    }
    weights = [float(data.train[name].weight) for name in sources]
    fractions = mixing_weights(weights, [source.clips for source in sources.values()], data.temperature)
    mean, squares = _mixed_mel(list(sources.values()), fractions)
    return MixtureStatistics(
        sources=sources,
        fractions=dict(zip(sources, fractions, strict=True)),
        mean=float(mean.mean()),
        std=float(np.sqrt(max(0.0, squares.mean() - mean.mean() ** 2))),
        band_mean=mean,
        band_std=np.sqrt(np.maximum(0.0, squares - mean**2)),
        max_caption_tokens=data.max_caption_tokens if tokenizer else None,
        packing=_forecast(list(sources.values()), fractions, config, tokenizer is not None, seed),
    )


def measure_source(
    name: str, records: Records, config: ConfigDict, tokenizer: Tokenizer | None, clips: int, seed: int
) -> SourceStatistics:
    """Measures a seeded sample of one source.

    Args:
        name: name of the source in `config.data.train`.
        records: its split.
        config: `audio` and `data` are used.
        tokenizer: tokenizer of the captions, or None.
        clips: largest number of clips to decode.
        seed: seed of the sample, its captions and crops.

    Raises:
        StatisticsError: the split has no clips.
    """
    if not len(records):
        raise StatisticsError(f"split {records.split!r} of {records.path} has no clips; expected at least one")
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
    """Returns the samples of all clips from the index; without an index, those of the measured clips."""
    try:
        return open_index(records.path, records.split).samples
    except RecordsError:  # an older version or another builder prepared the data
        return np.array([round(clip.record.duration_s * SAMPLE_RATE) for clip in measured], np.int64)


def measure_clip(
    record: Record,
    config: ConfigDict,
    policy: CaptionPolicy,
    tokenizer: Tokenizer | None,
    generator: np.random.Generator,
) -> ClipMeasures:
    """Measures one clip: the log-mel of the crop that training uses, the loudness of the whole clip.

    Raises:
        AudioError: the record's audio is damaged.
    """
    data, waveform = config.data, record.waveform()
    try:
        caption = choose_caption(record, policy, generator)
    except MissingCaptionError:
        caption = None
    max_samples = round(data.max_seconds * SAMPLE_RATE)
    start = int(generator.integers(len(waveform) - max_samples + 1)) if len(waveform) > max_samples else 0
    part = waveform[start : start + max_samples]
    mel = clip_log_mel(part, config.audio)
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
    """Returns whether `CLIPPED_RUN` consecutive samples have the largest or the smallest int16 value."""
    limits = np.iinfo(np.int16)
    for limit in (limits.min, limits.max):
        ends = np.flatnonzero(np.diff(np.concatenate([[False], waveform == limit, [False]]).astype(np.int8)))
        if len(ends) and (ends[1::2] - ends[::2]).max() >= CLIPPED_RUN:
            return True
    return False


def _mixed_mel(
    sources: Sequence[SourceStatistics], fractions: Sequence[float]
) -> tuple[Float[np.ndarray, " mels"], Float[np.ndarray, " mels"]]:
    """Returns mean and mean square of each band over the frames of the stream, in which longer clips weigh more."""
    frames, total, squares = 0.0, 0.0, 0.0
    for source, fraction in zip(sources, fractions, strict=True):
        each = fraction / len(source.measured)
        frames += each * sum(clip.frames for clip in source.measured)
        total += each * np.sum([clip.mel_sum for clip in source.measured], axis=0)
        squares += each * np.sum([clip.mel_squares for clip in source.measured], axis=0)
    return np.asarray(total / frames), np.asarray(squares / frames)


def _forecast(
    sources: Sequence[SourceStatistics], fractions: Sequence[float], config: ConfigDict, with_text: bool, seed: int
) -> Forecast:
    """Packs clips drawn from the sample in the proportions of the mixture."""
    data = config.data
    row = RowSize(data.columns, data.slots, data.text_tokens, data.packing_bins)
    sizes, probabilities = [], []
    for source, fraction in zip(sources, fractions, strict=True):
        usable = [clip for clip in source.measured if clip.has_caption]
        sizes += [(clip.samples, clip.tokens) for clip in usable]
        probabilities += [fraction / max(1, len(usable))] * len(usable)
    if not sizes:
        raise StatisticsError("no sampled clip has a caption or a label to make one from; expected at least one")
    samples, tokens = np.array(sizes, np.int64).T
    weights = np.array(probabilities) / sum(probabilities)
    count = clips_needed(float(weights @ samples) / samples_per_column(config.audio), row)
    drawn = np.random.default_rng(derive_seed(seed, "forecast")).choice(len(sizes), count, p=weights)
    samples = samples[drawn]
    room = round(data.max_seconds * SAMPLE_RATE) - samples
    uniform = np.random.default_rng(derive_seed(seed, "lead-in")).random(count)
    samples += lead_in_samples(data.augment.lead_in_seconds, room, uniform)
    columns = np.maximum(1, -(-samples // samples_per_column(config.audio)))
    return forecast(columns, tokens[drawn] if with_text else None, row)
