"""Augmentation of waveforms on the host: lead-in, reverberation, noise and gain.

Everything is seeded by the clip's position in the stream. The lead-in makes a clip longer, so `ClipPlanner` draws it
before the clip is packed; the rest changes samples in place.
"""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float, Int, Int16
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
_FULL_SCALE = 32_767


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
            **{f"config.data.augment.{name}": value for name, value in _fingerprinted(settings).items()},
            "noise files": _describe(self._noises),
            "room files": _describe(self._rooms),
        }

    def __call__(self, samples: Int16[np.ndarray, " n"], generator: np.random.Generator, lead_in: int = 0) -> None:
        """Augments a clip in place.

        A file that is damaged behind its header leaves the clip without its noise or room, with a warning that names
        the file: training does not stop for it.

        Args:
            samples: 16 kHz mono, the part of the clip that is trained on, after its lead-in.
            generator: random generator of the clip's position in the stream.
            lead_in: number of samples of silence before the clip, which get noise like the rest.
        """
        settings = self._settings
        # Always drawn, so that turning one augmentation on does not change the draws of the others.
        room_draw, noise_draw, gain_draw, snr_draw = generator.random(4)
        room = noise = None
        if room_draw < settings.room_probability:
            room = self._rooms[int(generator.integers(len(self._rooms)))]
        if noise_draw < settings.noise_probability:
            noise = self._noises[int(generator.integers(len(self._noises)))], float(generator.random())
        if room or noise:
            low, high = settings.noise_snr_db
            self._add_room_and_noise(samples, room, noise, low + snr_draw * (high - low), lead_in, gain_draw)
        elif settings.gain_db:
            peak = max(int(samples.max(initial=0)), -int(samples.min(initial=0))) / INT16_SCALE
            scaled = samples * np.float32(draw_gain(settings.gain_db, peak, gain_draw))  # never above full scale
            samples[:] = np.rint(scaled, out=scaled)

    def _add_room_and_noise(
        self,
        samples: Int16[np.ndarray, " n"],
        room: Path | None,
        noise: tuple[Path, float] | None,
        snr_db: float,
        lead_in: int,
        gain_draw: float,
    ) -> None:
        waveform = samples.astype(np.float32) / INT16_SCALE
        if room is not None:
            try:
                waveform = in_room(waveform, _read_room(room))
            except AudioError as error:
                self._warn(room, error)
        if noise is not None:
            try:
                waveform = add_noise(waveform, _read_excerpt(noise[0], len(waveform), noise[1]), snr_db, lead_in)
            except AudioError as error:
                self._warn(noise[0], error)
        gain = draw_gain(self._settings.gain_db, float(np.max(np.abs(waveform), initial=0.0)), gain_draw)
        samples[:] = to_int16(waveform * np.float32(gain))

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


def lead_in_samples(
    seconds: float, room: Int[np.ndarray, " n"] | int, uniform: Float[np.ndarray, " n"] | float
) -> Int[np.ndarray, " n"]:
    """Returns the samples of silence before clips: `seconds u^3`, but at most `room`.

    Short lead-ins, which move a clip on the grid of columns, are more frequent than long ones, which take the place of
    other clips in a row.

    Args:
        seconds: `config.data.augment.lead_in_seconds`.
        room: samples that the clips may still have; 0 for crops, which begin at a random sample anyway.
        uniform: u, uniform in [0, 1).
    """
    longest = np.rint(seconds * SAMPLE_RATE * np.power(uniform, 3)).astype(np.int64)
    return np.minimum(longest, np.maximum(0, room))


def draw_gain(gain_db: float, peak: float, draw: float) -> float:
    """Returns a factor, uniform in decibels from -`gain_db` to `gain_db`, or to full scale if that is less.

    Args:
        gain_db: `config.data.augment.gain_db`.
        peak: largest absolute sample, full scale 1. A clip that is already above full scale is never amplified.
        draw: uniform in [0, 1).
    """
    headroom_db = 20.0 * np.log10(_FULL_SCALE / INT16_SCALE / peak) if peak > 0 else gain_db
    highest_db = min(gain_db, max(0.0, headroom_db))
    return 10.0 ** ((draw * (highest_db + gain_db) - gain_db) / 20.0)


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
    waveform: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"], snr_db: float, lead_in: int = 0
) -> Float[np.ndarray, " n"]:
    """Adds noise at a signal-to-noise ratio in dB; if either of the two is silent, returns the clip unchanged.

    The energy of the signal is that of the samples after the lead-in.
    """
    signal_energy, noise_energy = (float(np.mean(np.square(x, dtype=np.float64))) for x in (waveform[lead_in:], noise))
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


def _fingerprinted(settings: ConfigDict) -> dict[str, Any]:
    """Returns the settings that the batches depend on; runs that were started before a setting existed can resume."""
    values = settings.to_dict()
    if not values["lead_in_seconds"]:
        del values["lead_in_seconds"]
    if values["gain_db"]:
        values["gain_db, limited to full scale"] = values.pop("gain_db")
    return values


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
