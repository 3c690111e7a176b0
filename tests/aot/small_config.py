"""A config whose step compiles in seconds, and whose rows are long enough for the attention kernels."""

from ml_collections import ConfigDict

from tests.tiny import tiny_config


def small_config(**parallel: int) -> ConfigDict:
    """Contrastive learning alone, one super-block of audio layers and one text layer, heads of 64."""
    config = tiny_config(distillation=0.0, captioning=0.0)
    config.data.update(columns=96, slots=6, text_tokens=256)
    config.model.compute_dtype = "bfloat16"
    config.model.audio_encoder.update(layers=3, heads=1, width=64)
    config.model.text_encoder.update(layers=1, heads=1, width=64)
    config.parallel.update(parallel)
    return config
