"""A model with random weights, which has the speed and memory of a trained one."""

from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.data.tokenizer import train_tokenizer
from slap_jax.inference.model import SlapModel
from slap_jax.models.slap import Slap

CAPTIONS = ("a dog barks twice", "rain falls on a roof", "someone speaks in a hall", "a bell rings far away")


def small_config() -> ConfigDict:
    """Returns a config with the towers of `configs/slap_small.py` (12 layers of width 384) in fp32."""
    config = default_config()
    config.model.update(embed_dim=384, vocab_size=2_000, compute_dtype="float32")
    for tower in ("audio_encoder", "text_encoder"):
        config.model[tower].update(layers=12, heads=6, width=384, mlp_width=1_024)
    return config


def random_model(config: ConfigDict, folder: Path) -> SlapModel:
    """Returns a model without a caption decoder, and writes its tokenizer to the folder."""
    params = nnx.to_pure_dict(nnx.split(Slap(config, rngs=nnx.Rngs(0)))[1])
    return SlapModel(config, {"model": params}, train_tokenizer(CAPTIONS, folder / "words.model", 64))


def audio_parameters(model: SlapModel) -> int:
    """Counts the parameters that are used to embed audio."""
    import jax

    audio = {name: part for name, part in model.params["model"].items() if name.startswith("audio_")}
    return sum(leaf.size for leaf in jax.tree.leaves(audio))
