"""Optional packages that some export formats need."""

import importlib.util

from slap_jax.checkpoints.model_dir import ExportError


def require_packages(purpose: str, extra: str, *names: str) -> None:
    """Checks that packages are installed, before any work is done.

    Args:
        purpose: the feature that needs them; starts the message.
        extra: the extra of slap-jax that installs them.
        names: import names.

    Raises:
        ExportError: names the missing packages and the extra.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{purpose} needs {', '.join(missing)}: pip install 'slap-jax[{extra}]'")
