"""Mixup of packed clips: another clip's sound is added to a clip before it is packed, and its classes with it.

Clips are mixed as waveforms, one by one, because rows cannot be: the clips of two rows begin and end at different
places, so that a sum of rows would mix each clip with parts of several. A mixed clip keeps its place and length; of a
longer partner a part is taken, a shorter one lies somewhere inside. The partner is first brought to the same energy, so
that the shares are shares of what is heard, and the sum keeps the energy: between-class learning (Tokozume et al.
2018, arXiv 1711.10282); classes with shares as targets: mixup (Zhang et al. 2018, arXiv 1710.09412).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16

from slap_jax.data.audio import INT16_SCALE, decode_flac_into, flac_samples, to_int16
from slap_jax.data.batches.labels import LabelReader
from slap_jax.data.records import Record


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
