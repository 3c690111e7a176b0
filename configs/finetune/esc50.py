r"""Fine-tuning on ESC-50 (50 classes) with five-fold cross-validation: train on four folds, test on the fifth.

    slap prepare path/to/ESC-50-master data/esc50 --dataset esc50
    for fold in 1 2 3 4 5; do
        slap train --config configs/finetune/esc50.py:model=runs/base,data=data/esc50,fold=$fold \
            --run-dir runs/esc50/$fold
        slap score runs/esc50/$fold --output runs/esc50/$fold.json
    done

The result is the mean of the five accuracies. The test fold must not select anything, so the last step is scored rather
than the best. We have not run this config at full size.
"""

from ml_collections import ConfigDict

from slap_jax.config import ConfigError, parse_arg, source
from slap_jax.finetune.config import finetune_config

FOLDS = 5


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `model` (run or export to start from), `data`, `fold` (the test fold, 1 to 5) and `epochs`."""
    args = parse_arg(arg, model="runs/base", data="data/esc50", fold=1, epochs=50)
    if not 1 <= args.fold <= FOLDS:
        raise ConfigError(f"fold={args.fold}; write 1 to {FOLDS}")
    trained = "+".join(f"fold{fold}" for fold in range(1, FOLDS + 1) if fold != args.fold)
    config = finetune_config(
        args.model,
        "classification",
        train={"esc50": source(args.data, trained)},
        evaluation={"test": source(args.data, f"fold{args.fold}")},
        label="label",
        max_seconds=5.0,
        clips_per_step=64,
        epochs=args.epochs,
    )
    config.objectives.classification.mixup_probability = 0.5
    config.train.update(best_metric="", patience=0)
    return config
