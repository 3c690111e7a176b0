"""The terminal: output in its encoding, JSON, interruption, and short notes while a command is busy."""

import _thread
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_AGAIN_SECONDS = 0.01


def use_any_encoding() -> None:
    """Lets standard output and standard error print every name.

    A redirected console may use cp1252 or ASCII. Characters that it lacks are printed as escapes such as \\u72ac,
    because an exception would end a job in its middle.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def print_json(value: Any, indent: int | None = 2) -> None:
    """Prints JSON in the encoding of standard output; a character that the encoding lacks becomes a JSON escape."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(value, indent=indent, ensure_ascii=not is_utf8, allow_nan=False))


def hear_interrupts() -> None:
    """Makes Ctrl+C end the program even if it arrives inside a callback that ignores exceptions.

    JAX frees memory in a callback of the garbage collector. Python prints an exception that is raised there and
    continues, so the interrupt is raised again from outside the callback.
    """
    previous = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs", /) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            again = threading.Timer(_AGAIN_SECONDS, _interrupt)
            again.daemon = True
            again.start()
        else:
            previous(unraisable)

    if getattr(previous, "__module__", "") != __name__:  # main may run several times in one process
        sys.unraisablehook = hook


def _interrupt() -> None:
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGINT)  # a real signal ends a system call too
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def busy(note: str) -> Iterator[None]:
    """Shows a note on a terminal until the block ends; an empty note is not shown."""
    if not note or not sys.stderr.isatty():
        yield
        return
    print(note, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
