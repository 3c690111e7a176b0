"""A model of another family in NumPy: sounds and texts are vectors of simple statistics, which are not unit vectors."""

import numpy as np

RATE = 8_000
MAX_SECONDS = 2.0


class FakeEncoder:
    """Satisfies `slap_jax.other_models.dual_encoder.Encoder`, and records what it was given."""

    family, source = "FakeClap", "memory"
    sample_rate, max_seconds, embed_dim, max_tokens, scale = RATE, MAX_SECONDS, 4, 6, 20.0

    def __init__(self, model_id: str = "fake00000002"):
        self.model_id = model_id
        self.calls: list[list[int]] = []  # lengths of the waveforms of each call
        self.texts: list[str] = []

    def audio_vectors(self, waveforms):
        self.calls.append([len(waveform) for waveform in waveforms])
        assert all(waveform.dtype == np.float32 and 0 < len(waveform) <= 2 * RATE for waveform in waveforms)
        return np.stack([self.audio_vector(waveform) for waveform in waveforms])

    def text_vectors(self, texts):
        self.texts.extend(texts)
        return np.stack([self.text_vector(text) for text in texts])

    def count_tokens(self, text):
        return len(text.split())

    @staticmethod
    def audio_vector(waveform):
        parts = np.array_split(np.abs(waveform), 4)
        return np.array([part.mean() if len(part) else 0.0 for part in parts]) * 30 + 0.01

    @staticmethod
    def text_vector(text):
        return np.array([len(text), text.count("a"), text.count("o"), 1.0]) * 5


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Returns noise whose level varies over time, at `RATE`."""
    samples = round(seconds * RATE)
    level = 0.1 + 0.08 * np.sin(np.arange(samples) / RATE * (1.7 + seed))
    return (np.random.default_rng(seed).normal(size=samples) * level).astype(np.float32)


def unit(vector):
    return vector / np.linalg.norm(vector)
