"""Writes mel_filter_bank.npz, filters of another implementation: `pip install transformers`, then run this file."""

from pathlib import Path

import numpy as np
import transformers
from transformers.audio_utils import mel_filter_bank

SETTINGS = {"base": (16_000, 512, 64, 0.0, 8_000.0), "wide": (16_000, 1_024, 80, 50.0, 7_600.0)}


def main() -> None:
    """Computes the filter bank of each setting with Slaney's scale and norm, the defaults of librosa."""
    banks = {
        name: mel_filter_bank(n_fft // 2 + 1, mels, low, high, rate, norm="slaney", mel_scale="slaney")
        for name, (rate, n_fft, mels, low, high) in SETTINGS.items()
    }
    settings = {f"{name}_settings": np.asarray(value) for name, value in SETTINGS.items()}
    path = Path(__file__).with_name("mel_filter_bank.npz")
    np.savez_compressed(path, version=transformers.__version__, **banks, **settings)


if __name__ == "__main__":
    main()
