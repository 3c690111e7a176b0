"""Recordings of any length: overlapping windows over a stream, and results with times in seconds.

A recording is decoded block by block and cut into segments, which run through the model as they arrive, so memory does
not grow with its length. A recording no longer than the clips of training is one segment, and its result is exactly
that of the model. The results of several segments are combined in one of two ways: as a mean weighted by duration
(`mean_embedding`, `mean_over_segments`), or column by column (`join_columns`).
"""

import contextlib
import itertools
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import AudioError
from slap_jax.data.packing import clip_columns
from slap_jax.data.processes import map_in_order
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, Recordings, SilenceCheck, display_name, silence_error, stream_item
from slap_jax.inference.embedder import AudioProgram, Embedder

DECODE_THREADS = max(2, min(8, os.cpu_count() or 1))
AHEAD = 2 * DECODE_THREADS  # recordings whose first window is decoded ahead of the model

_USUAL_MAX_SECONDS = 30.0  # longest clips of training, for exports that do not state it
_FEWEST_COLUMNS = 3  # of a window that shares a third with the next

Samples = Float[np.ndarray, " n"]


class WindowError(UserError, ValueError):
    """Window settings that cannot cut a recording."""


class WindowSpec(NamedTuple):
    """How a recording is cut into windows.

    Attributes:
        length: samples of a window.
        hop: samples from the start of a window to the start of the next, at most `length`.
        whole_up_to: a recording of up to this many samples is a single window.
    """

    length: int
    hop: int
    whole_up_to: int = 0


WHOLE = WindowSpec(sys.maxsize, sys.maxsize)  # every recording is a single window


class Segment(NamedTuple):
    """Position of a window in a list of recordings.

    Attributes:
        recording: index in the list.
        start: first sample.
        length: length in samples.
    """

    recording: int
    start: int
    length: int


class Windows(NamedTuple):
    """Embeddings of overlapping windows of a recording.

    Attributes:
        start: start of each window, in seconds.
        end: end of each window, in seconds; the last one is the end of the recording.
        embeddings: fp32 unit vectors.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    embeddings: Float[np.ndarray, "w E"]


class Frames(NamedTuple):
    """Dense features of a recording, one per column of patches (160 ms).

    Attributes:
        start: start of each column, in seconds.
        end: end of each column, in seconds; the last one is the end of the recording.
        features: fp32, the mean over the patches (frequency bands) of a column.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    features: Float[np.ndarray, "c D"]


class Scores(NamedTuple):
    """Similarity of each moment of a recording with texts.

    Attributes:
        start: start of each column, in seconds.
        end: end of each column, in seconds; the last one is the end of the recording.
        scores: cosine, -1 to 1, of the embedding of the column with each text.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    scores: Float[np.ndarray, "c m"]


class WindowCaptions(NamedTuple):
    """Captions of windows of a recording.

    Attributes:
        start: start of each window, in seconds.
        end: end of each window, in seconds; the last one is the end of the recording.
        texts: caption of each window.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    texts: list[str]


# Window specifications -----------------------------------------------------------------------------------------------


def context_windows(seconds: float, rate: int, per_column: int) -> WindowSpec:
    """Returns windows that fill a context of `seconds`: whole columns, sharing a third of their length with the next.

    A recording of up to `seconds` is a single window.

    Args:
        seconds: longest window.
        rate: sample rate, in Hz.
        per_column: samples per column.

    Raises:
        WindowError: `seconds` is not a finite number, or shorter than three columns.
    """
    if not isinstance(seconds, numbers.Real) or not math.isfinite(seconds):
        raise WindowError(
            f"window_seconds is {seconds!r}; write a number of seconds, 1 or more, or None for no windows"
        )
    if int(seconds * rate) // per_column < _FEWEST_COLUMNS:
        raise WindowError(f"windows of {seconds} s are too short; write 1 or more")
    return _context_windows(int(seconds * rate), per_column)


def windows_of_training(config: ConfigDict) -> WindowSpec:
    """Returns the windows of recordings that are longer than the clips a model was trained on.

    Args:
        config: config of a run or an export; `data.max_seconds` and `audio` are read.
    """
    return _context_windows(int(longest_clip(config) * config.audio.sample_rate), samples_per_column(config.audio))


def longest_clip(config: ConfigDict) -> float:
    """Returns the duration of the longest clips of training in seconds; 30 for exports that do not state it."""
    return float(config.data.get("max_seconds", _USUAL_MAX_SECONDS))


