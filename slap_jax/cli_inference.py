"""The verbs of the `slap` command that use a trained model."""

import argparse
import json
from pathlib import Path

from slap_jax.cli_data import AddVerb


def embed(options: argparse.Namespace) -> None:
    """Embeds files, or texts."""
    import numpy as np

    import slap_jax
    from slap_jax.export.safetensors import ExportError

    if options.output.suffix not in (".npz", ".json"):
        raise ExportError(f"--output {options.output} is neither .npz nor .json")
    model = slap_jax.load(options.model)
    embeddings = model.embed_text(options.inputs) if options.text else model.embed_audio(options.inputs)
    if options.output.suffix == ".npz":
        np.savez(options.output, names=np.array(options.inputs), embeddings=embeddings)
    else:
        content = {"names": options.inputs, "embeddings": embeddings.tolist()}
        options.output.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"wrote {options.output}: {len(embeddings)} vectors of {model.embed_dim}")


def classify(options: argparse.Namespace) -> None:
    """Prints the most probable labels of files."""
    import slap_jax

    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    results = slap_jax.load(options.model).classify(options.audio, labels, options.template)
    if options.json:
        print(json.dumps(dict(zip(options.audio, results, strict=True)), indent=2))
        return
    for path, probabilities in zip(options.audio, results, strict=True):
        best = list(probabilities.items())[: options.top]
        print(f"{path}: " + ", ".join(f"{label} {probability:.3f}" for label, probability in best))


def caption(options: argparse.Namespace) -> None:
    """Prints a caption of each file."""
    import slap_jax

    captions = slap_jax.load(options.model).caption(options.audio)
    if options.json:
        print(json.dumps(dict(zip(options.audio, captions, strict=True)), indent=2, ensure_ascii=False))
        return
    for path, text in zip(options.audio, captions, strict=True):
        print(f"{path}: {text}")


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = verb(embed).add_argument
    add("inputs", nargs="+", metavar="FILE", help="audio files, or texts with --text")
    add("--model", required=True, metavar="DIR", help="export directory")
    add("--output", type=Path, required=True, metavar="FILE", help=".npz or .json with names and embeddings")
    add("--text", action="store_true", help="embed the arguments as texts")

    add = verb(classify).add_argument
    add("--model", required=True, metavar="DIR", help="export directory")
    add("--audio", nargs="+", required=True, metavar="FILE")
    add("--labels", required=True, help="separated by commas")
    add("--template", default="ensemble", help="name of the prompts, or a prompt with {} (ensemble)")
    add("--top", type=int, default=3, help="labels to print (3)")
    add("--json", action="store_true", help="print all probabilities as JSON")

    add = verb(caption).add_argument
    add("audio", nargs="+", metavar="FILE")
    add("--model", required=True, metavar="DIR", help="export directory")
    add("--json", action="store_true", help="print as JSON")
