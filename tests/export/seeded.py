"""Small models whose every parameter comes from a seeded generator, so that other frameworks' outputs can be stored."""

from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.slap import Slap
from slap_jax.params import flatten, unflatten
from tests.inference.tiny import noise, tiny_config

SECONDS = (1 / 16_000, 0.2, 0.5, 2.4, 3.3)
TEXTS = ("rain falls", "a dog barks outside", "someone speaks very softly near the sea", "b")


def seeded_config(kind: str) -> ConfigDict:
    """Returns a config with two repetitions of local and global audio layers; `kind` selects the text tower."""
    config = tiny_config()
    config.model.vocab_size = 44  # as many as the tiny vocabulary has, so that captions spell something
    config.model.audio_encoder.update(layers=6, local_window=6)
    config.model.text_encoder.update(layers=4, locals_per_global=1, local_window=2)
    if kind == "modernbert":
        config.model.text_encoder.update(kind=kind, layers=7, locals_per_global=2, rope_base_local=100.0)
    config.data.max_caption_tokens = 16
    return config


def seeded_params(config: ConfigDict, seed: int = 1) -> dict[str, Any]:
    """Returns parameters with a caption decoder; they depend only on names, shapes and the seed."""

    def create() -> tuple[Slap, CaptionDecoder]:
        decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=nnx.Rngs(0))
        return Slap(config, rngs=nnx.Rngs(0)), decoder

    model, decoder = (nnx.to_pure_dict(nnx.split(part)[1]) for part in nnx.eval_shape(create))
    shapes = flatten({"model": model, "objectives": {"captioning": {"decoder": decoder}}})
    generator = np.random.default_rng(seed)
    values = {}
    for name in sorted(shapes):
        shape, kind = shapes[name].shape, name.rsplit("/", 1)[1]
        drawn = generator.normal(size=shape)
        if kind == "kernel":
            drawn = drawn * shape[-2] ** -0.5
        if "decoder" in name:  # else it would repeat its input
            drawn = drawn * (0.05 if kind == "table" else 3.0 if "attention" in name and kind == "kernel" else 1.0)
        if kind == "scale":
            drawn = 1 + 0.2 * drawn
        values[name] = drawn.astype(np.float32)
    return unflatten({**values, "objectives/contrastive/log_scale": np.float32(np.log(20.0))})


def seeded_clips() -> list[np.ndarray]:
    """Returns clips of one sample to a few seconds."""
    return [noise(seed, seconds) for seed, seconds in enumerate(SECONDS)]
