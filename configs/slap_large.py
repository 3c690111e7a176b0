r"""A large SLAP with all three objectives: 0.3 B parameters each in the audio tower (24 x 1,024) and text tower.

TPU v5p, 16 chips (v5p:2x2x4):

    launch/tpu_vm.sh up slap-large --zone us-east5-a --type v5p-32 --bucket MY_BUCKET -- \
        train --config configs/slap_large.py:data=/gcs/data --run-dir /gcs/runs/slap_large

Four nodes of eight H100 (h100:4x8):

    sbatch --nodes 4 launch/gpu_slurm.sbatch \
        train --config configs/slap_large.py:data=DATA --run-dir RUNS/slap_large

All hosts must share the file system of DATA and RUNS. A step trains on 256 packed rows, which hold about 2,000 clips of
10 s (the paper uses 2,048). The learning rate is constant and decays over the last fifth of the steps (WSD), so a run
can be extended. For memory and the upper bound of MFU on each topology see "The bundled configs" in docs/aot.md. We
have not run this config.
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
    config.data.update(rows=args.rows, virtual_shards=64, text_tokens=512)
    config.data.workers = 4
    config.data.read_threads = 16
    config.model.embed_dim = 1_024
    config.model.audio_encoder.update(layers=24, heads=16, width=1_024, mlp_width=2_816)
    config.model.text_encoder.update(layers=22, heads=16, width=1_024, mlp_width=2_816)
    config.model.caption_decoder.update(layers=8, heads=12, width=768, mlp_width=2_048)
    config.model.remat = args.remat
    config.optimizer.update(schedule="wsd", decay_fraction=0.2)
    config.parallel.fsdp = 8  # shards parameters, teacher and optimiser state 8 ways; `data` uses the other devices
    config.train.steps = 106_400
    config.train.log_every = 50
    return config
