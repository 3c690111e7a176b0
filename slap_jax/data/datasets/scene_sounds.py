"""Synthesis of the sounds in synthetic scenes; every attribute is clearly visible in a 64-band log-mel.

A sound is a kind ("siren") with one value per attribute ("low", "fast"). Random details (exact pitch and rate, noise
samples) come from the generator that the caller passes. Arithmetic is in float64, so that the samples after rounding to
16 bits do not depend on the CPU.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

SAMPLE_RATE = 16_000
Samples = Float64[np.ndarray, " samples"]
PITCHES = ("low", "middle", "high")
TIMBRES = ("pure", "square", "buzzy")
RATES = ("slow", "fast")
ENVELOPES = ("steady", "swelling", "fading")
COUNTS = ("one", "two", "three", "four")
VOICES = ("beep", "drum")

# Hz; neighbouring classes are more than an octave apart.
PITCH_RANGES = {"low": (190.0, 250.0), "middle": (560.0, 720.0), "high": (1_700.0, 2_200.0)}
CHIRP_RANGES = {"low": (150.0, 600.0), "middle": (600.0, 2_000.0), "high": (2_200.0, 6_500.0)}
NOISE_BANDS = {"hiss": (300.0, 8_000.0), "rumble": (30.0, 220.0), "band of noise": (1_000.0, 1_500.0)}
TREMOLO_RATES = {"slow": (2.2, 3.0), "fast": (9.0, 12.0)}
SIREN_RATES = {"slow": (1.1, 1.5), "fast": (4.5, 6.0)}

# Seconds between beats (for a gallop, between the starts of its groups of three) and between clicks.
BEAT_PERIODS = {"slow": (0.42, 0.50), "fast": (0.15, 0.18)}
GALLOP_PERIODS = {"slow": (0.85, 0.95), "fast": (0.42, 0.48)}
CLICK_INTERVALS = {"slow": (0.36, 0.42), "fast": (0.10, 0.13)}
GALLOP_HITS = (0.0, 0.5, 0.75)  # long, short, short; fractions of a group's period
HIGHEST_HARMONIC = 7_600.0  # Hz; below the Nyquist frequency, which prevents aliasing
MAX_HARMONICS = 24
SIREN_OCTAVES = 0.5  # deviation of the pitch in both directions
CLICK_SECONDS = 0.04


@dataclasses.dataclass(frozen=True)
class SoundKind:
    """One kind of sound.

    Attributes:
        attributes: allowed values of each attribute, in the order of `Sound.attributes`.
        seconds: minimum and maximum duration for given attribute values; the minimum makes a slow rate audible.
        synthesise: (attribute values, samples, generator) -> waveform with a peak near 1.
        sustained: whether it can be a background.
    """

    attributes: tuple[tuple[str, ...], ...]
    seconds: Callable[[tuple[str, ...]], tuple[float, float]]
    synthesise: Callable[[tuple[str, ...], int, np.random.Generator], Samples]
    sustained: bool = False


def _seconds(samples: int) -> Samples:
    return np.arange(samples, dtype=np.float64) / SAMPLE_RATE


def _soft_edges(waveform: Samples, seconds: float = 0.01) -> Samples:
    """Fades both ends, which prevents clicks."""
    length = min(round(seconds * SAMPLE_RATE), len(waveform) // 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(length) / max(length, 1))
    faded = waveform.copy()
    faded[:length] *= ramp
    faded[len(faded) - length :] *= ramp[::-1]
    return faded


def _pitch(name: str, generator: np.random.Generator) -> float:
    low, high = PITCH_RANGES[name]
    return low * (high / low) ** generator.random()


def _harmonic_sum(phase: Samples, hertz: float, timbre: str) -> Samples:
    """Sums harmonics with amplitude 1/k up to `HIGHEST_HARMONIC`: odd ones for a square, all for a sawtooth."""
    cosine = np.cos(phase)
    if timbre == "pure":
        return cosine
    step = 2 if timbre == "square" else 1
    highest = min(int(HIGHEST_HARMONIC / hertz), MAX_HARMONICS)
    # cos((k + s) x) = 2 cos(s x) cos(k x) - cos((k - s) x): three array operations per harmonic instead of a cosine.
    turn = 2.0 * (cosine if step == 1 else 2.0 * cosine**2 - 1.0)
    previous = np.ones_like(phase) if step == 1 else cosine
    current, total = cosine, cosine.copy()
    for harmonic in range(1 + step, highest + 1, step):
        previous, current = current, turn * current - previous
        total += current / harmonic
    return total / np.max(np.abs(total))


def _tone(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
    pitch, timbre = attributes
    hertz = _pitch(pitch, generator)
    phase = 2.0 * np.pi * (hertz * _seconds(samples) + generator.random())
    return _soft_edges(_harmonic_sum(phase, hertz, timbre))


def _chirp(rising: bool) -> Callable[[tuple[str, ...], int, np.random.Generator], Samples]:
    def synthesise(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
        low, high = CHIRP_RANGES[attributes[0]]
        low, high = low * generator.uniform(0.9, 1.1), high * generator.uniform(0.9, 1.1)
        start, end = (low, high) if rising else (high, low)
        hertz = start * (end / start) ** np.linspace(0.0, 1.0, samples)
        return _soft_edges(np.sin(2.0 * np.pi * np.cumsum(hertz) / SAMPLE_RATE))

    return synthesise


def _band_noise(samples: int, band: tuple[float, float], generator: np.random.Generator) -> Samples:
    """Gaussian noise with a flat spectrum inside the band (Hz) and nothing outside it, scaled to a peak of 1."""
    size = -(-samples // 4_096) * 4_096  # a length for which the FFT is fast
    frequencies = np.arange(size // 2 + 1) * (SAMPLE_RATE / size)
    inside = np.flatnonzero((frequencies >= band[0]) & (frequencies <= band[1]))
    spectrum = np.zeros(size // 2 + 1, np.complex128)
    spectrum.real[inside] = generator.standard_normal(len(inside))
    spectrum.imag[inside] = generator.standard_normal(len(inside))
    noise = np.fft.irfft(spectrum, size)[:samples]
    return noise / np.max(np.abs(noise))


def _noise(name: str) -> Callable[[tuple[str, ...], int, np.random.Generator], Samples]:
    def synthesise(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
        noise = _band_noise(samples, NOISE_BANDS[name], generator)
        decibels = {"steady": (0.0, 0.0), "swelling": (-40.0, 0.0), "fading": (0.0, -40.0)}[attributes[0]]
        return _soft_edges(noise * 10.0 ** (np.linspace(*decibels, samples) / 20.0))

    return synthesise


def _click(generator: np.random.Generator) -> Samples:
    samples = round(CLICK_SECONDS * SAMPLE_RATE)
    click = generator.standard_normal(samples) * np.exp(-_seconds(samples) / 0.004)
    return click / np.max(np.abs(click))


def _place(waveform: Samples, hit: Samples, second: float) -> None:
    start = round(second * SAMPLE_RATE)
    stop = min(start + len(hit), len(waveform))
    if start < stop:
        waveform[start:stop] += hit[: stop - start]


def _clicks(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
    count, rate = attributes
    number = COUNTS.index(count) + 1
    interval = generator.uniform(*CLICK_INTERVALS[rate])
    waveform = np.zeros(samples)
    for position in range(number):
        _place(waveform, _click(generator), position * interval)
    return waveform


def _tremolo(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
    pitch, rate = attributes
    time = _seconds(samples)
    carrier = np.sin(2.0 * np.pi * _pitch(pitch, generator) * time)
    swing = np.cos(2.0 * np.pi * (generator.uniform(*TREMOLO_RATES[rate]) * time + generator.random()))
    return _soft_edges(carrier * (0.51 + 0.49 * swing))


def _siren(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
    pitch, rate = attributes
    turns = generator.uniform(*SIREN_RATES[rate]) * _seconds(samples) + generator.random()
    hertz = _pitch(pitch, generator) * 2.0 ** (SIREN_OCTAVES * np.sin(2.0 * np.pi * turns))
    return _soft_edges(np.sin(2.0 * np.pi * np.cumsum(hertz) / SAMPLE_RATE))


def _hit(voice: str, generator: np.random.Generator) -> Samples:
    """One beat: a beep of 1 kHz, or a drum hit that falls from 180 to 60 Hz after a burst of noise."""
    if voice == "beep":
        time = _seconds(round(0.07 * SAMPLE_RATE))
        return _soft_edges(np.sin(2.0 * np.pi * 1_000.0 * time), seconds=0.004)
    time = _seconds(round(0.12 * SAMPLE_RATE))
    hertz = 60.0 + 120.0 * np.exp(-time / 0.03)
    body = np.sin(2.0 * np.pi * np.cumsum(hertz) / SAMPLE_RATE) * np.exp(-time / 0.025)
    burst = generator.standard_normal(len(time)) * np.exp(-time / 0.006)
    hit = body + 0.25 * burst
    return hit / np.max(np.abs(hit))


def _beat(
    periods: dict[str, tuple[float, float]], hits: tuple[float, ...]
) -> Callable[[tuple[str, ...], int, np.random.Generator], Samples]:
    def synthesise(attributes: tuple[str, ...], samples: int, generator: np.random.Generator) -> Samples:
        rate, voice = attributes
        period = generator.uniform(*periods[rate])
        hit = _hit(voice, generator)
        waveform = np.zeros(samples)
        for group in range(int(samples / SAMPLE_RATE / period) + 1):
            for fraction in hits:
                second = (group + fraction) * period
                if round(second * SAMPLE_RATE) + len(hit) <= samples:  # no hit is cut off at the end
                    _place(waveform, hit, second)
        return waveform

    return synthesise


def _click_seconds(attributes: tuple[str, ...]) -> tuple[float, float]:
    count, rate = attributes
    longest = COUNTS.index(count) * CLICK_INTERVALS[rate][1] + CLICK_SECONDS
    return longest, longest


def _by_rate(position: int, slow: float, fast: float) -> Callable[[tuple[str, ...]], tuple[float, float]]:
    shortest = {"slow": slow, "fast": fast}
    return lambda attributes: (shortest[attributes[position]], 30.0)


SOUND_KINDS = {
    "tone": SoundKind((PITCHES, TIMBRES), lambda _: (0.4, 30.0), _tone, sustained=True),
    "rising chirp": SoundKind((PITCHES,), lambda _: (0.4, 3.0), _chirp(rising=True)),
    "falling chirp": SoundKind((PITCHES,), lambda _: (0.4, 3.0), _chirp(rising=False)),
    "hiss": SoundKind((ENVELOPES,), lambda _: (0.5, 30.0), _noise("hiss"), sustained=True),
    "rumble": SoundKind((ENVELOPES,), lambda _: (0.5, 30.0), _noise("rumble"), sustained=True),
    "band of noise": SoundKind((ENVELOPES,), lambda _: (0.5, 30.0), _noise("band of noise"), sustained=True),
    "clicks": SoundKind((COUNTS, RATES), _click_seconds, _clicks),
    "tremolo": SoundKind((PITCHES, RATES), _by_rate(1, slow=1.0, fast=0.5), _tremolo, sustained=True),
    "siren": SoundKind((PITCHES, RATES), _by_rate(1, slow=1.2, fast=0.5), _siren),
    "steady beat": SoundKind((RATES, VOICES), _by_rate(0, slow=1.5, fast=0.7), _beat(BEAT_PERIODS, (0.0,))),
    "galloping beat": SoundKind((RATES, VOICES), _by_rate(0, slow=1.9, fast=1.0), _beat(GALLOP_PERIODS, GALLOP_HITS)),
}
