"""Types of command-line arguments and the errors about them. Imports nothing slow, so that `slap --help` is instant."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.errors import UserError, require_path

_MOST_COUNT, _MOST_INTEGER = 2**31 - 1, 2**63 - 1  # sizes of arrays on devices have 32 bits; seeds and steps have 64

# Makes the parser of a verb from its function: the name and the first line of the docstring.
AddVerb = Callable[[Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]


class ArgumentError(UserError, ValueError):
    """Arguments that contradict each other, or one that does not have the expected form."""


def path(text: str) -> Path:
    """Parses a file or folder; raises `UrlError` for a URL."""
    return Path(require_path(text))


def positive(text: str) -> int:
    """Parses an integer above 0."""
    return _between(1, _MOST_COUNT, text)


def non_negative(text: str) -> int:
    """Parses an integer, 0 or more."""
    return _between(0, _MOST_INTEGER, text)


def _between(least: int, most: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    if number > most:
        raise argparse.ArgumentTypeError(f"{text} is more than {most}")
    return number
