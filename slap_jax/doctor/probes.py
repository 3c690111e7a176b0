"""Sounds and texts that are the same everywhere and for ever, to compare what models make of them."""

import numpy as np
from jaxtyping import Float

SECONDS = 1.5
SILENCE = "silence"
TEXTS = (
    "a dog barks",
    "rain falls on a roof",
    "a man speaks",
    "a piano plays a melody",
    "an engine idles",
    "birds sing in a tree",
)


def probe_sounds(sample_rate: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns sounds of 1.5 s by name, float32 of full scale 1, none louder than 0.5."""
    count = round(SECONDS * sample_rate)
    time = np.arange(count) / sample_rate
    # This generator's numbers are fixed for ever; those of default_rng may change with NumPy.
    white = np.random.RandomState(0).standard_normal(count)
    clicks = np.zeros(count)
    clicks[:: max(1, sample_rate // 8)] = 0.5
    sounds = {
        "noise": 0.1 * white,
        "tone": 0.2 * np.sin(2 * np.pi * 440.0 * time),
        "chirp": 0.2 * np.sin(2 * np.pi * (100.0 * time + 0.5 * 2_400.0 * time**2)),  # 100 Hz to 3.7 kHz
        "clicks": clicks,
        "speech_like": _speech_like(time, white),
        SILENCE: np.zeros(count),
    }
    return {name: np.clip(samples, -0.5, 0.5).astype(np.float32) for name, samples in sounds.items()}


def _speech_like(time: Float[np.ndarray, " n"], white: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Voiced syllables, four a second, whose harmonics have the peaks of a vowel, with hissing between them."""
    pitch = 2 * np.pi * (120.0 * time + 2.0 * np.sin(2 * np.pi * 1.5 * time))
    voice = np.zeros_like(time)
    for harmonic in range(1, 25):
        frequency = 120.0 * harmonic
        strength = sum(np.exp(-(((frequency - peak) / 150.0) ** 2)) for peak in (500.0, 1_500.0, 2_500.0))
        voice += (0.05 + strength) / harmonic * np.sin(harmonic * pitch)
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    pauses = np.clip(-np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    return 0.15 * syllables * voice + 0.02 * pauses * np.diff(white, prepend=0.0)
