"""Completion of the command in a shell, as a script that the shell reads once."""

import argparse

from slap_jax.cli_data import ArgumentError

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
    from slap_jax.cli import create_parser

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
