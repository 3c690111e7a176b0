"""Requests to stop, SIGTERM and Ctrl-C, which every process obeys after the same step."""

import os
import signal
import threading
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a flag that the training loop reads once per step.

    A second Ctrl-C aborts at once; a second SIGTERM does not, because schedulers repeat it. With several processes
    JAX's preemption service handles SIGTERM and makes all of them stop at the same step; Ctrl-C is forwarded to it.
    """

    def __init__(self) -> None:
        """Installs the signal handlers; call it in the main thread, after the processes have connected."""
        self._requested = False
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        handlers = {signal.SIGINT: self._interrupted}
        if not self._several:
            handlers[signal.SIGTERM] = self._terminated
        for number, handler in handlers.items():
            self._previous[number] = signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after this step; every process must ask after every step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def close(self) -> None:
        """Restores the previous signal handlers."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _terminated(self, number: int, frame: Any) -> None:
        self._requested = True
        logging.warning("SIGTERM: saving a checkpoint after this step, then stopping")

    def _interrupted(self, number: int, frame: Any) -> None:
        if self._requested:
            self.close()
            # Even if the old handler ignores Ctrl-C, as in background jobs of a shell. If the exception is lost in a
            # callback of JAX, `slap` sends the signal again (`slap_jax.cli.terminal`): that needs the default handler.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self._requested = True
        logging.warning("Ctrl-C: saving a checkpoint after this step, then stopping; again: stop at once, unsaved")
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
