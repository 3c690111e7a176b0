"""Stores what transformers' `ClapFeatureExtractor` computes, for tests/other_models/test_clap_mel.py.

Run in an environment with torch and transformers: python -m tests.golden.make_clap_mel
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("clap_mel.npz")
RATE, SAMPLES = 16_000, 16_000
SETTINGS = {"feature_size": 16, "sampling_rate": RATE, "hop_length": 480, "max_length_s": 1}
SETTINGS |= {"fft_window_size": 512, "frequency_min": 50, "frequency_max": 7_000}
CASES = [  # length of the clip in samples, fill
    (16_000, "repeatpad"),
    (15_999, "repeatpad"),
    (5_000, "repeatpad"),
    (5_000, "repeat"),
    (5_000, "pad"),
    (1, "repeatpad"),
]


def waveform(samples: int) -> np.ndarray:
    """Returns a chirp with silence in the middle: its mels reach from full level to the floor."""
    seconds = np.arange(samples) / RATE
    tone = 0.8 * np.sin(2 * np.pi * (300 + 2_000 * seconds) * seconds)
    tone[samples // 3 : samples // 2] = 0
    return (tone + 1e-3).astype(np.float32)


def main() -> None:
    """Writes the file."""
    from transformers import ClapFeatureExtractor

    stored = {}
    for truncation in ("rand_trunc", "fusion"):
        for samples, fill in CASES:
            extractor = ClapFeatureExtractor(**SETTINGS, truncation=truncation, padding=fill)
            features = extractor([waveform(samples)], sampling_rate=RATE, return_tensors="np")["input_features"][0]
            assert all(np.array_equal(features[0], channel) for channel in features)
            stored[f"{truncation} {samples} {fill}"] = features[0]
    np.savez_compressed(FILE, **stored)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
