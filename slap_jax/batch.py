"""The packed batch: several clips share a row, and segment ids keep them apart.

    row     R of them in a batch. A packed sequence: clips one after the other, then padding.
    column  C of them in a row. A time step of the audio encoder: 16 mel frames, 2,560 samples, 160 ms.
    slot    K of them in a row. The number of a clip within its row: the clip in slot k is segment k + 1 of the row's
            audio and of its text. Slots without a clip are invalid.
    T       text tokens in a row. The captions are packed in slot order.

Two rows, with C = 8, K = 3 and T = 9. The first holds a dog (4 columns) and rain (2 columns), the second a long song:

    row 0
      waveform            [dog                   ][rain      ][zeros     ]
      audio_segment_ids   1     1     1     1     2     2     0     0
      audio_positions     0     1     2     3     0     1     0     0
      text_tokens         BOS   a     dog   EOS   BOS   rain  EOS   0     0
      text_segment_ids    1     1     1     1     2     2     2     0     0
      text_positions      0     1     2     3     0     1     2     0     0
      clip_valid          True  True  False

    row 1
      waveform            [song                                          ]
      audio_segment_ids   1     1     1     1     1     1     1     1
      audio_positions     0     1     2     3     4     5     6     7
      text_tokens         BOS   a     song  EOS   0     0     0     0     0
      text_segment_ids    1     1     1     1     0     0     0     0     0
      text_positions      0     1     2     3     0     0     0     0     0
      clip_valid          True  False False

All shapes are static, so the training step compiles once. Attention never crosses a segment, so a clip's embedding does
not depend on its neighbours.
"""

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
    """R rows of packed clips; the module docstring draws two. S = C · samples per column.

    Attributes:
        waveform: 16 kHz samples, int16 (at inference also float32 in [-1, 1]). Each clip starts on a column boundary;
            the rest of its last column is zero.
        audio_segment_ids: slot + 1 of the clip that owns the column; 0 is padding.
        audio_positions: index of the column within its clip.
        text_tokens: captions, each `BOS ... EOS`, in slot order.
        text_segment_ids: slot + 1 of the clip whose caption owns the token; 0 is padding.
        text_positions: index of the token within its caption.
        clip_valid: whether the slot holds a clip.
        clip_key: stable hash of the clip's id. Clips with equal keys are the same recording, never negatives of each
            other.
        clip_source: index of the clip's source among those of `config.data.train`, in alphabetical order.
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
        """Returns a copy with the named fields replaced."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelledBatch(PackedBatch):
    """A packed batch with the classes of its clips, for the classification objective.

    Attributes:
        clip_labels: target probability of each of the Y classes, 0 to 1; all zero for a clip without a label.
    """

    clip_labels: Float[Array, "R K Y"]


def with_labels(batch: PackedBatch, clip_labels: Float[Array, "R K Y"]) -> LabelledBatch:
    """Returns the batch with the target probabilities of its clips."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(PackedBatch)}
    return LabelledBatch(**fields, clip_labels=clip_labels)


def batch_shapes(
    rows: int, columns: int, slots: int, text_tokens: int, samples_per_column: int, classes: int = 0
) -> PackedBatch:
    """Returns a `jax.ShapeDtypeStruct` for every field, for ahead-of-time compilation.

    Args:
        rows: R.
        columns: C.
        slots: K.
        text_tokens: T.
        samples_per_column: samples of one column.
        classes: Y of a `LabelledBatch`; 0 for a `PackedBatch`.
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
