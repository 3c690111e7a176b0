"""The `slap` command: one short function per verb. Verbs import what they use, so that `slap --help` is instant."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from slap_jax.cli import data, evaluation, inference, training
from slap_jax.cli.files import ArgumentError
from slap_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 where some files were left out or something was found, 2 after an error of the user's input
        (told in one line), 141 where nobody reads the output any more, or what `slap train` returns.
    """
    parser = create_parser()
    options, rest = parser.parse_known_args(arguments)
    takes_rest = any(getattr(options, name, None) is not None for name in ("config", "runner"))
    if rest and not takes_rest:  # settings of the config, flags of the engine
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    options.rest = rest
    trains = options.verb in ("train", "finetune", "ablations")
    logging.basicConfig(format="%(message)s", level=logging.INFO if trains else logging.WARNING)
    for library in ("absl", "jax"):  # what they tell about their inner workings would bury the run's own lines
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        code = options.function(options) or 0
        sys.stdout.flush()  # here, where a reader that went away is still caught
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `slap caption sounds | head`: end as other programs do, silently and as if by SIGPIPE. What is still buffered
        # must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        # The package's own errors and those of files explain themselves; anything else is a bug: keep its traceback.
        if not isinstance(error, (UserError, OSError)):
            raise
        print(f"{options.program}: {error}", file=sys.stderr)
        return 2


def create_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="slap", description="Language-audio pretraining (SLAP) in JAX.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"slap_jax {version('slap-jax')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Any, group: Any = verbs) -> argparse.ArgumentParser:
        summary = function.__doc__.splitlines()[0]
        added = group.add_parser(function.__name__, help=summary, description=summary, allow_abbrev=False)
        added.set_defaults(function=function, program=added.prog)
        return added

    data_parser = verbs.add_parser("data", help="Looks at data.", description="Looks at data.", allow_abbrev=False)
    data_verbs = data_parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    data.add_verbs(verb, lambda function: verb(function, data_verbs))

    training.add_verbs(verb)
    evaluation.add_verbs(verb)
    inference.add_verbs(verb)
    verb(completion).add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


_FOLDERS = ("DIR", "RUN_DIR")
_FILES = ("FILE", "FILE.py[:ARG]", "SOURCE", "OUTPUT", "PATH", "DIR[:SPLIT]")


def completion_script(shell: str) -> str:
    """Returns the script of a shell.

    Args:
        shell: "bash", "zsh" or "fish".

    Raises:
        ArgumentError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ArgumentError("completion needs shtab, which is missing: pip install 'shtab>=1.9,<2'") from None

    parser = create_parser()
    for action in _actions(parser):
        for names, complete in ((_FOLDERS, shtab.DIRECTORY), (_FILES, shtab.FILE)):
            if action.metavar in names:
                vars(action)["complete"] = complete  # where shtab looks
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found.extend(_actions(below))
    return found


def completion(options: argparse.Namespace) -> None:
    """Prints a script that completes verbs, options and files in a shell."""
    print(completion_script(options.shell))
