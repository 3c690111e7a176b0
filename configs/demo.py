"""The demo: a small model with all three objectives, trained on the included clips and synthetic scenes in minutes.

    make demo

or, with data prepared as in the Makefile,

    slap train --config configs/demo.py:data=runs/demo/data --run-dir runs/demo

For the results on 2 CPU cores see docs/results.md.
"""

from ml_collections import ConfigDict

from slap_jax.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (directory of the prepared data) and `steps`."""
    args = parse_arg(arg, data="runs/demo/data", steps=800)
    config = default_config()

    config.audio.update(mean=-9.4, std=3.4)  # from `slap stats` on both sources
    config.data.train.clips = source(f"{args.data}/clips", "train", weight=0.5)
    config.data.train.scenes = source(f"{args.data}/scenes", "train", weight=0.5)
    config.data.evaluation.clips = source(f"{args.data}/clips", "test")
    config.data.evaluation.scenes = source(f"{args.data}/scenes", "test", label="sound")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=8, columns=64, slots=16, text_tokens=128, max_seconds=10.24, max_caption_tokens=48)
    config.data.update(virtual_shards=2, packing_bins=16, decode_threads=1)

    config.model.update(embed_dim=192, vocab_size=400, compute_dtype="float32", scan_unroll=4)
    config.model.audio_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.text_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.caption_decoder.update(layers=2, heads=3, width=192, mlp_width=512)
    config.objectives.distillation.update(prototypes=512, hidden=384, bottleneck=64, momentum_start=0.98)

    config.optimizer.update(learning_rate=1e-3, warmup_steps=40, weight_decay=0.1)
    config.train.update(steps=args.steps, log_every=10, evaluate_every=160)
    config.checkpoint.update(every=200, keep=2)
    return config
