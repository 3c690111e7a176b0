"""The `slap` command: one short function for each verb. Imports are inside, so that `slap --help` is instant."""

import argparse
import difflib
import errno
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from slap_jax.cli import config, data, evaluation, inference, training
from slap_jax.cli.arguments import ArgumentError, require_model
from slap_jax.cli.terminal import hear_interrupts, use_any_encoding
from slap_jax.errors import UserError

# Shell completion of arguments, by their name in the usage text.
_FOLDERS = ("DIR", "RUN_DIR")
_FILES = ("FILE", "FILE.py[:ARG]", "SOURCE", "OUTPUT", "PATH", "DIR[:SPLIT]")


# The verbs as `slap --help` lists them.
GROUPS = {
    "Prepare data": ("data", "prepare", "scenes", "tokenizer", "stats"),
    "Train": ("config", "train", "finetune", "ablations", "aot"),
    "Use a model": ("embed", "classify", "predict", "caption", "frames", "index", "search", "demo", "serve"),
    "Measure and share a model": ("evaluate", "score", "probe", "table", "report", "doctor", "export"),
    "Set up the shell": ("completion",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: without the name of the program; those of the process by default.

    Returns:
        The exit code: 0; 1 if some files were left out or a check found a problem; 2 after a user error, which is
        printed as one line; 141 if the output was closed; or the code of `slap train`.
    """
    program = "slap"
    use_any_encoding()
    hear_interrupts()
    try:
        options = _parse(arguments)
        program = options.program
        if "model" in options:
            require_model(options)
        code = options.function(options) or 0
        sys.stdout.flush()  # here, where a closed pipe is still caught
        return code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `slap caption sounds | head`: end silently as after SIGPIPE, as other programs do. Standard output is
        # redirected so that the interpreter does not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, OSError) as error:  # anything else is a bug and keeps its traceback
        print(f"{program}: {_explain(error)}", file=sys.stderr)
        return 2


def _explain(error: UserError | OSError) -> str:
    """Returns the message of an error; of the file system's, the path, what is wrong with it and what to do."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    file = error.filename if error.filename2 is None else error.filename2  # of a rename, the name that was given
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free space on the disk" if full else "correct the path, or give another one"
    return f"{os.fsdecode(file)}: {error.strerror}; {advice}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = create_parser()
    _suggest_verb(parser, list(sys.argv[1:] if arguments is None else arguments))
    options, rest = parser.parse_known_args(arguments)
    takes_rest = any(getattr(options, name, None) is not None for name in ("config", "runner"))
    if rest and not takes_rest:  # overrides of a config, or flags of a Beam runner
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    options.rest = rest
    trains = options.verb in ("train", "finetune", "ablations")
    logging.basicConfig(format="%(message)s", level=logging.INFO if trains else logging.WARNING)
    for library in ("absl", "jax"):  # their messages would bury those of the run
        logging.getLogger(library).setLevel(logging.WARNING)
    return options


def create_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="slap",
        usage="slap VERB [arguments]",
        description="Trains, uses and measures language-audio models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"slap_jax {version('slap-jax')}", help="Print the version."
    )
    # The groups below list the verbs.
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", prog="slap", help=argparse.SUPPRESS)

    def add_parser(group: Any, name: str, description: str) -> argparse.ArgumentParser:
        summary, _, example = inspect.cleandoc(description).partition("\n")
        return group.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=example.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def verb(function: Any, group: Any = verbs) -> argparse.ArgumentParser:
        added = add_parser(group, function.__name__, function.__doc__)
        added.set_defaults(function=function, program=added.prog)
        return added

    inspects = add_parser(verbs, "data", "Checks a source before it is prepared, and shows packed rows.")
    data_verbs = inspects.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    data.add_verbs(verb, lambda function: verb(function, data_verbs))
    settings = add_parser(verbs, "config", "Shows the settings of a config file or a run.")
    config_verbs = settings.add_subparsers(dest="config_verb", required=True, metavar="VERB")
    config.add_verbs(lambda function: verb(function, config_verbs))
    training.add_verbs(verb)
    evaluation.add_verbs(verb)
    inference.add_verbs(verb)
    verb(completion).add_argument("shell", choices=("bash", "zsh", "fish"), help="The shell.")

    summaries = {name: str(subparser.description) for name, subparser in verbs.choices.items()}
    parser.epilog = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<12}{summaries[name]}" for name in names if name in summaries)
        for title, names in GROUPS.items()
    )
    parser.epilog += "\n\n`slap VERB --help` explains the arguments of a verb and gives an example."
    return parser


def _suggest_verb(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Ends the program with a suggestion if the first argument is a verb that does not exist."""
    (verbs,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if not arguments or arguments[0].startswith("-") or arguments[0] in verbs:
        return
    near = difflib.get_close_matches(arguments[0], verbs, n=1)
    hint = f"did you mean `slap {near[0]}`?" if near else "`slap --help` lists the verbs"
    parser.error(f"there is no verb {arguments[0]!r}; {hint}")


def completion(options: argparse.Namespace) -> None:
    """Prints a script that completes verbs, options and files in a shell.

    Example:
      source <(slap completion bash)
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
    print(shtab.complete(parser, options.shell))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    actions = []
    for action in parser._actions:
        actions.append(action)
        if isinstance(action, argparse._SubParsersAction):
            action.help = None if action.help is argparse.SUPPRESS else action.help  # shtab skips suppressed ones
            for subparser in action.choices.values():
                actions.extend(_actions(subparser))
    return actions
