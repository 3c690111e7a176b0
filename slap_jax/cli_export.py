"""The verbs of the `slap` command that write models in other forms, and that examine them."""

import argparse
import json

from slap_jax.cli_data import AddVerb


def export(options: argparse.Namespace) -> None:
    """Writes a model for use: for `slap_jax.load`, or in the form of another framework."""
    from slap_jax.export.formats import export_model

    written = export_model(options.model, options.format, options.output, options.step, options.licence)
    print(f"wrote {written}")


def doctor(options: argparse.Namespace) -> int:
    """Examines a model with probe sounds and texts; exits with 1 if something is wrong."""
    from slap_jax.doctor.findings import examine

    result = examine(options.model)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result["measures"].items():
            print(f"{name:<36}{value:>10.4f}")
        print(f"{'fingerprint of the export':<36}{result['fingerprint']:>10}")
        for finding in result["findings"]:
            print(f"{finding['name']}: {finding['message']}")
        print("healthy" if result["healthy"] else f"{len(result['findings'])} findings")
    return 0 if result["healthy"] else 1


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = verb(export).add_argument
    add("model", metavar="RUN_OR_EXPORT", help="a run directory, or an export directory")
    # The names are those of slap_jax.export.formats, which takes seconds to import.
    formats = ("safetensors", "stablehlo", "pytorch", "onnx", "huggingface")
    add("--format", choices=formats, default="safetensors", help="what for (safetensors: slap_jax.load)")
    add("--output", metavar="DIR", help="export directory to write to (RUN/export, or the export itself)")
    add("--step", type=int, help="of a run's checkpoint (the newest)")
    add("--licence", default="", metavar="NAME", help="of the weights, for the model card, such as CC-BY-4.0")

    add = verb(doctor).add_argument
    add("model", metavar="MODEL_DIR", help="an export directory, or a run directory")
    add("--json", action="store_true", help="print as JSON")
