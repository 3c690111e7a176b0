"""slap_jax: language-audio pretraining on packed audio of any duration (SLAP, arXiv 2601.12594), in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from slap_jax.inference.model import SlapModel
    from slap_jax.other_models.dual_encoder import DualEncoder

__version__: str
__all__ = ["SlapModel", "__version__", "load"]


def load(
    source: "str | os.PathLike[str]",
    compute_dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> "SlapModel | DualEncoder":
    """Reads a model; see `slap_jax.inference.model.SlapModel` for what it does.

    Args:
        source: an export directory, or a run; the id "owner/name" or the URL of an export on the Hugging Face hub,
            which is downloaded and cached; or a model of another family, see `slap_jax.other_models.load.load_model`.
        compute_dtype: "float32" or "bfloat16"; None for that of training.
        device: device of JAX, such as "cpu" or "gpu:1"; None for JAX's default, an accelerator if there is one.
        revision: branch, tag or commit on the hub; None for the main branch.

    Raises:
        ExportError: the directory is not an export, or is damaged.
        HubError: the model cannot be downloaded.
        DeviceError: there is no such device.
    """
    from slap_jax.other_models.load import load_model

    return load_model(source, compute_dtype=compute_dtype, device=device, revision=revision)


def __getattr__(name: str) -> Any:
    # Importing JAX takes seconds, so `import slap_jax` defers it until a model is needed.
    if name == "SlapModel":
        from slap_jax.inference.model import SlapModel

        return SlapModel
    if name == "__version__":
        from importlib.metadata import version

        return version("slap-jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
