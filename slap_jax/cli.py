"""The `slap` command: one short function per verb. Imports are inside, so that `slap --help` is instant."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slap_jax import cli_data, cli_evaluation, cli_export, cli_finetune, cli_inference


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
        if not type(error).__module__.startswith("slap_jax.") and not isinstance(error, OSError):
            raise
        print(f"{options.program}: {error}", file=sys.stderr)
        return 2


def train(options: argparse.Namespace) -> int:
    """Trains, or goes on with a run."""
    from slap_jax.config_file import read_config

    config = read_config(options.config, options.rest)
    from slap_jax.train import main as train_main

    return train_main(config, options.run_dir)


def aot(options: argparse.Namespace) -> int:
    """Compiles the training step for devices that need not be there; tells what it needs and how fast it can be."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: described devices are no backend of this machine
    from slap_jax.aot import find_max_rows, format_report
    from slap_jax.aot import report as aot_report
    from slap_jax.config_file import read_config

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    config = read_config(options.config, options.rest)
    result = aot_report(config, options.topology, log=log)
    if options.find_max:
        result["max_rows"] = find_max_rows(config, options.topology, log)
    print(json.dumps(result, indent=2) if options.json else format_report(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["fits"] is False else 0


def report(options: argparse.Namespace) -> None:
    """Writes the report of a run."""
    from slap_jax.report.page import build_report

    build_report(options.run_dir)
    print(f"wrote {options.run_dir / 'report.html'}")


def create_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    from slap_jax import __version__

    parser = argparse.ArgumentParser(
        prog="slap", description="Language-audio pretraining (SLAP) in JAX.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"slap_jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Any, group: Any = verbs) -> argparse.ArgumentParser:
        summary = function.__doc__.splitlines()[0]
        added = group.add_parser(function.__name__, help=summary, description=summary, allow_abbrev=False)
        added.set_defaults(function=function, program=added.prog)
        return added

    data = verbs.add_parser("data", help="Looks at data.", description="Looks at data.", allow_abbrev=False)
    data_verbs = data.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    cli_data.add_verbs(verb, lambda function: verb(function, data_verbs))

    added = verb(train)
    added.usage = "slap train --config FILE.py[:ARG] --run-dir DIR [--config.NAME.NAME=VALUE ...]"
    add = added.add_argument
    add("--config", required=True, metavar="FILE.py[:ARG]", help="config file, with its argument")
    add("--run-dir", required=True, metavar="DIR", help="a run that is found there goes on")

    added = verb(aot)
    added.usage = "slap aot --config FILE.py[:ARG] --topology T [--json] [--find-max] [--config.NAME.NAME=VALUE ...]"
    add = added.add_argument
    add("--config", required=True, metavar="FILE.py[:ARG]", help="config file, with its argument")
    add("--topology", required=True, metavar="T", help="such as v5e:4x4, 2*v5p:4x4x4 (two slices), h100:8, h200:4x8")
    add("--find-max", action="store_true", help="also look for the most rows that fit; compiles several times")
    add("--json", action="store_true", help="print as JSON")
    add("--output", type=Path, metavar="FILE", help="write the JSON too")

    cli_finetune.add_verbs(verb)
    cli_evaluation.add_verbs(verb)
    cli_export.add_verbs(verb)
    cli_inference.add_verbs(verb)

    verb(report).add_argument("run_dir", type=Path, metavar="RUN_DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
