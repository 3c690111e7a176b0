"""What a program is compiled for: the machine's own devices, or others that are described but not there."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("target platform", default=None)


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": what the program that is being traced will run on.

    Choices between kernels are made while tracing, so they must ask here and not `jax.default_backend()`, which tells
    what the machine has that compiles.
    """
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Makes `target_platform()` answer `platform` inside; trace fresh functions there, not ones traced before."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
