"""Runs a model on many files, some of which may be bad: files are read ahead in groups, and results come in order.

A file gets the same result as in a call of the Python API with its path. The only difference is that a bad file becomes
an item among the results instead of an exception, so that it does not end the job.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar

import numpy as np
import soundfile

from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError, check_name
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.folders import walk_files
from slap_jax.data.processes import map_in_order
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import SILENT_PEAK, Audio, DecodedFile, load_audio

_GROUP = 32  # clips that run together; as many more are read meanwhile
_READERS = 4
_BLOCK_FRAMES = 1 << 16

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
    *,
    skip_silent: bool = False,
) -> Generator[tuple[str, Result | AudioError], None, None]:
    """Computes a result for each file.

    Args:
        files: paths.
        run_clips: computes results of at most 32 clips of up to `long_seconds` together.
        run_long: computes the result of a longer recording, which is a path where its format can be streamed.
        rate: sample rate of the clips, in Hz.
        long_seconds: longest duration of a clip.
        skip_silent: treat a silent file as a bad one. Otherwise it gets a result like any other file.

    Yields:
        Each path, in order, with its result or with the error of a bad file.
    """

    def read(file: str) -> tuple[str, Audio | AudioError]:
        return file, _read(file, rate, long_seconds, skip_silent)

    with contextlib.closing(map_in_order(read, files, _READERS, _GROUP)) as items:
        while group := list(itertools.islice(items, _GROUP)):
            clips = [item for _, item in group if _is_clip(item, long_seconds)]
            results = iter(run_clips(clips) if clips else [])
            for file, item in group:
                if isinstance(item, AudioError):
                    yield file, item
                elif _is_clip(item, long_seconds):
                    yield file, next(results)
                else:
                    yield file, _run_long(run_long, item)


def _is_clip(item: Audio | AudioError, long_seconds: float) -> TypeGuard[DecodedFile]:
    return isinstance(item, DecodedFile) and len(item.samples) <= long_seconds * item.sample_rate


def _read(file: str, rate: int, long_seconds: float, skip_silent: bool) -> Audio | AudioError:
    """Returns the decoded file, its path if the recording is long, or the error."""
    try:
        check_name(file)
        if _seconds_by_header(file) > long_seconds:
            return _silent(file) if skip_silent and _is_silent(file) else file
        samples = load_audio(file, rate)
    except AudioError as error:
        return error
    if skip_silent and float(np.abs(samples).max()) < SILENT_PEAK:
        return _silent(file)
    # May still be long: the header of a video is not read above, and that of a stream may be wrong.
    return DecodedFile(file, samples, rate)


def _silent(file: str) -> AudioError:
    return AudioError(f"{file} is silent: no sample reaches one step of 16 bits; leave it out", "silent_audio")


def _is_silent(file: str) -> bool:
    """Reads a long file up to its first sound; damage is left to the reader of the model, which reports it."""
    try:
        with soundfile.SoundFile(file) as opened:
            while len(block := opened.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                if not float(np.abs(block).max()) < SILENT_PEAK:  # NaN is not silence
                    return False
    except (soundfile.SoundFileError, RuntimeError):
        return False
    return True


def _seconds_by_header(file: str) -> float:
    """Returns the duration that the header states, or 0 if it states none; such a file is decoded to find out."""
    try:
        info = soundfile.info(file)
    except (soundfile.SoundFileError, RuntimeError):
        return 0.0
    return info.frames / info.samplerate if 0 < info.frames < 1 << 60 else 0.0


def _run_long(run_long: Callable[[Audio], Result], item: Audio) -> Result | AudioError:
    try:
        return run_long(item)
    except AudioError as error:
        return error
