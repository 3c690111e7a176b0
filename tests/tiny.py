"""A model and batches small enough that a whole training step compiles in seconds."""

import numpy as np
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import default_config, source
from slap_jax.data.packing import Clip, pack_rows

VOCABULARY = 64


def tiny_config(data: str = "unused", **weights: float) -> ConfigDict:
    """Returns a toy config with all three objectives in fp32; `weights` by objective name."""
    config = default_config()
    config.data.train.scenes = source(f"{data}/scenes", "train")
    config.data.tokenizer = f"{data}/tokenizer.model"
    config.data.update(rows=8, columns=16, slots=4, text_tokens=32, max_seconds=2.56, max_caption_tokens=16)
    config.data.update(virtual_shards=4, decode_threads=1, packing_bins=4)
    config.model.update(embed_dim=16, vocab_size=VOCABULARY, compute_dtype="float32")
    config.model.audio_encoder.update(layers=3, heads=2, width=16, mlp_width=32, local_window=4)
    config.model.text_encoder.update(layers=2, heads=2, width=16, mlp_width=32)
    config.model.caption_decoder.update(layers=2, heads=2, width=16, mlp_width=32)
    config.objectives.distillation.update(prototypes=32, hidden=32, bottleneck=8)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=4)
    config.train.update(steps=20, log_every=1, peak_flops_per_device=1e12)
    config.checkpoint.every = 5
    for name, weight in weights.items():
        config.objectives[name].weight = weight
    return config


def tiny_batch(config: ConfigDict, seed: int = 0) -> PackedBatch:
    """Returns rows of noise clips with random captions and most slots filled."""
    generator = np.random.default_rng(seed)
    data = config.data
    clips = []
    for key in range(data.rows * data.slots * 2):
        samples = generator.integers(1_000, 12_000)
        words = generator.integers(4, VOCABULARY, generator.integers(1, 6))
        waveform = (generator.standard_normal(samples) * 3_000).astype(np.int16)
        clips.append(Clip(waveform, [1, *map(int, words), 2], key))
    batch, _ = pack_rows(clips, data.columns, data.slots, data.text_tokens, 2_560)
    rows = {name: getattr(batch, name)[: data.rows] for name in batch.__dataclass_fields__}
    return PackedBatch(**rows)