def regular_windows(seconds: float, hop: float | None, rate: int, overlap: float = 0.0) -> WindowSpec:
    """Returns windows of `seconds` every `hop` seconds.

    Args:
        seconds: length of a window.
        hop: time from the start of a window to the start of the next; None for `(1 - overlap) * seconds`.
        rate: sample rate, in Hz.
        overlap: fraction of a window that it shares with the next, if `hop` is None.

    Raises:
        WindowError: unless 0 < hop <= seconds.
    """
    numeric = all(isinstance(value, numbers.Real) for value in (seconds, 0.0 if hop is None else hop))
    step = (1 - overlap) * seconds if numeric and hop is None else hop
    if not numeric or step is None or not 0 < step <= seconds < math.inf or round(step * rate) < 1:
        raise WindowError(f"windows of {seconds} s every {step} s were requested; expected 0 < hop <= seconds")
    return WindowSpec(round(seconds * rate), round(step * rate))


def _context_windows(longest: int, per_column: int) -> WindowSpec:
    columns = max(longest // per_column, _FEWEST_COLUMNS)
    return WindowSpec(columns * per_column, -(-columns * 2 // 3) * per_column, longest)


# Segments ------------------------------------------------------------------------------------------------------------


def cut_windows(blocks: Iterable[Samples], spec: WindowSpec) -> Iterator[tuple[int, Samples]]:
    """Cuts a stream of samples into windows, with at most one window and one block in memory.

    Args:
        blocks: samples of a recording, in blocks of any size.
        spec: how to cut.

    Yields:
        First sample and samples of each window. Windows start at 0, hop, 2 hop, ... The last one ends with the
        recording; it may be shorter than the others but is longer than their overlap, length - hop.
    """
    start, limit = 0, max(spec.length, spec.whole_up_to)
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.size
        if size > limit:
            samples, limit = np.concatenate(held), spec.length
            while samples.size > spec.length:
                yield start, samples[: spec.length]
                start, samples = start + spec.hop, samples[spec.hop :]
            held, size = [samples], samples.size
    yield start, np.concatenate(held)


def decode_segments(recordings: Recordings, rate: int, spec: WindowSpec) -> Iterator[tuple[Segment, Samples]]:
    """Decodes recordings and cuts them into windows.

    Threads decode the first windows of the next `AHEAD` recordings; the later windows of a long recording are decoded
    when they are needed.

    Args:
        recordings: the recordings, and how to read them.
        rate: sample rate of the result, in Hz.
        spec: how to cut.

    Yields:
        Position and samples of the windows of the first recording, then of the second, and so on.

    Raises:
        AudioError: when the iteration reaches a recording that cannot be read, or the end of one that is silent.
    """
    clips = recordings.clips

    def start(index: int) -> tuple[int, Iterator[tuple[int, Samples]]]:
        item, name = clips[index], recordings.name(index)
        blocks = stream_item(item, rate, name, recordings.array_rate)
        if not recordings.allow_silence:
            blocks = _refuse_silence(blocks, _name_in_messages(item, name))
        windows = cut_windows(blocks, spec)
        return index, itertools.chain([next(windows)], windows)

    with contextlib.closing(map_in_order(start, range(len(clips)), DECODE_THREADS, AHEAD)) as started:
        for index, windows in started:
            for first, samples in windows:
                yield Segment(index, first, len(samples)), samples


def stream_segments(
    embedder: Embedder,
    program: AudioProgram,
    recordings: Recordings,
    spec: WindowSpec,
) -> Iterator[tuple[Segment, np.ndarray]]:
    """Runs a program on the windows of recordings, with few windows in memory at a time.

    Args:
        embedder: embedder of the program.
        program: see `Embedder.audio_program`.
        recordings: the recordings, and how to read them.
        spec: how to cut them.

    Yields:
        Position of each window and its row of the result, in the order that `LengthBucketing.stream` documents.

    Raises:
        AudioError: see `decode_segments`.
    """
    segments = decode_segments(recordings, embedder.config.audio.sample_rate, spec)
    for (segment, _), row in embedder.stream_audio(program, segments, lambda item: item[1]):
        yield segment, row


def outputs_per_recording(
    embedder: Embedder,
    program: AudioProgram,
    recordings: Recordings,
    spec: WindowSpec,
    show_progress: bool = False,
) -> list[list[tuple[Segment, np.ndarray]]]:
    """Runs `stream_segments` and groups the results by recording, the windows of each in order.

    Args:
        embedder: embedder of the program.
        program: see `Embedder.audio_program`.
        recordings: the recordings, and how to read them.
        spec: how to cut them.
        show_progress: whether to count the recordings in a progress bar on standard error.

    Raises:
        AudioError: see `decode_segments`; or a result is not finite.
    """
    results: list[list[tuple[Segment, np.ndarray]]] = [[] for _ in recordings.clips]
    with tqdm(total=len(results), unit=" clips", disable=not show_progress) as bar:
        for segment, row in stream_segments(embedder, program, recordings, spec):
            _check_finite(row, recordings, segment.recording)
            bar.update(not results[segment.recording])
            results[segment.recording].append((segment, row))
    return [sorted(outputs, key=lambda output: output[0].start) for outputs in results]


def column_outputs(
    embedder: Embedder,
    program: AudioProgram,
    recording: Recordings,
    spec: WindowSpec,
    reduce: Callable[[Float[np.ndarray, "n D"]], Float[np.ndarray, "n X"]],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"], Float[np.ndarray, "c X"]]:
    """Runs a program with one output per column on a recording.

    Args:
        embedder: embedder of the program.
        program: see `Embedder.audio_program`.
        recording: a single one.
        spec: windows of whole columns.
        reduce: maps the outputs of a window to what is kept of them.

    Returns:
        Starts and ends of the columns in seconds, and the reduced outputs; each column comes from the window in which
        it is most central.
    """
    rate, per_column = embedder.config.audio.sample_rate, embedder.per_column
    parts, samples = [], 0
    for segment, outputs in stream_segments(embedder, program, recording, spec):
        own = outputs[: clip_columns(segment.length, per_column)]
        _check_finite(own, recording, 0)
        parts.append((segment.start // per_column, reduce(own)))
        samples = max(samples, segment.start + segment.length)
    values = join_columns(sorted(parts, key=lambda part: part[0]))
    start = np.arange(len(values)) * (per_column / rate)
    return start, np.minimum(start + per_column / rate, samples / rate), values


def segment_times(segments: Sequence[Segment], rate: int) -> tuple[Float[np.ndarray, " w"], Float[np.ndarray, " w"]]:
    """Returns starts and ends of segments, in seconds."""
    start = np.array([segment.start for segment in segments]) / rate
    return start, start + np.array([segment.length for segment in segments]) / rate


# One result per recording --------------------------------------------------------------------------------------------


def mean_embedding(parts: Sequence[tuple[Segment, Float[np.ndarray, " E"]]]) -> Float[np.ndarray, " E"]:
    """Returns the unit vector of a recording: the mean over its windows, weighted by duration, scaled to length 1.

    Args:
        parts: unit vectors of its windows, in any order. A single one is returned unchanged.
    """
    if len(parts) == 1:
        return parts[0][1]
    total = _weighted_sum(parts)
    return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)


def mean_over_segments(parts: Sequence[tuple[Segment, Float[np.ndarray, " Y"]]]) -> Float[np.ndarray, " Y"]:
    """Returns the mean over the windows of a recording, weighted by duration.

    Args:
        parts: values of its windows, in any order. A single one is returned unchanged.
    """
    if len(parts) == 1:
        return parts[0][1]
    return (_weighted_sum(parts) / sum(segment.length for segment, _ in parts)).astype(np.float32)


def join_columns(parts: Iterable[tuple[int, Float[np.ndarray, "n X"]]]) -> Float[np.ndarray, "c X"]:
    """Takes each column of a recording from the window in which it is most central.

    Args:
        parts: (first column, values of the columns) of each window, in order; a window overlaps only its neighbours.

    Returns:
        The value of each column of the recording.
    """
    chosen: list[np.ndarray] = []
    taken, previous_start, previous = 0, 0, None
    for start, values in parts:
        if previous is not None:
            middle = (start + previous_start + len(previous)) // 2  # of the overlap
            chosen.append(previous[taken - previous_start : middle - previous_start])
            taken = middle
        previous_start, previous = start, values
    assert previous is not None, "a recording has at least one window"
    return np.concatenate([*chosen, previous[taken - previous_start :]])


def _weighted_sum(parts: Sequence[tuple[Segment, np.ndarray]]) -> Float[np.ndarray, " X"]:
    # In order of time: another order of summation would change the last bits.
    ordered = sorted(parts, key=lambda part: part[0].start)
    return np.sum([segment.length * values.astype(np.float64) for segment, values in ordered], axis=0)


def _refuse_silence(blocks: Iterator[Samples], name: str) -> Iterator[Samples]:
    """Passes blocks through, and raises at the end if the whole recording is silent."""
    check = SilenceCheck()
    for block in blocks:
        check.hear(block)
        yield block
    if check.silent:
        raise silence_error(name)


def _check_finite(values: np.ndarray, recordings: Recordings, index: int) -> None:
    """Raises `AudioError` if a result holds NaN or infinity: it could be neither compared nor written as JSON."""
    if not np.isfinite(values).all():
        raise AudioError(
            f"{_name_in_messages(recordings.clips[index], recordings.name(index))} has no finite result; its samples "
            "are out of range, so leave it out, or the weights are damaged, which `slap doctor` shows",
            "nonfinite_result",
        )


def _name_in_messages(item: Audio, name: str) -> str:
    """Returns the index and the path of a clip, as the errors of `stream_item` do."""
    shown = display_name(item, name)
    return f"{name}: {shown}" if name and shown != name else shown
