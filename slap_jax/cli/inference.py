"""The verbs of the `slap` command that use a trained model; imports are inside, as `slap --help` is instant."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.cli.files import AddVerb, ArgumentError, best_of, positive, print_each, say

_INPUTS = "files, folders, or patterns in quotes"


def embed(options: argparse.Namespace) -> int:
    """Embeds files, or texts."""
    import numpy as np

    from slap_jax.cli.files import Batch
    from slap_jax.inference.model import SlapModel

    if options.output is None and not options.json:
        raise ArgumentError("give --output FILE, or --json to print the vectors")
    if options.output is not None and options.output.suffix not in (".npz", ".json"):
        raise ArgumentError(f"--output {options.output} is neither .npz nor .json")
    if options.output is not None:  # before the work that it is to keep
        options.output.parent.mkdir(parents=True, exist_ok=True)
    exit_code = 0
    if options.text:
        names, vectors = options.inputs, SlapModel.load(options.model).embed_text(options.inputs)
    else:
        batch = Batch(options.program, options.inputs, quiet=options.json)
        model = SlapModel.load(options.model)
        found = dict(batch.results(model, model.embed_audio))
        exit_code = batch.exit_code()  # without any vector nothing is written
        names, vectors = list(found), np.stack(list(found.values()))
    if options.output is not None and options.output.suffix == ".npz":
        np.savez(options.output, names=np.array(names), embeddings=vectors)
    content = json.dumps({"names": names, "embeddings": vectors.tolist()})
    if options.output is not None and options.output.suffix == ".json":
        options.output.write_text(content + "\n", encoding="utf-8")
    say(options, f"wrote {options.output}: {len(vectors)} vectors of {vectors.shape[1]}")
    if options.json:
        print(content)
    return exit_code


def classify(options: argparse.Namespace) -> int:
    """Prints the most probable labels of files."""
    from slap_jax.cli.files import Batch
    from slap_jax.inference.model import SlapModel

    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    batch = Batch(options.program, [*options.files, *options.audio], quiet=options.json)
    model = SlapModel.load(options.model)
    model.classify([], labels, options.template)  # a wrong label or template is told before any file is read

    def of_clips(clips: list[Any]) -> list[dict[str, float]]:
        return model.classify(clips, labels, options.template)

    return print_each(options, batch, model, of_clips, lambda result: best_of(result, options.top))


def caption(options: argparse.Namespace) -> int:
    """Prints a caption of each file."""
    from slap_jax.cli.files import Batch
    from slap_jax.inference.model import SlapModel

    batch = Batch(options.program, options.audio, quiet=options.json)
    model = SlapModel.load(options.model)
    return print_each(options, batch, model, lambda clips: model.caption(clips, beam=options.beam), str)


def frames(options: argparse.Namespace) -> int:
    """Writes dense features of files, one for each 160 ms, and with --text how much each moment fits texts."""
    import numpy as np

    from slap_jax.cli.files import Batch
    from slap_jax.inference.model import SlapModel

    batch = Batch(options.program, options.audio, quiet=options.json)
    outputs = _output_files(batch.files, options.output)
    model = SlapModel.load(options.model)

    def of_clips(clips: list[Any]) -> list[dict[str, Any]]:
        found = []
        for clip in clips:
            arrays = model.frames(clip)._asdict()
            if options.text:
                arrays |= {"texts": np.array(options.text), "scores": model.scores(clip, options.text).scores}
            found.append(arrays)
        return found

    written = {}
    for file, arrays in batch.results(model, of_clips):
        outputs[file].parent.mkdir(parents=True, exist_ok=True)
        np.savez(outputs[file], **arrays)
        facts = {"output": str(outputs[file]), "frames": len(arrays["start"]), "seconds": float(arrays["end"][-1])}
        if options.text:
            best = arrays["scores"].argmax(axis=0)
            facts["best"] = {
                text: {"start": float(arrays["start"][place]), "score": float(arrays["scores"][place, number])}
                for number, (text, place) in enumerate(zip(options.text, best, strict=True))
            }
        written[file] = facts
        moments = "".join(
            f"; {text}: {at['score']:.3f} at {at['start']:.2f} s" for text, at in facts.get("best", {}).items()
        )
        say(options, f"{file}: {facts['frames']} frames, {facts['seconds']:.2f} s{moments}")
    if options.json:
        print(json.dumps(written, indent=2, ensure_ascii=False))
    return batch.exit_code()


def index(options: argparse.Namespace) -> int:
    """Indexes the recordings below a folder for `slap search`, or brings their index up to date."""
    import dataclasses

    from slap_jax.inference.model import SlapModel
    from slap_jax.search.update import update_index

    update = update_index(
        SlapModel.load(options.model),
        options.folder,
        options.index,
        options.window,
        options.hop,
        "float16" if options.half else None,
        options.rebuild,
        options.approximate,
        progress=False if options.json else None,
    )
    for _, reason in update.bad:
        print(f"{options.program}: left out: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps({**dataclasses.asdict(update), "files": update.files}, indent=2))
    else:
        print(
            f"{update.index}: {update.files} files, {update.windows} windows ({update.embedded} embedded, "
            f"{update.known} known by their bytes, {update.unchanged} unchanged, {update.removed} removed, "
            f"{len(update.bad)} left out)"
        )
    return 2 if update.files == 0 else 1 if update.bad else 0


def search(options: argparse.Namespace) -> int:
    """Finds the moments of indexed recordings that fit a text, a sound, or both."""
    import dataclasses

    from slap_jax.inference.model import SlapModel
    from slap_jax.search.index import SearchIndex
    from slap_jax.search.search import search

    opened = SearchIndex(options.index)
    model = SlapModel.load(options.model)
    hits = search(
        model, opened, options.text, options.audio, options.k, options.per_file, approximate=options.approximate
    )
    if options.json:
        print(json.dumps([dataclasses.asdict(hit) for hit in hits], indent=2))
    else:
        for hit in hits:
            print(f"{hit.score:6.3f}  {hit.start:8.2f} - {hit.end:8.2f} s  {hit.path}")
    return 0


def demo(options: argparse.Namespace) -> None:
    """Opens a page in the browser to try a model: record, classify, caption, scores over time, search."""
    from slap_jax.page.app import serve

    serve(options.model, options.folder, options.host, options.port, browser=options.open)


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = _with_model(verb(embed))
    add("inputs", nargs="+", metavar="FILE", help=f"{_INPUTS}; or texts with --text")
    add("--output", type=Path, metavar="FILE", help=".npz or .json with names and embeddings")
    add("--text", action="store_true", help="embed the arguments as texts")
    add("--json", action="store_true", help="print names and embeddings as JSON")

    added = verb(classify)
    added.usage = "slap classify FILE ... --labels LABEL,LABEL,... --model DIR [options]"
    add = _with_model(added)
    add("files", nargs="*", metavar="FILE", help=_INPUTS)
    add("--audio", nargs="+", default=[], metavar="FILE", help="the same")
    add("--labels", required=True, help="separated by commas")
    add("--template", default="ensemble", help="name of the prompts, or a prompt with {} (ensemble)")
    add("--top", type=positive, default=3, metavar="N", help="labels to print (3)")
    add("--json", action="store_true", help="print all probabilities as JSON")

    add = _with_model(verb(caption))
    add("audio", nargs="+", metavar="FILE", help=_INPUTS)
    add("--beam", type=int, default=1, metavar="N", help="beginnings of a caption to follow at a time (1)")
    add("--json", action="store_true", help="print as JSON")

    add = _with_model(verb(frames))
    add("audio", nargs="+", metavar="FILE", help=_INPUTS)
    add("--output", type=Path, required=True, metavar="DIR", help="for NAME.npz of each file: start, end, features")
    add("--text", action="append", default=[], metavar="TEXT", help="also write its scores; repeatable")
    add("--json", action="store_true", help="print what was written as JSON")

    add = _with_model(verb(index))
    add("folder", type=Path, metavar="DIR", help="with recordings")
    add("--index", type=Path, metavar="DIR", help="where the index lies (DIR/.slap_index)")
    add("--window", type=float, metavar="SECONDS", help="of a part of a longer recording (the index's, or 10)")
    add("--hop", type=float, metavar="SECONDS", help="from one part to the next (the index's, or half a part)")
    add("--half", action="store_true", help="store vectors in 16 bits")
    add("--approximate", action="store_true", help="also for `slap search --approximate`, over millions of parts")
    add("--rebuild", action="store_true", help="start anew, as with another model")
    add("--json", action="store_true", help="print what was done as JSON")

    added = verb(search)
    added.usage = "slap search [TEXT] [--audio FILE] [--index DIR] --model DIR [options]"
    add = _with_model(added)
    add("text", nargs="?", metavar="TEXT", help="what is to be heard")
    add("--audio", type=Path, metavar="FILE", help="a sound to find the like of; with TEXT, both count the same")
    add("--index", default=".", metavar="DIR", help="the index, or the folder that was indexed (this folder)")
    add("-k", type=int, default=10, metavar="N", help="hits (10)")
    add("--per-file", type=int, metavar="N", help="at most so many of one file (no limit)")
    add("--approximate", action="store_true", help="look only at likely ones; faster over millions")
    add("--json", action="store_true", help="print as JSON")

    add = _with_model(verb(demo))
    add("--folder", type=Path, metavar="DIR", help="to search; `slap index` made its index")
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine only)")
    add("--port", type=int, default=7860, metavar="N", help="(7860)")
    add("--open", action="store_true", help="open the browser")


def _with_model(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Adds --model, which the environment may stand in for; returns what adds further arguments."""
    usual = os.environ.get("SLAP_MODEL")
    parser.add_argument(
        "--model", default=usual, required=usual is None, metavar="DIR", help="export directory ($SLAP_MODEL)"
    )
    return parser.add_argument


def _output_files(files: list[str], folder: Path) -> dict[str, Path]:
    """Gives each file a name in the output folder: its path without what all of them share."""
    above = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return {file: folder / f"{os.path.relpath(os.path.abspath(file), above)}.npz" for file in files}
