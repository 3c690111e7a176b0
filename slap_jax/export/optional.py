"""Packages that only some formats need."""

import importlib.util

from slap_jax.export.safetensors import ExportError


def require_packages(purpose: str, extra: str, *names: str) -> None:
    """Checks that packages are installed, before any work is done.

    Args:
        purpose: what wants them, the start of the message.
        extra: of slap-jax, which installs them.
        names: as they are imported.

    Raises:
        ExportError: names the packages that are missing and the extra.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{purpose} needs {', '.join(missing)}: pip install 'slap-jax[{extra}]'")
