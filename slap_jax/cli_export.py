"""The verbs of the `slap` command that write models in other forms."""

import argparse

from slap_jax.cli_data import AddVerb


def export(options: argparse.Namespace) -> None:
    """Writes a run's model for inference."""
    from slap_jax.export.run import export_run

    print(f"wrote {export_run(options.run_dir, options.output, options.step)}")


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = verb(export).add_argument
    add("run_dir", metavar="RUN_DIR")
    add("--output", metavar="DIR", help="to write to (RUN_DIR/export)")
    add("--step", type=int, help="of the checkpoint (the newest)")
