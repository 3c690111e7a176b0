"""An embedder without a model: random vectors that depend only on the content, for tests of protocols."""

import zlib

import numpy as np

WIDTH = 8


def _random(content: bytes, rows: int) -> np.ndarray:
    vectors = np.random.default_rng(zlib.crc32(content)).normal(size=(rows, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class HashingEmbedder:
    """The four functions of `slap_jax.inference.embedder.Embedder` that evaluation calls."""

    per_column = 2_560

    def __init__(self):
        self.largest_call = 0

    def audio(self, params, waveforms):
        self.largest_call = max(self.largest_call, len(waveforms))
        return np.concatenate([_random(np.asarray(waveform).tobytes(), 1) for waveform in waveforms])

    def text(self, params, captions):
        vectors = [_random(bytes(str(list(tokens)), "utf-8"), 1) for tokens in captions]
        return np.concatenate(vectors) if vectors else np.zeros((0, WIDTH), np.float32)

    def frames(self, params, waveforms):
        return [_random(b"f" + np.asarray(waveform).tobytes(), -(-len(waveform) // 2_560)) for waveform in waveforms]

    def frame_embeddings(self, params, waveforms):
        return [_random(b"e" + np.asarray(waveform).tobytes(), -(-len(waveform) // 2_560)) for waveform in waveforms]
