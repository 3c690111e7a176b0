r"""A small SLAP with all three objectives for one host: 22 M parameters in the audio tower (12 x 384).

TPU v5e, one host of 8 chips (v5e:2x4), with full rematerialisation to fit into its memory:

    launch/tpu_vm.sh up slap-small --zone us-west4-a --type v5litepod-8 --bucket MY_BUCKET -- \
        train --config configs/slap_small.py:data=/gcs/data,remat=full --run-dir /gcs/runs/slap_small

Four H100 (h100:4):

    launch/gpu_single.sh -- train --config configs/slap_small.py:data=DATA --run-dir RUNS/slap_small

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
    config.model.embed_dim = 384
    config.model.audio_encoder.update(layers=12, heads=6, width=384, mlp_width=1_024)
    config.model.text_encoder.update(layers=12, heads=6, width=384, mlp_width=1_024)
    config.model.caption_decoder.update(layers=4, heads=6, width=384, mlp_width=1_024)
    config.model.remat = args.remat
    config.optimizer.update(learning_rate=5e-4, schedule="wsd", decay_fraction=0.2)
    config.train.steps = 50_000
    config.train.log_every = 50
    return config
