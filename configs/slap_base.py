r"""SLAP at the size of the paper (arXiv 2601.12594): 12 audio and 22 text layers of width 768, 2 epochs of 109 M clips.

TPU v5p, 8 chips (v5p:2x2x2):

    launch/tpu_vm.sh up slap-base --zone us-east5-a --type v5p-16 --bucket MY_BUCKET -- \
        train --config configs/slap_base.py:data=/gcs/data --run-dir /gcs/runs/slap_base

TPU v5e, 16 chips (v5e:4x4), with full rematerialisation to fit into its memory:

    launch/tpu_vm.sh up slap-base --zone us-west4-a --type v5litepod-16 --bucket MY_BUCKET -- \
        train --config configs/slap_base.py:data=/gcs/data,remat=full --run-dir /gcs/runs/slap_base

Eight H100 (h100:8), or more nodes with `sbatch --nodes N`:

    launch/gpu_single.sh -- train --config configs/slap_base.py:data=DATA --run-dir RUNS/slap_base

All hosts must share the file system of DATA and RUNS. A step trains on 256 packed rows of 512 columns (81.9 s each),
which hold about 2,000 clips of 10 s. The text tower has the depth and width of ModernBERT-base but starts from random
weights; configs/slap_base_modernbert.py starts from the pretrained ones, as the paper does. For memory and the upper
bound of MFU on each topology see "The bundled configs" in docs/aot.md. We have not run this config, which needs a TPU
slice or GPU nodes.
"""

from ml_collections import ConfigDict

from slap_jax.config import default_config, parse_arg, source
from slap_jax.data.tokenizer import vocabulary_size


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (prepared `train` and `tokenizer.model`), `rows` (of the global batch) and `remat`."""
    args = parse_arg(arg, data="data", rows=256, remat="dots")
    config = default_config()
    config.data.train.clips = source(f"{args.data}/train", "train")
    config.data.tokenizer = f"{args.data}/tokenizer.model"
    config.model.vocab_size = vocabulary_size(config.data.tokenizer, default=32_000)
    config.data.update(rows=args.rows, virtual_shards=64)
    # Room for about eight clips per row with captions of up to 60 tokens. More would only be padding to compute.
    config.data.text_tokens = 512
    config.data.workers = 4  # per host: eight GPUs consume more audio than one process can decode
    config.data.read_threads = 16  # per worker: hides the latency of a mounted bucket or network disk
    config.model.text_encoder.layers = 22
    config.model.remat = args.remat
    config.parallel.fsdp = 8  # shards parameters, teacher and optimiser state 8 ways; `data` uses the other devices
    config.train.steps = 106_400
    config.train.log_every = 50
    return config
