r"""SLAP as in the paper (arXiv 2601.12594): the audio tower of slap_base and the pretrained text tower ModernBERT-base.

TPU v5p, 8 chips (v5p:2x2x2), with the ModernBERT folder on a file system that all hosts share:

    launch/tpu_vm.sh up slap-bert --zone us-east5-a --type v5p-16 --bucket MY_BUCKET -- \
        train --config configs/slap_base_modernbert.py:data=/gcs/data,modernbert=/gcs/ModernBERT-base \
        --run-dir /gcs/runs/slap_base_modernbert

Eight H100 (h100:8), or more nodes with `sbatch --nodes N`:

    launch/gpu_single.sh -- \
        train --config configs/slap_base_modernbert.py:data=DATA,modernbert=FOLDER --run-dir RUNS/slap_base_modernbert

FOLDER holds ModernBERT's `config.json`, `model.safetensors` and `tokenizer.json`; see docs/modernbert.md. Rows, batch
size and schedule are those of slap_base. We have not run this config, which needs a TPU slice or GPU nodes and the
weights.
"""

from ml_collections import ConfigDict

from slap_jax.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: `data` (prepared `train`), `modernbert` (folder), `rows` (of the global batch) and `remat`."""
    args = parse_arg(arg, data="data", modernbert="ModernBERT-base", rows=256, remat="dots")
    config = default_config()
    config.data.train.clips = source(f"{args.data}/train", "train")
    config.data.tokenizer = f"{args.modernbert}/tokenizer.json"
    config.data.update(rows=args.rows, virtual_shards=64)
    config.data.text_tokens = 512
    config.data.workers = 4
    config.data.read_threads = 16

    config.init_text_from = args.modernbert
    config.model.update(vocab_size=50_368, pad_id=50_283, bos_id=50_281, eos_id=50_282)
    config.model.text_encoder.update(
        kind="modernbert",
        layers=22,
        heads=12,
        width=768,
        mlp_width=1_152,
        locals_per_global=2,
        local_window=64,  # to each side; ModernBERT's 128 counts both sides
        rope_base=160_000.0,
        rope_base_local=10_000.0,
    )
    # A lower learning rate protects the pretrained tower from the noisy gradients of the randomly initialised parts.
    config.optimizer.learning_rate_factors = ((r"^model/text_encoder/", 0.1),)
    config.model.remat = args.remat
    config.parallel.fsdp = 8
    config.train.steps = 106_400
    config.train.log_every = 50
    return config
