"""Work over many files, some of which may be bad: read ahead of the model, in groups, in order."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from jaxtyping import Float

from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.folders import walk_files
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, read_audio

_GROUP = 32  # clips that are computed together; as many more are read meanwhile
_READERS = 4
_BLOCK_FRAMES = 1 << 16
_SILENT_PEAK = 2.0**-15  # one step of 16 bits

Waveform = Float[np.ndarray, " n"]
Result = TypeVar("Result")


class NoInputError(UserError, ValueError):
    """Arguments that lead to no audio file, or only to bad ones."""


def audio_files(folder: Path) -> Iterator[str | Rejection]:
    """Lists the audio files below a folder, hidden ones left out.

    Yields:
        Paths relative to the folder, with "/", in a stable order; a rejection instead of a folder that cannot be read.
    """
    for found in walk_files(folder):
        if isinstance(found, Rejection) or found.suffix.lower() in AUDIO_SUFFIXES:
            yield found if isinstance(found, Rejection) else str(found)


def over_files(
    files: Iterable[str],
    of_clips: Callable[[list[Waveform]], Sequence[Result]],
    of_long: Callable[[Audio], Result],
    rate: int,
    long_seconds: float,
) -> Generator[tuple[str, Result | AudioError], None, None]:
    """Computes something of each file.

    Args:
        files: paths.
        of_clips: of at most 32 waveforms of up to `long_seconds`, computed together.
        of_long: of a longer recording, which is not held whole where its format can be streamed.
        rate: sample rate of the waveforms, in Hz.
        long_seconds: what is longer goes to `of_long`.

    Yields:
        Each path in order, with its result, or with what is wrong with the file.
    """
    iterator = iter(files)
    waiting: collections.deque[tuple[str, Future[Any]]] = collections.deque()
    with ThreadPoolExecutor(_READERS) as threads:
        try:
            while True:
                _read_ahead(iterator, waiting, threads, rate, long_seconds)
                if not waiting:
                    return
                group = [waiting.popleft() for _ in range(min(_GROUP, len(waiting)))]
                read = [(file, future.result()) for file, future in group]
                _read_ahead(iterator, waiting, threads, rate, long_seconds)
                clips = [item for _, item in read if isinstance(item, np.ndarray)]
                results = iter(of_clips(clips) if clips else [])
                for file, item in read:
                    if isinstance(item, AudioError):
                        yield file, item
                    elif isinstance(item, np.ndarray):
                        yield file, next(results)
                    else:
                        yield file, _long_result(of_long, item)
        finally:
            for _, future in waiting:
                future.cancel()


def _read_ahead(iterator: Iterator[str], waiting: Any, threads: ThreadPoolExecutor, rate: int, longest: float) -> None:
    """Has the next group read, unless it is already."""
    while len(waiting) < _GROUP:
        file = next(iterator, None)
        if file is None:
            return
        waiting.append((file, threads.submit(_read, file, rate, longest)))


def _read(file: str, rate: int, long_seconds: float) -> Waveform | Audio | AudioError:
    """Returns the samples of a clip, what stands for a long recording, or what is wrong."""
    try:
        check_name(file)
        if _seconds_by_header(file) > long_seconds:
            return _silent(file) if _is_silent_long(file) else file
        waveform = read_audio(file, rate)
    except AudioError as error:
        return error
    if float(np.abs(waveform).max()) < _SILENT_PEAK:
        return _silent(file)
    # The header of a video is not asked above, and that of a stream may be wrong.
    return waveform if len(waveform) <= long_seconds * rate else (waveform, rate)


def check_name(file: str) -> None:
    """Raises `AudioError` for a name that cannot be printed or written to a text file."""
    try:
        file.encode()
    except UnicodeEncodeError:
        shown = file.encode("utf-8", "backslashreplace").decode()
        raise AudioError(f"{shown} has a name that is not UTF-8; rename it", "bad_name") from None


def _silent(file: str) -> AudioError:
    return AudioError(f"{file} is silent: no sample reaches one step of 16 bits; leave it out", "silent_audio")


def _is_silent_long(file: str) -> bool:
    """Reads up to the first sound, which seldom takes long; damage is left for the model's reader to tell."""
    try:
        with soundfile.SoundFile(file) as opened:
            while len(block := opened.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                if not float(np.abs(block).max()) < _SILENT_PEAK:  # NaN is no silence
                    return False
    except (soundfile.SoundFileError, RuntimeError):
        return False
    return True


def _seconds_by_header(file: str) -> float:
    """0 where the header does not tell; the file is then read whole to find out."""
    try:
        info = soundfile.info(file)
    except (soundfile.SoundFileError, RuntimeError):
        return 0.0
    return info.frames / info.samplerate if 0 < info.frames < 1 << 60 else 0.0


def _long_result(of_long: Callable[[Audio], Result], item: Audio) -> Result | AudioError:
    try:
        return of_long(item)
    except AudioError as error:
        return error
