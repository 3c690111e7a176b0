"""A model that compiles in seconds, and objects that many tests share."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.config.defaults import default_config
from slap_jax.data.tokenizer import Tokenizer, _train, load_tokenizer
from slap_jax.inference.embedder import Embedder
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.slap import Slap

CAPTIONS = [
    f"{first} {second}"
    for first in ("a dog barks", "rain falls", "a kick drum", "a long bell", "someone speaks", "wind blows")
    for second in ("outside", "in a hall", "then silence", "twice", "very softly", "near the sea")
]


def tiny_config() -> ConfigDict:
    """One block of each tower, width 32, fp32."""
    config = default_config()
    config.model.update(embed_dim=16, vocab_size=64, compute_dtype="float32")
    config.model.audio_encoder.update(layers=3, heads=2, width=32, mlp_width=48)
    config.model.text_encoder.update(layers=2, heads=2, width=32, mlp_width=48)
    config.model.caption_decoder.update(layers=2, heads=2, width=32, mlp_width=48)
    config.data.max_caption_tokens = 24
    return config


def tiny_params(config: ConfigDict, seed: int = 0) -> dict[str, Any]:
    """Random parameters of the model."""
    return tiny_run_params(config, seed)["model"]


def tiny_run_params(config: ConfigDict, seed: int = 0) -> dict[str, Any]:
    """Random parameters of a run: model, decoder, scale, and something that is not exported."""
    return jax.tree.map(lambda x: x, _tiny_run_params(config.model.to_json(), seed))  # new dictionaries, same arrays


@functools.cache
def _tiny_run_params(model: str, seed: int) -> dict[str, Any]:
    config = tiny_config()
    config.model = ConfigDict(json.loads(model))
    decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=nnx.Rngs(seed + 1))
    return {
        "model": nnx.to_pure_dict(nnx.split(Slap(config, rngs=nnx.Rngs(seed)))[1]),
        "objectives": {
            "captioning": {"decoder": nnx.to_pure_dict(nnx.split(decoder)[1])},
            "contrastive": {"log_scale": np.float32(np.log(20.0))},
            "distillation": {"head": {"prototypes": np.zeros((4, 4), np.float32)}},
        },
    }


def tiny_tokenizer(path: Path) -> Tokenizer:
    """The vocabulary that SentencePiece alone finds, of at most 64 pieces: stored golden values depend on its ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_train(CAPTIONS, 64, 1.0))
    return load_tokenizer(path)


def write_run(directory: Path, config: ConfigDict, step: int = 5, seed: int = 0) -> Path:
    """Writes what training leaves of a run: its config and a checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config.to_json_best_effort())
    with Checkpoints(directory / "checkpoints", handle_signals=False) as checkpoints:
        params = jax.tree.map(np.asarray, tiny_run_params(config, seed))
        state = {"params": params, "optimizer": {"count": np.int32(step)}}
        checkpoints.save(step, state, {}, {"config": {}}, force=True)
    return directory


def noise(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Float32 noise whose loudness moves, so that no two moments are alike."""
    generator = np.random.default_rng(seed)
    samples = max(1, round(seconds * rate))
    envelope = 0.1 + 0.1 * np.sin(np.arange(samples) / rate * generator.uniform(3, 9))
    return (envelope * generator.normal(size=samples)).astype(np.float32)


@functools.cache
def shared_params() -> dict[str, Any]:
    """Returns the parameters of `tiny_run_params(tiny_config())`; made once, so treat them as constant."""
    return tiny_run_params(tiny_config())


@functools.cache
def shared_embedder() -> Embedder:
    """Returns an embedder of `tiny_config()` whose compiled programs all tests of a process share."""
    return Embedder(tiny_config())


class CountingEmbedder(Embedder):
    """Counts how often its programs are traced, hence compiled."""

    traces = 0

    def model(self, params: Any) -> Slap:
        self.traces += 1  # Python code of a jitted function runs only while it is traced
        return super().model(params)
