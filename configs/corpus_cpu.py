"""Training on a few hours of captioned clips with 2 CPU cores: the contrastive objective alone, or all three.

    slap prepare path/to/manifest.jsonl runs/corpus/data/clips
    slap tokenizer runs/corpus/data/clips --vocab-size 2000 --output runs/corpus/data/tokenizer.model
    slap train --config configs/corpus_cpu.py:objectives=contrastive --run-dir runs/corpus/contrastive
    slap train --config configs/corpus_cpu.py:objectives=all --run-dir runs/corpus/all

Both settings train on the same number of seconds of audio. The manifest must have the splits `train`, `val` and `test`;
evaluation uses `val` and `test` together. Mean and deviation of the log-mel come from the prepared data, the size of
the vocabulary from the tokenizer. For the results on 2 CPU cores see docs/results.md.
"""

from ml_collections import ConfigDict

from slap_jax.config import ConfigError, default_config, parse_arg, source
from slap_jax.data.log_mel_statistics import read_log_mel_statistics
from slap_jax.data.tokenizer import vocabulary_size


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (directory of the prepared data), `objectives` (all | contrastive) and `steps`."""
    args = parse_arg(arg, data="runs/corpus/data", objectives="all", steps=1_000)
    if args.objectives not in ("all", "contrastive"):
        raise ConfigError(f"objectives={args.objectives!r}; write objectives=all or objectives=contrastive")
    config = default_config()

    mean, std = read_log_mel_statistics(f"{args.data}/clips") or (-8.32, 3.55)  # those of our corpus
    config.audio.update(mean=round(mean, 2), std=round(std, 2))
    config.data.train.clips = source(f"{args.data}/clips", "train")
    config.data.evaluation.clips = source(f"{args.data}/clips", "val+test")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=24, columns=64, slots=16, text_tokens=96, max_seconds=10.24, max_caption_tokens=64)
    config.data.update(virtual_shards=4, packing_bins=16, decode_threads=1)

    vocab_size = vocabulary_size(config.data.tokenizer, default=2_000)
    config.model.update(embed_dim=256, vocab_size=vocab_size, compute_dtype="float32")
    config.model.audio_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.text_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.model.caption_decoder.update(layers=2, heads=3, width=192, mlp_width=512)
    config.objectives.distillation.update(prototypes=512, hidden=384, bottleneck=64)
    if args.objectives == "contrastive":
        config.objectives.distillation.weight = 0.0
        config.objectives.captioning.weight = 0.0

    config.optimizer.update(learning_rate=1e-3, warmup_steps=min(100, args.steps // 10), weight_decay=0.1)
    config.train.update(steps=args.steps, log_every=10, evaluate_every=250)
    config.checkpoint.update(every=250, keep=2)
    return config
