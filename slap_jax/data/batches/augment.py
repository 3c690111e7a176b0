"""Augmentation of waveforms on the host: reverberation, noise and gain, seeded by the clip's position in the stream."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.data.audio import (
    INT16_SCALE,
    SAMPLE_RATE,
    SOUND_SUFFIXES,
    AudioError,
    check_name,
    prepare_waveform,
    to_int16,
)
from slap_jax.data.processes import map_in_order
from slap_jax.errors import UserError, printable

_ROOM_SECONDS = 2.0
_CACHED_ROOMS = 256
_HEADER_THREADS = 16
_NAMED_FILES = 5


class AugmentError(UserError, ValueError):
    """A folder of noises or rooms cannot be used; the message says why."""


class Augmenter:
    """Applies a room, then noise, then a gain to a clip, each with its own probability.

    Attributes:
        active: whether any augmentation is on.
        rejected: one text for each file in the folders whose header cannot be read, with the reason.
        fingerprint: fingerprint of the settings and the files, as JSON values.
    """

    def __init__(self, settings: ConfigDict):
        """Lists the folders and reads the header of every file in them.

        Args:
            settings: `config.data.augment`.

        Raises:
            AugmentError: a folder that is needed is missing or holds no readable audio file.
        """
        self._settings = settings
        self.rejected: list[str] = []
        self._noises = self._usable_files("noise_dir") if settings.noise_probability > 0 else []
        self._rooms = self._usable_files("room_dir") if settings.room_probability > 0 else []
        self._warned: set[Path] = set()
        self.active = bool(settings.gain_db or self._noises or self._rooms)
        self.fingerprint: dict[str, Any] = {
            **{f"config.data.augment.{name}": value for name, value in settings.to_dict().items()},
            "noise files": _describe(self._noises),
            "room files": _describe(self._rooms),
        }

    def __call__(self, samples: Int16[np.ndarray, " n"], generator: np.random.Generator) -> None:
        """Augments a clip in place.

        A file that is damaged behind its header leaves the clip without its noise or room, with a warning that names
        the file: training does not stop for it.

        Args:
            samples: 16 kHz mono, the part of the clip that is trained on.
            generator: random generator of the clip's position in the stream.
        """
        settings = self._settings
        # Always drawn, so that turning one augmentation on does not change the draws of the others.
        room_draw, noise_draw, gain_draw, snr_draw = generator.random(4)
        waveform = samples.astype(np.float32) / INT16_SCALE
        if room_draw < settings.room_probability:
            room = self._rooms[int(generator.integers(len(self._rooms)))]
            try:
                waveform = in_room(waveform, _read_room(room))
            except AudioError as error:
                self._warn(room, error)
        if noise_draw < settings.noise_probability:
            low, high = settings.noise_snr_db
            noise = self._noises[int(generator.integers(len(self._noises)))]
            start_draw = float(generator.random())
            try:
                excerpt = _read_excerpt(noise, len(waveform), start_draw)
                waveform = add_noise(waveform, excerpt, low + snr_draw * (high - low))
            except AudioError as error:
                self._warn(noise, error)
        waveform = waveform * np.float32(10.0 ** ((2 * gain_draw - 1) * settings.gain_db / 20.0))
        samples[:] = to_int16(waveform)

    def warn_of_rejected_files(self) -> None:
        """Logs one warning that names the files that are left out, if there are any."""
        if self.rejected:
            more = f" and {len(self.rejected) - _NAMED_FILES} more" if len(self.rejected) > _NAMED_FILES else ""
            logging.warning(
                "config.data.augment: %d files cannot be read as audio and are not used: %s%s; repair or remove them",
                len(self.rejected),
                ", ".join(self.rejected[:_NAMED_FILES]),
                more,
            )

    def _usable_files(self, setting: str) -> list[Path]:
        folder = Path(self._settings[setting] or os.devnull)  # "" would be the current directory
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())
        faults = list(map_in_order(_header_fault, files, _HEADER_THREADS, ahead=4 * _HEADER_THREADS))
        rejected = [printable(f"{file} ({fault})") for file, fault in zip(files, faults, strict=True) if fault]
        self.rejected += rejected
        usable = [file for file, fault in zip(files, faults, strict=True) if not fault]
        if not usable:
            state = "holds no audio files" if folder.is_dir() else "is not a folder"
            if rejected:
                state = f"holds no readable audio file, only {', '.join(rejected[:_NAMED_FILES])}"
            raise AugmentError(
                f"config.data.augment.{setting} is {self._settings[setting]!r}, which {state}; give a folder of audio "
                f"files, or set {setting.replace('_dir', '_probability')} to 0"
            )
        return usable

    def _warn(self, file: Path, error: AudioError) -> None:
        if file not in self._warned:
            self._warned.add(file)
            logging.warning("clips that draw this file for config.data.augment do not get it: %s", error)


def in_room(waveform: Float[np.ndarray, " n"], impulse: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Convolves a clip with a room impulse response, keeping the clip's length and energy.

    The response starts at its largest sample, the direct sound, so that the clip is not delayed.
    """
    import scipy.signal  # takes longer to import than everything else here, and rooms are off by default

    direct = int(np.argmax(np.abs(impulse)))
    wet = scipy.signal.fftconvolve(waveform, impulse[direct:])[: len(waveform)].astype(np.float32)
    energy = float(np.sqrt(np.mean(wet**2)))
    return wet * (float(np.sqrt(np.mean(waveform**2))) / energy) if energy > 0 else waveform


