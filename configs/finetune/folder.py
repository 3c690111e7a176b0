r"""Fine-tuning on your own folder of recordings with captions or labels.

    slap prepare path/to/folder data/mine
    slap train --config configs/finetune/folder.py:model=runs/base,data=data/mine --run-dir runs/mine

    slap train --config configs/finetune/folder.py:model=runs/base,data=data/mine,task=classification,label=kind \
        --run-dir runs/mine

docs/collections.md describes the layouts of a folder and its division into splits. The split `val` selects the best
step. `slap finetune` does the same without a config file; copy this file to change more settings.
"""

from ml_collections import ConfigDict

from slap_jax.config import parse_arg, source
from slap_jax.finetune.config import finetune_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `model`, `data`, `task` (as in `slap finetune`), `label`, and the splits `train` and `val`."""
    args = parse_arg(arg, model="runs/base", data="data/mine", task="retrieval", label="", train="train", val="val")
    config = finetune_config(
        args.model,
        args.task,
        train={"mine": source(args.data, args.train)},
        evaluation={"val": source(args.data, args.val)},
        label=args.label,
    )
    config.train.patience = 5
    return config
