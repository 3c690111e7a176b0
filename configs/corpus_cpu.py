"""Training on a few hours of captioned clips with 2 CPU cores: the contrastive objective alone, or all three.

    slap prepare path/to/manifest.jsonl runs/corpus/data/clips
    slap tokenizer runs/corpus/data/clips --vocab-size 2000 --output runs/corpus/data/tokenizer.model
    slap train --config configs/corpus_cpu.py:objectives=contrastive --run-dir runs/corpus/contrastive
    slap train --config configs/corpus_cpu.py:objectives=all --run-dir runs/corpus/all

Both settings train on the same number of seconds of audio. The manifest must have the splits `train`, `val` and `test`;
evaluation uses `val` and `test` together. For the results on 2 CPU cores see "Measured" in README.md.
"""

from ml_collections import ConfigDict

from slap_jax.config import ConfigError, default_config, parse_arg, source


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (directory of the prepared data), `objectives` (all | contrastive) and `steps`."""
    args = parse_arg(arg, data="runs/corpus/data", objectives="all", steps=1_000)
    if args.objectives not in ("all", "contrastive"):
        raise ConfigError(f"objectives={args.objectives!r}; write objectives=all or objectives=contrastive")
    config = default_config()

    config.audio.update(mean=-8.32, std=3.55)  # from `slap stats` on the training split
    config.data.train.clips = source(f"{args.data}/clips", "train")
    config.data.evaluation.clips = source(f"{args.data}/clips", "val+test")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=24, columns=64, slots=16, text_tokens=96, max_seconds=10.24, max_caption_tokens=64)
    config.data.update(virtual_shards=4, packing_bins=16, decode_threads=1)

    config.model.update(embed_dim=256, vocab_size=2_000, compute_dtype="float32")
    config.model.audio_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.text_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.caption_decoder.update(layers=2, heads=3, width=192, mlp_width=512)
    config.objectives.distillation.update(prototypes=512, hidden=384, bottleneck=64)
    if args.objectives == "contrastive":
        config.objectives.distillation.weight = 0.0
        config.objectives.captioning.weight = 0.0

    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, weight_decay=0.1)
    config.train.update(steps=args.steps, log_every=10, evaluate_every=250)
    config.checkpoint.update(every=250, keep=2)
    return config
