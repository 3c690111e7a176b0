"""Overlapping windows over a stream of samples, and one answer per moment from what overlapping windows say."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Window(NamedTuple):
    """A part of a recording.

    Attributes:
        start: its first sample in the recording.
        samples: mono.
    """

    start: int
    samples: Float[np.ndarray, " n"]


def overlapping_windows(blocks: Iterable[Float[np.ndarray, " n"]], length: int, hop: int) -> Iterator[Window]:
    """Cuts a stream into windows; at most one window and one block of samples are held.

    Args:
        blocks: the samples of a recording in order, in pieces of any size.
        length: samples of a window.
        hop: samples from the start of one window to that of the next, at most `length`.

    Yields:
        Windows that start at 0, hop, 2 hop, ... The last one ends with the recording and is shorter than the others
        but longer than their overlap, length - hop. A recording of up to `length` samples is one window.
    """
    start, held = 0, np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block]) if held.size else block
        while held.size > length:
            yield Window(start, held[:length])
            start, held = start + hop, held[hop:]
    yield Window(start, held)


def join_columns(parts: Iterable[tuple[int, Float[np.ndarray, "n X"]]]) -> Float[np.ndarray, "c X"]:
    """Takes each column of a recording from the window in which it is most central.

    Args:
        parts: (first column, value of each column) of each window in order; a window overlaps only its neighbours.

    Returns:
        The value of each column of the recording.
    """
    kept: list[np.ndarray] = []
    taken, previous_start, previous = 0, 0, None
    for start, values in parts:
        if previous is not None:
            middle = (start + previous_start + len(previous)) // 2  # of the overlap
            kept.append(previous[taken - previous_start : middle - previous_start])
            taken = middle
        previous_start, previous = start, values
    assert previous is not None, "a recording has a window"
    return np.concatenate([*kept, previous[taken - previous_start :]])
