r"""SLAP at the paper's size (arXiv 2601.12594): 12 x 768 audio and 22 x 768 text layers, 2 epochs of 109 M clips.

TPU v5p, 8 chips (v5p:2x2x2):

    launch/tpu_vm.sh up slap-base --zone us-east5-a --type v5p-16 --bucket MY_BUCKET -- \
        train --config configs/slap_base.py:data=/gcs/data --run-dir /gcs/runs/slap_base

TPU v5e, 16 chips (v5e:4x4), whose memory wants more computed again:

    launch/tpu_vm.sh up slap-base --zone us-west4-a --type v5litepod-16 --bucket MY_BUCKET -- \
        train --config configs/slap_base.py:data=/gcs/data,remat=full --run-dir /gcs/runs/slap_base

Eight H100 (h100:8), or more nodes with `sbatch --nodes N`:

    launch/gpu_single.sh -- train --config configs/slap_base.py:data=DATA --run-dir RUNS/slap_base

DATA and RUNS lie on a file system that all hosts share. About 2,060 clips of 10 s in a step, as packed rows: 256 rows
of 512 columns (81.9 s each). The paper starts its text tower from ModernBERT-base, as configs/slap_base_modernbert.py
does; this one has its depth and width but starts from scratch. What `slap aot` says of each topology, memory and bound
MFU: docs/aot.md, "Our configs". Not run by us: it needs a TPU slice or GPU nodes.
"""

from ml_collections import ConfigDict

from slap_jax.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> ConfigDict:
    """Takes `data` (directory with `train`, prepared, and `tokenizer.model`), `rows` of the whole batch and `remat`."""
    args = parse_arg(arg, data="data", rows=256, remat="dots")
    config = default_config()
    config.data.train.clips = source(f"{args.data}/train", "train")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.data.update(rows=args.rows, virtual_shards=64)
    # The eight clips of an average row have captions of up to 60 tokens each in this; every further place is padding
    # that the text tower computes.
    config.data.text_tokens = 512
    config.data.workers = 4  # on each host: eight GPUs take more audio than the threads of one process decode
    config.data.read_threads = 16  # in each worker: a mounted bucket or a network disk answers slowly
    config.model.text_encoder.layers = 22
    config.model.remat = args.remat
    config.parallel.fsdp = 8  # optimiser, teacher and parameters in eight pieces; data takes the other devices
    config.train.steps = 106_400
    config.train.log_every = 50
    return config
