"""Types of command-line arguments and the errors about them. Imports nothing slow, so that `slap --help` is instant."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.errors import UserError, require_path

# Makes the parser of a verb from its function: the name and the first line of the docstring.
AddVerb = Callable[[Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]


class ArgumentError(UserError, ValueError):
    """Arguments that contradict each other, or one that does not have the expected form."""


def path(text: str) -> Path:
    """Parses a file or folder; raises `UrlError` for a URL."""
    return Path(require_path(text))


def positive(text: str) -> int:
    """Parses an integer above 0."""
    return _at_least(1, text)


def non_negative(text: str) -> int:
    """Parses an integer, 0 or more."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return number
