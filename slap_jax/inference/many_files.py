"""Runs a model on many files, some of which may be bad: files are read ahead in groups, and results come in order.

A file gets the same result as in a call of the Python API with its path. The only difference is that a bad file becomes
an item among the results instead of an exception, so that it does not end the job.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError, check_name
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.folders import walk_files
from slap_jax.data.processes import map_in_order
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, DecodedFile, SilenceCheck, silence_error, stream_item

GROUP = 32  # clips that run together; as many more are read meanwhile
_READERS = 4

Result = TypeVar("Result")


class NoInputError(UserError, ValueError):
    """The arguments name no audio file, or only bad ones."""


def audio_files(folder: Path) -> Iterator[str | Rejection]:
    """Lists the audio files below a folder, except hidden ones.

    Yields:
        Paths relative to the folder, with "/", in a stable order; a rejection for each folder that cannot be read.
    """
    for entry in walk_files(folder):
        if isinstance(entry, Rejection):
            yield entry
        elif entry.suffix.lower() in AUDIO_SUFFIXES:
            yield str(entry)


def over_files(
    files: Iterable[str],
    run_clips: Callable[[list[DecodedFile]], Sequence[Result]],
    run_long: Callable[[Audio], Result],
    rate: int,
    long_seconds: float,
    group_size: int = GROUP,
) -> Generator[tuple[str, Result | AudioError], None, None]:
    """Computes a result for each file. A silent file is a bad one, as it is in the Python API.

    Args:
        files: paths.
        run_clips: computes results of at most `group_size` clips of up to `long_seconds` together.
        run_long: computes the result of a longer recording, given its path.
        rate: sample rate of the clips, in Hz.
        long_seconds: longest duration of a clip.
        group_size: largest number of clips that run together.

    Yields:
        Each path, in order, with its result or with the error of a bad file.
    """

    def read(file: str) -> tuple[str, DecodedFile | str | AudioError]:
        return file, _read(file, rate, long_seconds)

    with contextlib.closing(map_in_order(read, files, _READERS, group_size)) as items:
        while group := list(itertools.islice(items, group_size)):
            results = _run_clips(run_clips, [item for _, item in group if isinstance(item, DecodedFile)])
            for file, item in group:
                if isinstance(item, AudioError):
                    yield file, item
                elif isinstance(item, DecodedFile):
                    yield file, next(results)
                else:
                    yield file, _run_long(run_long, item)


def _read(file: str, rate: int, long_seconds: float) -> DecodedFile | str | AudioError:
    """Returns the decoded file, its path if the recording is long, or the error.

    The duration is that of the samples, because headers may state another; at most `long_seconds` are held.
    """
    check, blocks, size = SilenceCheck(), [], 0
    try:
        check_name(file)
        with contextlib.closing(stream_item(file, rate)) as stream:
            for block in stream:
                check.hear(block)
                size += block.size
                if size <= long_seconds * rate:
                    blocks.append(block)
                elif not check.silent:
                    return file
    except AudioError as error:
        return error
    if check.silent:
        return silence_error(file)
    return DecodedFile(file, np.concatenate(blocks), rate)


def _run_clips(
    run_clips: Callable[[list[DecodedFile]], Sequence[Result]], clips: list[DecodedFile]
) -> Iterator[Result | AudioError]:
    """Runs clips together, or if that fails because of one of them, one by one."""
    try:
        return iter(run_clips(clips) if clips else [])
    except AudioError:
        return iter([_run_clip(run_clips, clip) for clip in clips])


def _run_clip(run_clips: Callable[[list[DecodedFile]], Sequence[Result]], clip: DecodedFile) -> Result | AudioError:
    try:
        return run_clips([clip])[0]
    except AudioError as error:
        return _without_index(error)


def _run_long(run_long: Callable[[Audio], Result], item: str) -> Result | AudioError:
    try:
        return run_long(item)
    except AudioError as error:
        return _without_index(error)


def _without_index(error: AudioError) -> AudioError:
    """Returns the error of a list of one clip without the index of the clip: the path follows it."""
    return AudioError(str(error).removeprefix("clip 0: "), error.reason)