def add_noise(
    waveform: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"], snr_db: float
) -> Float[np.ndarray, " n"]:
    """Adds noise at a signal-to-noise ratio in dB; if either of the two is silent, returns the clip unchanged."""
    signal_energy, noise_energy = (float(np.mean(np.square(x, dtype=np.float64))) for x in (waveform, noise))
    if signal_energy == 0 or noise_energy == 0:
        return waveform
    scale = np.sqrt(signal_energy / noise_energy * 10.0 ** (-snr_db / 10.0))
    return waveform + np.float32(scale) * noise


def _header_fault(path: Path) -> str:
    """Returns why a file cannot be used, judging by its header; "" if it can."""
    try:
        check_name(os.fspath(path))
        return "" if soundfile.info(os.fspath(path)).frames > 0 else "no samples"
    except AudioError:
        return "a name that is not UTF-8"
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        return str(error).rpartition(": ")[2].rstrip(".") or type(error).__name__


def _describe(files: Sequence[Path]) -> list[str]:
    return [f"{file.name} {file.stat().st_size}" for file in files]


@functools.lru_cache(maxsize=_CACHED_ROOMS)
def _read_room(path: Path) -> Float[np.ndarray, " m"]:
    return _read(path, round(_ROOM_SECONDS * SAMPLE_RATE))


def _read_excerpt(path: Path, samples: int, start_draw: float) -> Float[np.ndarray, " n"]:
    """Reads a part of a noise and repeats it if it is too short; see `_read` for `start_draw`."""
    return np.resize(_read(path, samples, start_draw), samples)


def _read(path: Path, samples: int, start_draw: float = 0.0) -> Float[np.ndarray, " m"]:
    """Reads up to `samples` samples at 16 kHz; `start_draw` in [0, 1) chooses where, 0 is the beginning."""
    seconds = samples / SAMPLE_RATE
    try:
        with soundfile.SoundFile(path) as file:
            latest_start_s = max(0.0, file.frames / file.samplerate - seconds)
            file.seek(int(start_draw * latest_start_s * file.samplerate))
            frames = file.read(int(np.ceil(seconds * file.samplerate)), dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise AudioError(f"{path} is not readable as audio ({error}); repair or remove it") from error
    return prepare_waveform(frames, rate, name=str(path))
