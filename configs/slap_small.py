"""A small SLAP: an audio tower of 22 M parameters (12 x 384), for one TPU host or one GPU, all three objectives.

    slap train --config configs/slap_small.py:data=DATA --run-dir RUNS/slap_small

DATA and RUNS lie on a file system that all hosts share. The paper's 2,048 clips of 10 s in a step, as 256 packed rows.
The learning rate stays constant and falls over the last fifth of the steps (WSD), so a run can be extended.
"""

from ml_collections import ConfigDict

from slap_jax.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> ConfigDict:
    """Takes `data` (directory with `train`, prepared, and `tokenizer.model`), `rows` of the whole batch and `remat`."""
    args = parse_arg(arg, data="data", rows=256, remat="dots")
    config = default_config()
    config.data.train.clips = source(f"{args.data}/train", "train")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=args.rows, virtual_shards=64, text_tokens=512)
    config.data.workers = 4
    config.data.read_threads = 16
    config.model.embed_dim = 384
    config.model.audio_encoder.update(layers=12, heads=6, width=384, mlp_width=1_024)
    config.model.text_encoder.update(layers=12, heads=6, width=384, mlp_width=1_024)
    config.model.caption_decoder.update(layers=4, heads=6, width=384, mlp_width=1_024)
    config.model.remat = args.remat
    config.optimizer.update(learning_rate=5e-4, schedule="wsd", decay_fraction=0.2)
    config.train.steps = 50_000
    config.train.log_every = 50
    return config
