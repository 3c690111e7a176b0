"""The packed batch: fixed shapes in which several clips share a row, and the segment ids that keep them apart."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

# NumPy on the host, `jax.Array` on the devices, `jax.ShapeDtypeStruct` where only shapes matter.
Array = Any

PADDING_SEGMENT = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """R rows of packed clips; slot k of a row is segment k + 1 of its audio and of its text.

    Attributes:
        waveform: 16 kHz samples, int16 (or float32 in [-1, 1] at inference); every clip starts on a column
            boundary and is followed by zeros up to the next one.
        audio_segment_ids: 1..K, the slot of the clip that owns the column; 0 is padding.
        audio_positions: index of the column inside its clip.
        text_tokens: captions, each `BOS ... EOS`, in the slot order of the audio.
        text_segment_ids: 1..K as for audio; 0 is padding.
        text_positions: index of the token inside its caption.
        clip_valid: whether the slot holds a clip.
        clip_key: stable hash of the clip's id; equal keys are the same recording and never negatives of each other.
        clip_source: number of the clip's source among those of `config.data.train`, which are in alphabetical order.
    """

    waveform: Shaped[Array, "R S"]
    audio_segment_ids: Int[Array, "R C"]
    audio_positions: Int[Array, "R C"]
    text_tokens: Int[Array, "R T"]
    text_segment_ids: Int[Array, "R T"]
    text_positions: Int[Array, "R T"]
    clip_valid: Bool[Array, "R K"]
    clip_key: Int[Array, "R K"]
    clip_source: Int[Array, "R K"]

    def replace(self, **changes: Any) -> "PackedBatch":
        """Returns a copy with the named fields exchanged."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelledBatch(PackedBatch):
    """A packed batch whose clips also have classes: what the classification objective needs.

    Attributes:
        clip_labels: how much each of the Y classes applies to the clip, 0 to 1; all zero for a clip without a label.
    """

    clip_labels: Float[Array, "R K Y"]


def with_labels(batch: PackedBatch, clip_labels: Array) -> LabelledBatch:
    """Returns the batch with the classes of its clips [R, K, Y]."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(PackedBatch)}
    return LabelledBatch(**fields, clip_labels=clip_labels)


def batch_shapes(
    rows: int, columns: int, slots: int, text_tokens: int, samples_per_column: int, classes: int = 0
) -> PackedBatch:
    """Returns the `jax.ShapeDtypeStruct` of every field, for ahead-of-time compilation and for checks.

    With `classes` above 0 they are those of a `LabelledBatch`.
    """
    shape = jax.ShapeDtypeStruct
    batch = PackedBatch(
        waveform=shape((rows, columns * samples_per_column), np.int16),
        audio_segment_ids=shape((rows, columns), np.int32),
        audio_positions=shape((rows, columns), np.int32),
        text_tokens=shape((rows, text_tokens), np.int32),
        text_segment_ids=shape((rows, text_tokens), np.int32),
        text_positions=shape((rows, text_tokens), np.int32),
        clip_valid=shape((rows, slots), np.bool_),
        clip_key=shape((rows, slots), np.int32),
        clip_source=shape((rows, slots), np.int32),
    )
    return with_labels(batch, shape((rows, slots, classes), np.float32)) if classes else batch
