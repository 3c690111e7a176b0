r"""Fine-tuning on AudioCaps for retrieval or captioning: 49,838 clips of ten seconds with one caption each.

    slap prepare path/to/audiocaps data/audiocaps --dataset audiocaps
    slap train --config configs/finetune/audiocaps.py:model=runs/base,data=data/audiocaps --run-dir runs/audiocaps
    slap evaluate runs/audiocaps/best --data audiocaps=data/audiocaps:test

    slap train --config configs/finetune/audiocaps.py:model=runs/base,data=data/audiocaps,task=captioning \
        --run-dir runs/audiocaps_captions
    slap evaluate runs/audiocaps_captions/best --data audiocaps=data/audiocaps:test --measure captioning

The split `val` selects the best step; use `test` only once, at the end. We have not run this config, because the clips
cannot be downloaded. `slap table` lists published results for comparison.
"""

from ml_collections import ConfigDict

from slap_jax.config import parse_arg, source
from slap_jax.finetune.config import finetune_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `model` (run or export to start from), `data`, `task` (retrieval | captioning) and `epochs`."""
    args = parse_arg(arg, model="runs/base", data="data/audiocaps", task="retrieval", epochs=10)
    return finetune_config(
        args.model,
        args.task,
        train={"audiocaps": source(args.data, "train")},
        evaluation={"val": source(args.data, "val")},
        max_seconds=10.24,
        clips_per_step=128,  # more clips give each caption more negatives: use as many as fit into memory
        epochs=args.epochs,
    )
