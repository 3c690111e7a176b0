"""slap_jax: language-audio pretraining on packed audio of any duration (SLAP, arXiv 2601.12594), in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from slap_jax.inference.model import SlapModel

__version__: str
__all__ = ["SlapModel", "__version__", "load"]


def load(
    directory: "str | os.PathLike[str]", compute_dtype: str | None = None, device: str | None = None
) -> "SlapModel":
    """Reads a model that `slap export` wrote; see `slap_jax.inference.model.SlapModel`.

    Args:
        directory: holds `model.safetensors`, `config.json` and the vocabulary.
        compute_dtype: "float32" or "bfloat16"; None for that of training.
        device: device of JAX, such as "cpu" or "gpu:1"; None for JAX's default, an accelerator if there is one.
    """
    from slap_jax.inference.model import SlapModel

    return SlapModel.load(directory, compute_dtype, device)


def __getattr__(name: str) -> Any:
    # Importing JAX takes seconds, so `import slap_jax` defers it until a model is needed.
    if name == "SlapModel":
        from slap_jax.inference.model import SlapModel

        return SlapModel
    if name == "__version__":
        from importlib.metadata import version

        return version("slap-jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
