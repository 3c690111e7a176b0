"""The verbs about configs."""

import argparse
import json
from pathlib import Path
from typing import Any

from slap_jax.cli.arguments import AddVerb
from slap_jax.errors import require_path


def show(options: argparse.Namespace) -> None:
    """Prints the settings that a config file or a run has, then checks them as `slap train` does.

    Example:
      slap config show configs/corpus_cpu.py:steps=2000 --diff default
    """
    from slap_jax.cli.terminal import print_json
    from slap_jax.config.files import all_settings, changed_settings, read_config, read_run_config
    from slap_jax.config.validate import validate

    is_run = Path(options.config).is_dir()
    config = read_run_config(options.config, options.rest) if is_run else read_config(options.config, options.rest)
    changed = changed_settings(config)
    if options.json and options.diff:
        print_json({name: {"value": value, "default": default} for name, (value, default) in changed.items()})
    elif options.json:
        print_json(json.loads(config.to_json_best_effort()))
    elif options.diff:
        for name, (value, default) in changed.items():
            print(f"{name}={value!r}" + ("" if default is None else f"  (default {default!r})"))
    else:
        for name, value in all_settings(config).items():
            print(f"{name}={value!r}")
    validate(config)


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    added = verb(show)
    added.usage = "slap config show CONFIG [--diff default] [--json] [--config.NAME.NAME=VALUE ...]"
    add: Any = added.add_argument
    add("config", type=require_path, metavar="FILE.py[:ARG]", help="A config file with its argument, or a run.")
    add("--diff", choices=("default",), help="Print only the settings that differ from their defaults.")
    add("--json", action="store_true", help="Print as JSON.")
