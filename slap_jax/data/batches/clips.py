"""Planning of clips: caption, tokens, crop, lead-in and mixup partner are chosen before any audio is decoded.

Mixup adds the sound of a partner clip to a clip before it is packed, and combines their classes. Clips are mixed one by
one, not as rows, because the clips of two rows start and end at different positions. The mixture keeps the position and
the length of the first clip: a longer partner is cropped, a shorter one is placed at a random offset. With fraction p,

    mixture = ((1 - p) clip + p g partner) / sqrt((1 - p)^2 + p^2),   g = rms(clip) / rms(partner)
    targets = (1 - p) classes + p classes of the partner

so that both sounds have the same energy before they are weighted, and the mixture keeps it: between-class learning
(Tokozume et al. 2018, arXiv 1711.10282), mixup (Zhang et al. 2018, arXiv 1710.09412).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.audio import INT16_SCALE, decode_flac_into, flac_samples, to_int16
from slap_jax.data.batches.augment import lead_in_samples
from slap_jax.data.batches.labels import LabelReader, caption_policy, choose_caption, reads_captions
from slap_jax.data.batches.stream import ClipReference, derive_seed, generator_at
from slap_jax.data.packing import clip_columns
from slap_jax.data.records import Record, Records
from slap_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class MixedIn:
    """The partner that mixup adds to a clip.

    Attributes:
        record: as stored.
        classes: indices of its classes.
        start: first sample of the partner that is used.
        samples: number of samples that are used.
        offset: position in the clip where they are added.
        fraction: p of the partner, 0 to 1; the clip has 1 - p.
    """

    record: Record
    classes: tuple[int, ...]
    start: int
    samples: int
    offset: int
    fraction: float


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedClip:
    """A clip that is ready to be packed; its audio is still compressed.

    Attributes:
        reference: its position in the training stream.
        record: as stored.
        caption: the chosen caption, uncut; "" if no objective reads captions.
        tokens: ids of the caption, `[BOS, ..., EOS]`, at most `config.data.max_caption_tokens`.
        start: first sample of the crop.
        samples: length of the crop.
        classes: indices of its classes, if classification is trained.
        mixed: the mixup partner, if any.
        lead_in: samples of silence before the crop.
    """

    reference: ClipReference
    record: Record
    caption: str
    tokens: Sequence[int]
    start: int
    samples: int
    classes: tuple[int, ...] = ()
    mixed: MixedIn | None = None
    lead_in: int = 0

    def columns(self, samples_per_column: int) -> int:
        """Returns the number of columns that the clip occupies with its lead-in."""
        return clip_columns(self.lead_in + self.samples, samples_per_column)


class ClipPlanner:
    """Reads a clip's record and chooses its caption, its crop, its lead-in and its mixup partner.

    Every random choice depends only on (seed, source, position in the source's stream).
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records]):
        """Reads the settings once, because looking into a config is slow.

        Args:
            config: the whole config; `seed`, `audio`, `data` and `objectives` are used.
            tokenizer: tokenizer of the captions.
            sources: the opened splits, in the order of `config.data.train`.
        """
        data = config.data
        self._records = list(sources.values())
        self._policies = [caption_policy(data.train[name].captions) for name in sources]
        self._seeds = [derive_seed(config.seed, "clips", name) for name in sources]
        # From a generator apart, so that the other choices are the same with and without a lead-in.
        self._lead_in_seeds = [derive_seed(config.seed, "lead-in", name) for name in sources]
        self._lead_in_seconds: float = data.augment.lead_in_seconds
        self._tokenizer, self._max_caption_tokens = tokenizer, data.max_caption_tokens
        self._max_samples = round(data.max_seconds * config.audio.sample_rate)
        self._samples_per_column = samples_per_column(config.audio)
        self._labels = LabelReader(config.objectives.classification) if classes_in_batch(config) else None
        self._reads_captions = reads_captions(config)

    def __call__(self, reference: ClipReference) -> PlannedClip:
        """Plans one clip.

        Raises:
            AudioError: the record's bytes are damaged.
            MissingCaptionError: the record has neither captions nor labels to make one of.
            LabelError: the record has several classes where one is expected.
        """
        record: Record = self._records[reference.source][reference.record]
        generator = generator_at(self._seeds[reference.source], reference.position)
        caption = ""
        if self._reads_captions:
            caption = choose_caption(record, self._policies[reference.source], generator)
        samples, start = flac_samples(record.audio, f"record {record.source}/{record.id}"), 0
        if samples > self._max_samples:
            start = int(generator.integers(samples - self._max_samples + 1))
            samples = self._max_samples
        tokens = self._tokenizer.encode(caption, self._max_caption_tokens) if self._reads_captions else ()
        lead_in = 0
        if self._lead_in_seconds > 0:
            uniform = generator_at(self._lead_in_seeds[reference.source], reference.position).random()
            lead_in = int(lead_in_samples(self._lead_in_seconds, self._max_samples - samples, uniform))
        planned = PlannedClip(reference, record, caption, tokens, start, samples, lead_in=lead_in)
        if self._labels is None:
            return planned
        planned = dataclasses.replace(planned, classes=self._labels(record))
        mixed = draw_partner(planned.classes, samples, self._records[reference.source], self._labels, generator)
        return dataclasses.replace(planned, mixed=mixed)

    def size_of(self, clip: PlannedClip) -> tuple[int, int]:
        """Returns the number of columns and of text tokens that a clip occupies."""
        return clip.columns(self._samples_per_column), len(clip.tokens)


