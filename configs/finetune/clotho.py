r"""Fine-tuning on Clotho for retrieval or captioning: 3,839 clips of 15 to 30 seconds with five captions each.

    slap prepare path/to/clotho data/clotho --dataset clotho
    slap train --config configs/finetune/clotho.py:model=runs/base,data=data/clotho --run-dir runs/clotho
    slap evaluate runs/clotho/best --data clotho=data/clotho:evaluation

    slap train --config configs/finetune/clotho.py:model=runs/base,data=data/clotho,task=captioning \
        --run-dir runs/clotho_captions
    slap evaluate runs/clotho_captions/best --data clotho=data/clotho:evaluation --measure captioning

Each time a clip is drawn, one of its five captions is used. The split `validation` selects the best step; use
`evaluation`, on which papers report, only once, at the end. We have not run this config. `slap table` lists published
results for comparison.
"""

from ml_collections import ConfigDict

from slap_jax.config import parse_arg, source
from slap_jax.finetune.config import finetune_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `model` (run or export to start from), `data`, `task` (retrieval | captioning) and `epochs`."""
    args = parse_arg(arg, model="runs/base", data="data/clotho", task="retrieval", epochs=20)
    return finetune_config(
        args.model,
        args.task,
        train={"clotho": source(args.data, "development")},
        evaluation={"val": source(args.data, "validation")},
        max_seconds=30.0,  # whole clips
        clips_per_step=64,
        epochs=args.epochs,
    )
