r"""The ablation study of the paper at small scale: a few hours of captioned clips on a CPU, one change per variant.

    slap prepare path/to/manifest.jsonl runs/ablations/data/clips
    slap tokenizer runs/ablations/data/clips --vocab-size 2000 --output runs/ablations/data/tokenizer.model
    slap ablations --config configs/ablations/corpus.py:data=runs/ablations/data --seeds 0,1,2 \
        --run-dir runs/ablations/runs --output docs/results.md

or a single run:

    slap train --config configs/ablations/corpus.py:data=runs/ablations/data,variant=sigmoid,seed=1 --run-dir runs/x

The manifest must have the splits `train`, `val` and `test`; evaluation uses `val` and `test` together. All variants
with the same seed train on the same batches in the same order. The results are in docs/results.md.
"""

from ml_collections import ConfigDict

from slap_jax.config import ConfigError, default_config, parse_arg, source

# The settings that each variant changes.
VARIANTS = {
    "full": {},
    "no_distillation": {"objectives.distillation.weight": 0.0},
    "no_captioning": {"objectives.captioning.weight": 0.0},
    "contrastive_only": {"objectives.distillation.weight": 0.0, "objectives.captioning.weight": 0.0},
    "all_global": {"model.audio_encoder.locals_per_global": 0},
    # 12 columns to each side with all 4 patches each (48 tokens), instead of 12 patches.
    "window_in_frames": {"model.audio_encoder.local_window": 48},
    "sigmoid": {"objectives.contrastive.form": "sigmoid"},
    "shared_view": {"objectives.distillation.view": "shared"},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (directory of the prepared data), `variant`, `seed` and `steps`."""
    args = parse_arg(arg, data="runs/ablations/data", variant="full", seed=0, steps=300)
    if args.variant not in VARIANTS:
        raise ConfigError(f"variant={args.variant!r}; write one of {', '.join(VARIANTS)}")
    config = default_config()
    config.seed = args.seed

    config.audio.update(mean=-8.32, std=3.55)  # from `slap stats` on the training split
    config.data.train.clips = source(f"{args.data}/clips", "train")
    config.data.evaluation.clips = source(f"{args.data}/clips", "val+test")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=12, columns=64, slots=16, text_tokens=96, max_seconds=10.24, max_caption_tokens=64)
    config.data.augment.update(gain_db=0.0, lead_in_seconds=0.0)  # the paper mentions neither
    config.data.update(virtual_shards=4, packing_bins=16, decode_threads=1)

    config.model.update(embed_dim=128, vocab_size=2_000, compute_dtype="float32")
    config.model.audio_encoder.update(layers=3, heads=4, width=128, mlp_width=344)
    config.model.text_encoder.update(layers=3, heads=4, width=128, mlp_width=344)
    config.model.caption_decoder.update(layers=2, heads=4, width=128, mlp_width=344)
    config.objectives.distillation.update(prototypes=512, hidden=256, bottleneck=64)

    config.optimizer.update(learning_rate=1e-3, warmup_steps=min(50, args.steps), weight_decay=0.1)
    config.train.update(steps=args.steps, log_every=10)
    config.checkpoint.update(every=100, keep=1)
    config.metrics.tensorboard = False
    config.update_from_flattened_dict(VARIANTS[args.variant])
    return config
