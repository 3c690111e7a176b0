"""Detects a process that was forked from one in which JAX runs. JAX would hang there without a message."""

import os

from slap_jax.errors import UserError

_process: int | None = None  # id of the process in which the first model was set up


class ForkError(UserError, RuntimeError):
    """A model is used in a process that was forked after a model was loaded."""


def require_own_process() -> None:
    """Marks this process as one that runs models.

    Raises:
        ForkError: the process that this one was forked from runs models already. The threads of JAX do not survive a
            fork, so that a program would wait for them forever.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise ForkError(
            f"this process was forked from process {_process}, which had loaded a model, and JAX does not work after "
            "a fork: start worker processes by 'spawn' (in gunicorn: without --preload), and load the model in each"
        )