def draw_partner(
    classes: tuple[int, ...],
    samples: int,
    records: Sequence[Record],
    labels: LabelReader,
    generator: np.random.Generator,
) -> MixedIn | None:
    """Decides at random whether a clip is mixed, and with what.

    Args:
        classes: classes of the clip; a clip without a label is never mixed, because its target would be unknown.
        samples: length of the clip's crop.
        records: records of the clip's source, from which the partner is drawn.
        labels: reads the classes of a record, and holds the mixup settings.
        generator: random generator of the clip's position in the stream.

    Raises:
        AudioError: the partner's record is damaged.
        LabelError: the partner's labels cannot be used.
    """
    probability, alpha = labels.mixup
    if not classes or probability == 0 or generator.random() >= probability:
        return None
    record = records[int(generator.integers(len(records)))]
    partner_classes = labels(record)
    if not partner_classes:
        return None
    stored = flac_samples(record.audio, f"record {record.source}/{record.id}")
    used = min(stored, samples)
    start = int(generator.integers(stored - used + 1))
    offset = int(generator.integers(samples - used + 1))
    return MixedIn(record, partner_classes, start, used, offset, float(generator.beta(alpha, alpha)))


def mix_into(samples: Int16[np.ndarray, " n"], mixed: MixedIn) -> None:
    """Mixes the partner into a decoded clip, in place.

    Raises:
        AudioError: the partner's audio is damaged.
    """
    record = mixed.record
    partner = np.zeros(len(samples), np.int16)
    part = partner[mixed.offset : mixed.offset + mixed.samples]
    decode_flac_into(record.audio, part, mixed.start, f"record {record.source}/{record.id}")
    samples[:] = to_int16(mix(samples / np.float32(INT16_SCALE), partner / np.float32(INT16_SCALE), mixed.fraction))


def mix(clip: Float[np.ndarray, " n"], partner: Float[np.ndarray, " n"], fraction: float) -> Float[np.ndarray, " n"]:
    """Returns the mixture of the module docstring; if one of the two is silent, g is 1."""
    energies = [float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (clip, partner)]
    gain = energies[0] / energies[1] if min(energies) > 0 else 1.0
    rest = 1.0 - fraction
    mixture = np.float32(rest) * clip + np.float32(fraction * gain) * partner
    return mixture / np.float32(np.hypot(rest, fraction))


def write_classes(targets: Float[np.ndarray, " Y"], classes: tuple[int, ...], mixed: MixedIn | None) -> None:
    """Adds the targets of a clip to zeros: 1 for each of its classes, or the fractions of a mixture."""
    fraction = 0.0 if mixed is None else mixed.fraction
    targets[list(classes)] += 1.0 - fraction
    if mixed is not None:
        targets[list(mixed.classes)] += fraction
