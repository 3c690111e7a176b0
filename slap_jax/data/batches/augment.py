"""Augmentations of the waveform on the host: room, noise, gain; what a clip gets depends on its place alone."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.data.audio import INT16_SCALE, SAMPLE_RATE, SOUND_SUFFIXES, AudioError, prepare_waveform, to_int16
from slap_jax.errors import UserError

_ROOM_SECONDS = 2.0
_CACHED_ROOMS = 256


class AugmentError(UserError, ValueError):
    """A folder of noises or rooms that cannot be used."""


class Augmenter:
    """Adds a room, a noise and a gain to clips, in that order, each drawn or not.

    Attributes:
        active: whether anything is ever changed.
        fingerprint: of the settings and the folders' files, as JSON values.
    """

    def __init__(self, settings: ConfigDict):
        """Lists the folders.

        Args:
            settings: `config.data.augment`.

        Raises:
            AugmentError: a folder that is asked for is missing or holds no audio.
        """
        self._settings = settings
        self._noises = _audio_files(settings.noise_dir, "noise_dir") if settings.noise_probability > 0 else ()
        self._rooms = _audio_files(settings.room_dir, "room_dir") if settings.room_probability > 0 else ()
        self.active = bool(settings.gain_db or self._noises or self._rooms)
        self.fingerprint = {
            **{f"config.data.augment.{name}": value for name, value in settings.to_dict().items()},
            "noise files": _describe(self._noises),
            "room files": _describe(self._rooms),
        }

    def __call__(self, samples: Int16[np.ndarray, " n"], generator: np.random.Generator) -> None:
        """Changes a clip in place.

        Args:
            samples: 16 kHz mono, of the part that is trained on.
            generator: of the clip's place in the stream.

        Raises:
            AudioError: a noise or room file that cannot be read.
        """
        settings = self._settings
        # Drawn in any case, so that switching one augmentation on does not change what another draws.
        room_draw, noise_draw, gain_draw, snr_draw = generator.random(4)
        waveform = samples.astype(np.float32) / INT16_SCALE
        if room_draw < settings.room_probability:
            waveform = in_room(waveform, _room(self._rooms[int(generator.integers(len(self._rooms)))]))
        if noise_draw < settings.noise_probability:
            low, high = settings.noise_snr_db
            noise = _excerpt(self._noises[int(generator.integers(len(self._noises)))], len(waveform), generator)
            waveform = add_noise(waveform, noise, low + snr_draw * (high - low))
        waveform = waveform * np.float32(10.0 ** ((2 * gain_draw - 1) * settings.gain_db / 20.0))
        samples[:] = to_int16(waveform)


def in_room(waveform: Float[np.ndarray, " n"], impulse: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Convolves with a room's impulse response, its direct sound at time 0, and keeps the clip's length and energy."""
    direct = int(np.argmax(np.abs(impulse)))
    wet = scipy.signal.fftconvolve(waveform, impulse[direct:])[: len(waveform)].astype(np.float32)
    energy = float(np.sqrt(np.mean(wet**2)))
    return wet * (float(np.sqrt(np.mean(waveform**2))) / energy) if energy > 0 else waveform


def add_noise(
    waveform: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"], snr_db: float
) -> Float[np.ndarray, " n"]:
    """Adds noise at a ratio of energies in dB; silence gets none, and silent noise adds nothing."""
    signal_energy, noise_energy = (float(np.mean(np.square(x, dtype=np.float64))) for x in (waveform, noise))
    if signal_energy == 0 or noise_energy == 0:
        return waveform
    scale = np.sqrt(signal_energy / noise_energy * 10.0 ** (-snr_db / 10.0))
    return waveform + np.float32(scale) * noise


def _audio_files(folder: str, setting: str) -> tuple[Path, ...]:
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())
    if not files:
        state = "holds no audio files" if Path(folder).is_dir() else "is not a folder"
        raise AugmentError(f"config.data.augment.{setting} is {folder!r}, which {state}; give a folder of audio files")
    return tuple(files)


def _describe(files: Sequence[Path]) -> list[str]:
    return [f"{file.name} {file.stat().st_size}" for file in files]


@functools.lru_cache(maxsize=_CACHED_ROOMS)
def _room(path: Path) -> Float[np.ndarray, " m"]:
    return _read(path, 0, _ROOM_SECONDS)


def _excerpt(path: Path, samples: int, generator: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Returns a drawn part of a noise, repeated where it is shorter than asked for."""
    seconds = samples / SAMPLE_RATE
    free = max(0.0, soundfile.info(os.fspath(path)).duration - seconds)
    noise = _read(path, float(generator.random()) * free, seconds)
    return np.resize(noise, samples)


def _read(path: Path, start_s: float, seconds: float) -> Float[np.ndarray, " n"]:
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(int(start_s * file.samplerate))
            frames = file.read(int(np.ceil(seconds * file.samplerate)), dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{path} is not readable as audio ({error}); take it out of the folder") from error
    return prepare_waveform(frames, rate, name=str(path))
