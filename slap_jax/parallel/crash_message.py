"""The last message of a process that is killed before it can print one.

JAX aborts a process when another one is lost or never arrives, and the kernel kills one that runs out of memory; Python
cannot print anything then. So a small companion process, this file run as a script, holds the message. It prints the
message when its pipe closes, unless the message was withdrawn before.

Messages go through the pipe as `BEGIN aborted BETWEEN killed END`. The number of a signal, written by Python's wake-up
file descriptor, may follow; the framing bytes occur neither in UTF-8 nor as the number of a signal.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

_BEGIN, _BETWEEN, _END = b"\xfd", b"\xfe", b"\xff"


class CrashMessage:
    """Starts the companion process, which costs a few MB, and keeps its message up to date."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-I", "-S", os.path.abspath(__file__))):
        """Starts the companion.

        Args:
            command: starts it; it writes to this process's standard error.
        """
        # In its own session, because Ctrl-C in a terminal reaches the whole process group.
        self._companion = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        assert self._companion.stdin is not None
        self._pipe = self._companion.stdin.fileno()
        os.set_blocking(self._pipe, False)  # training never waits for the companion
        self._previous: tuple[int, Any] | None = None
        if threading.current_thread() is threading.main_thread():
            # Python writes signals to this pipe inside its C handler, so the companion sees an abort before it kills.
            self._previous = (
                signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False),
                signal.getsignal(signal.SIGABRT),
            )
            signal.signal(signal.SIGABRT, lambda number, frame: None)

    def set(self, aborted: str, killed: str = "") -> None:
        """Replaces the message.

        Args:
            aborted: printed if the process aborts itself.
            killed: printed if it ends in any other way; the same as `aborted` by default.
        """
        message = _BEGIN + aborted.encode() + _BETWEEN + (killed or aborted).encode() + _END
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, message)

    def close(self) -> None:
        """Withdraws the message and ends the companion."""
        if self._companion.stdin is None or self._companion.stdin.closed:
            return
        self.set("")
        if self._previous is not None:
            signal.set_wakeup_fd(self._previous[0])
            signal.signal(signal.SIGABRT, self._previous[1])
        self._companion.stdin.close()
        self._companion.wait()


def wait_for_end(pipe: int) -> str:
    """Reads until the pipe closes, and returns the message to print; "" for none."""
    newest = b""
    while received := os.read(pipe, 65_536):
        newest += received
        newest = newest[max(newest.rfind(_BEGIN, 0, newest.rfind(_END) + 1), 0) :]
    message, _, signals = newest.removeprefix(_BEGIN).partition(_END)
    aborted, _, killed = message.partition(_BETWEEN)
    return (aborted if signal.SIGABRT in signals else killed).decode()


if __name__ == "__main__":
    text = wait_for_end(0)
    if text:
        print(f"\nslap: {text}", file=sys.stderr, flush=True)
