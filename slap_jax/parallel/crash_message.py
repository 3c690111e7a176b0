"""What a process says when it ends without being able to say anything itself.

JAX ends a process by `abort` when another one is lost or never comes, and the kernel ends one that takes too much
memory: Python gets no chance to explain. So a small companion process, this file run as a script, holds the words that
are to be said; it prints them if the pipe to it closes before it was told that all is well.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

# Bytes that occur neither in UTF-8 nor as the number of a signal.
_BEGIN, _BETWEEN, _END = b"\xfd", b"\xfe", b"\xff"


class CrashMessage:
    """Keeps the words for a companion process, which starts at once and costs a few MB."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-I", "-S", os.path.abspath(__file__))):
        """Starts the companion.

        Args:
            command: that starts it; it writes to this process's standard error.
        """
        # A session of its own: Ctrl-C in a terminal goes to a whole group of processes.
        self._companion = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        assert self._companion.stdin is not None
        self._pipe = self._companion.stdin.fileno()
        os.set_blocking(self._pipe, False)  # training never waits for it
        self._old: tuple[int, Any] | None = None
        if threading.current_thread() is threading.main_thread():
            # Python notes a signal in this pipe inside its C handler, so an abort is seen before it kills.
            self._old = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False), signal.getsignal(signal.SIGABRT)
            signal.signal(signal.SIGABRT, lambda number, frame: None)

    def become(self, aborted: str, killed: str = "") -> None:
        """Replaces the words.

        Args:
            aborted: if the process aborts itself.
            killed: if it ends in any other way; the same by default.
        """
        words = _BEGIN + aborted.encode() + _BETWEEN + (killed or aborted).encode() + _END
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, words)

    def close(self) -> None:
        """Nothing is left to say."""
        if self._companion.stdin is None or self._companion.stdin.closed:
            return
        self.become("")
        if self._old is not None:
            signal.set_wakeup_fd(self._old[0])
            signal.signal(signal.SIGABRT, self._old[1])
        self._companion.stdin.close()
        self._companion.wait()


def listen(pipe: int) -> str:
    """Reads until the pipe closes and returns what is to be said, "" for nothing."""
    newest = b""
    while received := os.read(pipe, 65_536):
        newest += received
        newest = newest[max(newest.rfind(_BEGIN, 0, newest.rfind(_END) + 1), 0) :]
    words, _, signals = newest.removeprefix(_BEGIN).partition(_END)
    aborted, _, killed = words.partition(_BETWEEN)
    return (aborted if signal.SIGABRT in signals else killed).decode()


if __name__ == "__main__":
    said = listen(0)
    if said:
        print(f"\nslap: {said}", file=sys.stderr, flush=True)
