"""Mixup of packed clips: another clip's sound is added to a clip before it is packed, and its classes with it.

Clips are mixed as waveforms, one by one, because rows cannot be: the clips of two rows begin and end at different
places, so that a sum of rows would mix each clip with parts of several. A mixed clip keeps its place and length; of a
longer partner a part is taken, a shorter one lies somewhere inside. The partner is first brought to the same energy, so
that the shares are shares of what is heard, and the sum keeps the energy: between-class learning (Tokozume et al.
2018, arXiv 1711.10282); classes with shares as targets: mixup (Zhang et al. 2018, arXiv 1710.09412).

What is decided about a clip before its audio is decoded: caption, tokens, part, and so the room that it takes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.audio import INT16_SCALE, decode_flac_into, flac_samples, to_int16
from slap_jax.data.batches.labels import LabelReader, caption_policy, choose_caption, reads_captions
from slap_jax.data.batches.stream import ClipReference, derive_seed, generator_at
from slap_jax.data.packing import clip_columns
from slap_jax.data.records import Record, Records
from slap_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class MixedIn:
    """A clip that is mixed into another one.

    Attributes:
        record: as stored.
        classes: numbers of its classes.
        start: its first sample that is used.
        samples: that are used.
        offset: where in the other clip they begin.
        share: of this clip, 0 to 1; the other one has the rest.
    """

    record: Record
    classes: tuple[int, ...]
    start: int
    samples: int
    offset: int
    share: float


def draw_partner(
    classes: tuple[int, ...],
    samples: int,
    records: Sequence[Record],
    labels: LabelReader,
    generator: np.random.Generator,
) -> MixedIn | None:
    """Draws whether and what is mixed into a clip.

    Args:
        classes: of the clip; one without a label stays as it is, as nothing would be known about the mixture.
        samples: of the part of the clip that is taken.
        records: of its source.
        labels: reads the classes of a record, and knows how often to mix.
        generator: of the clip's place in the stream.

    Raises:
        AudioError, LabelError: the partner's record is damaged, or its labels cannot be used.
    """
    probability, alpha = labels.mixup
    if not classes or probability == 0 or generator.random() >= probability:
        return None
    record = records[int(generator.integers(len(records)))]
    partner_classes = labels(record)
    if not partner_classes:
        return None
    stored = flac_samples(record.audio, f"record {record.source}/{record.id}")
    taken = min(stored, samples)
    start = int(generator.integers(stored - taken + 1))
    offset = int(generator.integers(samples - taken + 1))
    return MixedIn(record, partner_classes, start, taken, offset, float(generator.beta(alpha, alpha)))


def mix_into(samples: Int16[np.ndarray, " n"], mixed: MixedIn) -> None:
    """Mixes the partner into a decoded clip, in place.

    Raises:
        AudioError: the partner's audio is damaged.
    """
    record = mixed.record
    partner = np.zeros(len(samples), np.int16)
    part = partner[mixed.offset : mixed.offset + mixed.samples]
    decode_flac_into(record.audio, part, mixed.start, f"record {record.source}/{record.id}")
    samples[:] = to_int16(mix(samples / np.float32(INT16_SCALE), partner / np.float32(INT16_SCALE), mixed.share))


def mix(clip: Float[np.ndarray, " n"], partner: Float[np.ndarray, " n"], share: float) -> Float[np.ndarray, " n"]:
    """Returns `(1 - share) clip + share partner`, the partner at the clip's energy, the sum at about the same.

    Where one of the two is silent nothing is scaled.
    """
    energies = [float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (clip, partner)]
    scale = energies[0] / energies[1] if min(energies) > 0 else 1.0
    own = 1.0 - share
    mixture = np.float32(own) * clip + np.float32(share * scale) * partner
    return mixture / np.float32(np.hypot(own, share))


def write_classes(targets: Float[np.ndarray, " Y"], classes: tuple[int, ...], mixed: MixedIn | None) -> None:
    """Writes how much each class applies, into zeros: 1 for the clip's own, shares where another one is mixed in."""
    share = 0.0 if mixed is None else mixed.share
    targets[list(classes)] += 1.0 - share
    if mixed is not None:
        targets[list(mixed.classes)] += share


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedClip:
    """A clip that is ready to be packed, its audio still compressed.

    Attributes:
        reference: its place in the training stream.
        record: as stored.
        caption: drawn, whole; "" where no objective reads captions.
        tokens: its ids, `[BOS, ..., EOS]`, at most `config.data.max_caption_tokens`.
        start: first sample of the part that is taken.
        samples: of the part.
        classes: numbers of its classes, where classification is trained.
        mixed: what is mixed into it, if anything.
    """

    reference: ClipReference
    record: Record
    caption: str
    tokens: Sequence[int]
    start: int
    samples: int
    classes: tuple[int, ...] = ()
    mixed: MixedIn | None = None


class ClipPlanner:
    """Reads a clip's record, draws its caption and, where it is too long, the part of it that is taken.

    Everything drawn depends on (seed, source, place in the source's stream) alone.
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records]):
        """Keeps what is needed.

        Args:
            config: the whole config; `seed`, `audio` and `data` are used.
            tokenizer: of the captions.
            sources: the opened splits, in the order of `config.data.train`.
        """
        data = config.data
        self._records = list(sources.values())
        self._policies = [caption_policy(data.train[name].captions) for name in sources]
        self._seeds = [derive_seed(config.seed, "clips", name) for name in sources]
        self._tokenizer, self._max_caption_tokens = tokenizer, data.max_caption_tokens
        self._most_samples = round(data.max_seconds * config.audio.sample_rate)
        self._samples_per_column = samples_per_column(config.audio)
        self._labels = LabelReader(config.objectives.classification) if classes_in_batch(config) else None
        self._reads_captions = reads_captions(config)

    def __call__(self, reference: ClipReference) -> PlannedClip:
        """Plans one clip.

        Raises:
            AudioError: the record's bytes are damaged.
            CaptionError: the record has neither captions nor labels to make one of.
            LabelError: the record has several classes where one is expected.
        """
        record: Record = self._records[reference.source][reference.record]
        generator = generator_at(self._seeds[reference.source], reference.place)
        caption = ""
        if self._reads_captions:
            caption = choose_caption(record, self._policies[reference.source], generator)
        samples, start = flac_samples(record.audio, f"record {record.source}/{record.id}"), 0
        if samples > self._most_samples:
            start = int(generator.integers(samples - self._most_samples + 1))
            samples = self._most_samples
        tokens = self._tokenizer.encode(caption, self._max_caption_tokens) if self._reads_captions else ()
        planned = PlannedClip(reference, record, caption, tokens, start, samples)
        if self._labels is None:
            return planned
        planned = dataclasses.replace(planned, classes=self._labels(record))
        mixed = draw_partner(planned.classes, samples, self._records[reference.source], self._labels, generator)
        return dataclasses.replace(planned, mixed=mixed)

    def size_of(self, clip: PlannedClip) -> tuple[int, int]:
        """Returns the columns and text tokens that a clip takes in a row."""
        return clip_columns(clip.samples, self._samples_per_column), len(clip.tokens)
