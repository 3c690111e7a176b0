"""Types of command-line arguments and the errors about them. Imports nothing slow, so that `slap --help` is instant."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.errors import UserError, require_path

_MOST_COUNT, _MOST_INTEGER = 2**31 - 1, 2**63 - 1  # sizes of arrays on devices have 32 bits; seeds and steps have 64

# What --model and $SLAP_MODEL accept in every verb.
_MODEL = (
    "an export, a run, the best step of a run, the id owner/name or the URL of an export on the Hugging Face hub, or, "
    "where the verb supports it, a model of another family, such as a ClapModel folder"
)

# Makes the parser of a verb from its function: its name, and the summary and the example in its docstring.
AddVerb = Callable[[Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]


class ArgumentError(UserError, ValueError):
    """Arguments that contradict each other, or one that does not have the expected form."""


def model_name(text: str) -> str:
    """Parses a model: a path, an id or a URL on the Hugging Face hub, or the name of a model of another family.

    Raises:
        UrlError: it is a URL of a bucket.
        PathNameError: it is not UTF-8.
    """
    return text if text.startswith(("https://", "http://")) else require_path(text)


def add_model(parser: argparse.ArgumentParser, positional: str = "") -> None:
    """Adds the model of a verb, whose default is the environment variable SLAP_MODEL.

    Args:
        parser: parser of the verb.
        positional: metavar of a positional argument that may name the model instead of --model.
    """
    if positional:
        parser.add_argument(
            "model_argument", nargs="?", type=model_name, metavar=positional, help=f"The model: {_MODEL}."
        )
    parser.add_argument("--model", type=model_name, metavar="MODEL", help=f"The model: {_MODEL} ($SLAP_MODEL).")


def add_device(parser: argparse.ArgumentParser, *, batches: bool = False) -> None:
    """Adds --device of a verb that uses a model, and --batch-size if it processes many clips."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="The device to run on, such as cpu or gpu:1 (default: an accelerator if JAX has one, else the CPU).",
    )
    if batches:
        parser.add_argument(
            "--batch-size",
            type=positive,
            metavar="N",
            help="The most clips or texts to process at a time (default: by device and length).",
        )


def add_files(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Adds the audio files of a verb, and --json."""
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help=f"Audio files, folders, or patterns in quotes. {note}".strip()
    )
    parser.add_argument(
        "--files-from",
        type=require_path,
        metavar="FILE",
        help="Read more paths from a file, one in each line; - reads standard input.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object, with the files left out.")


def add_table(add: Callable[..., Any]) -> None:
    """Adds --output of the verbs that write a table."""
    add("--output", type=path, metavar="FILE", help="Also write a .csv, .tsv or .jsonl file, line by line.")


def require_model(options: argparse.Namespace) -> None:
    """Sets `options.model` of a verb that has one, from its arguments or the environment.

    Raises:
        ArgumentError: two models are given, or none.
    """
    given = [model for model in (getattr(options, "model_argument", None), options.model) if model is not None]
    if len(given) > 1:
        raise ArgumentError(f"two models are given, {given[0]} and {given[1]}; give one")
    default = os.environ.get("SLAP_MODEL")
    if not given and not default:
        raise ArgumentError("no model is given; add --model MODEL, such as runs/demo/export, or set SLAP_MODEL")
    options.model = given[0] if given else model_name(str(default))


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
