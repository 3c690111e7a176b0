"""A stand-in for a model whose vectors are easy to predict: they say which of a few tones a clip contains."""

from pathlib import Path

import numpy as np
import soundfile
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.inference.audio_input import as_recordings, load_audio
from slap_jax.inference.long_audio import Frames, Scores, Windows
from slap_jax.inference.prompts import ZeroShotError
from slap_jax.search.index import SearchIndex

RATE = 16_000
TONES = (500, 1_000, 2_000, 4_000)


def tone(kind: int, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * TONES[kind] * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write(path, *parts: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), RATE)


def stored(folder: Path) -> dict[str, list[tuple[float, float, list[float]]]]:
    """Returns the windows of each file in an index: start, end and vector, by start."""
    index = SearchIndex(folder)
    windows: dict[str, list] = {}
    for row in index.windows.search().to_arrow().to_pylist():
        windows.setdefault(row["content"], []).append((row["start"], row["end"], row["vector"]))
    return {path: sorted(windows[state.content]) for path, state in index.files.items()}


class FakeModel:
    """Embeds sound as the power of each tone, and the text "tone 2" as that tone alone."""

    embed_dim = len(TONES)
    config = ConfigDict({"audio": default_config().audio.to_dict(), "data": {"max_seconds": 30.0}})
    sample_rate = RATE
    max_seconds = 30.0
    can_caption = True

    def __init__(self, model_id: str = "fake00000001"):
        self.model_id = model_id
        self.batch_sizes: list[int | None] = []  # of each call
        self.heard: list[int] = []  # number of samples of each clip that was embedded

    def embed_audio(self, audio, batch_size=None):
        self.batch_sizes.append(batch_size)
        recordings = as_recordings(audio)
        named = [(item, recordings.name(index)) for index, item in enumerate(recordings.clips)]
        return np.array([self._vector(load_audio(item, RATE, name)) for item, name in named]).reshape(
            -1, self.embed_dim
        )

    def embed_text(self, texts):
        return np.stack([np.eye(self.embed_dim, dtype=np.float32)[int(text.split()[1])] for text in texts])

    def windows(self, clip, seconds=10.0, hop=5.0, sample_rate=None):
        samples = load_audio(clip, RATE)
        starts = np.arange(0, max(len(samples) - round((seconds - hop) * RATE), 1), round(hop * RATE))
        ends = np.minimum(starts + round(seconds * RATE), len(samples))
        vectors = np.stack([self._vector(samples[a:b]) for a, b in zip(starts, ends, strict=True)])
        return Windows(starts / np.float32(RATE), ends / np.float32(RATE), vectors)

    def classify(self, audio, labels, template="ensemble", batch_size=None):
        if template != "ensemble":
            raise ZeroShotError(f"template {template!r} is not known")
        fits = self.embed_audio(audio, batch_size) @ self.embed_text(labels).T
        return [dict(sorted(zip(labels, row.tolist(), strict=True), key=lambda item: -item[1])) for row in fits]

    def similarity(self, audio, text):
        return audio @ text.T

    def caption(self, audio, beam=1, batch_size=None):
        return [f"tone {vector.argmax()}" + " again" * (beam - 1) for vector in self.embed_audio(audio, batch_size)]

    def frames(self, clip, sample_rate=None):
        return Frames(*self.windows(clip, 0.16, 0.16))

    def scores(self, clip, texts, sample_rate=None, allow_silence=False):
        start, end, vectors = self.windows(clip, 0.16, 0.16)
        return Scores(start, end, vectors @ self.embed_text(texts).T)

    def _vector(self, samples: np.ndarray) -> np.ndarray:
        self.heard.append(len(samples))
        spectrum = np.abs(np.fft.rfft(samples)) ** 2
        bins = [round(frequency * len(samples) / RATE) for frequency in TONES]
        power = np.array([spectrum[max(0, bin - 3) : bin + 4].sum() for bin in bins], np.float32) + 1e-9
        return power / np.linalg.norm(power)
