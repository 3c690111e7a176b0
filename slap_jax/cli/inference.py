"""The verbs that use a trained model."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.cli.arguments import AddVerb, ArgumentError, path, positive
from slap_jax.errors import require_path

_INPUTS = "files, folders, or patterns in quotes"


def embed(options: argparse.Namespace) -> int:
    """Writes or prints the embeddings of files or texts."""
    import numpy as np

    from slap_jax.cli.files import FileJobs, say
    from slap_jax.inference.model import SlapModel

    if options.output is None and not options.json:
        raise ArgumentError("give --output FILE, or --json to print the vectors")
    if options.output is not None and options.output.suffix not in (".npz", ".json"):
        raise ArgumentError(f"--output {options.output} is neither .npz nor .json")
    if options.output is not None:  # before the work, so that a bad path costs nothing
        options.output.parent.mkdir(parents=True, exist_ok=True)
    exit_code = 0
    if options.text:
        names, vectors = options.inputs, SlapModel.load(options.model).embed_text(options.inputs)
    else:
        jobs = FileJobs(options.program, options.inputs, quiet=options.json)
        model = SlapModel.load(options.model)
        results = dict(jobs.results(model, model.embed_audio))
        exit_code = jobs.exit_code()  # raises if there is no vector to write
        names, vectors = list(results), np.stack(list(results.values()))
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
    from slap_jax.cli.files import FileJobs, best_of, print_each
    from slap_jax.inference.model import SlapModel

    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    jobs = FileJobs(options.program, [*options.files, *options.audio], quiet=options.json)
    model = SlapModel.load(options.model)
    model.classify([], labels, options.template)  # reports a bad label or template before any file is read

    def infer(clips: list[Any]) -> list[dict[str, float]]:
        return model.classify(clips, labels, options.template)

    return print_each(options, jobs, model, infer, lambda result: best_of(result, options.top))


def caption(options: argparse.Namespace) -> int:
    """Prints a caption for each file."""
    from slap_jax.cli.files import FileJobs, print_each
    from slap_jax.inference.model import SlapModel

    jobs = FileJobs(options.program, options.audio, quiet=options.json)
    model = SlapModel.load(options.model)
    return print_each(options, jobs, model, lambda clips: model.caption(clips, beam=options.beam), str)


def frames(options: argparse.Namespace) -> int:
    """Writes features of files for every 160 ms, and with --text their similarity to texts over time."""
    import numpy as np

    from slap_jax.cli.files import FileJobs, say
    from slap_jax.inference.model import SlapModel

    jobs = FileJobs(options.program, options.audio, quiet=options.json)
    outputs = _output_files(jobs.files, options.output)
    model = SlapModel.load(options.model)

    def infer(clips: list[Any]) -> list[dict[str, Any]]:
        results = []
        for clip in clips:
            arrays = model.frames(clip)._asdict()
            if options.text:
                arrays |= {"texts": np.array(options.text), "scores": model.scores(clip, options.text).scores}
            results.append(arrays)
        return results

    written = {}
    for file, arrays in jobs.results(model, infer):
        outputs[file].parent.mkdir(parents=True, exist_ok=True)
        np.savez(outputs[file], **arrays)
        facts = {"output": str(outputs[file]), "frames": len(arrays["start"]), "seconds": float(arrays["end"][-1])}
        if options.text:
            best = arrays["scores"].argmax(axis=0)
            facts["best"] = {
                text: {"start": float(arrays["start"][frame]), "score": float(arrays["scores"][frame, number])}
                for number, (text, frame) in enumerate(zip(options.text, best, strict=True))
            }
        written[file] = facts
        moments = "".join(
            f"; {text}: {at['score']:.3f} at {at['start']:.2f} s" for text, at in facts.get("best", {}).items()
        )
        say(options, f"{file}: {facts['frames']} frames, {facts['seconds']:.2f} s{moments}")
    if options.json:
        print(json.dumps(written, indent=2, ensure_ascii=False))
    return jobs.exit_code()


def index(options: argparse.Namespace) -> int:
    """Indexes the recordings below a folder for `slap search`, or updates their index."""
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
    """Finds the moments of indexed recordings that match a text, a sound, or both."""
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
    """Serves a web page to try a model: record, classify, caption, score over time, search."""
    from slap_jax.page.app import serve

    serve(options.model, options.folder, options.host, options.port, browser=options.open)


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = _with_model(verb(embed))
    add("inputs", nargs="+", metavar="FILE", help=f"{_INPUTS}; with --text, texts")
    add("--output", type=path, metavar="FILE", help=".npz or .json file for names and embeddings")
    add("--text", action="store_true", help="embed the arguments as texts")
    add("--json", action="store_true", help="print names and embeddings as JSON")

    added = verb(classify)
    added.usage = "slap classify FILE ... --labels LABEL,LABEL,... --model DIR [options]"
    add = _with_model(added)
    add("files", nargs="*", metavar="FILE", help=_INPUTS)
    add("--audio", nargs="+", default=[], metavar="FILE", help="more files")
    add("--labels", required=True, help="labels, separated by commas")
    add("--template", default="ensemble", help="name of a prompt template, or a prompt with {} (ensemble)")
    add("--top", type=positive, default=3, metavar="N", help="number of labels to print (3)")
    add("--json", action="store_true", help="print all probabilities as JSON")

    add = _with_model(verb(caption))
    add("audio", nargs="+", metavar="FILE", help=_INPUTS)
    add("--beam", type=positive, default=1, metavar="N", help="beam size (1)")
    add("--json", action="store_true", help="print as JSON")

    add = _with_model(verb(frames))
    add("audio", nargs="+", metavar="FILE", help=_INPUTS)
    add("--output", type=path, required=True, metavar="DIR", help="folder for a NAME.npz of each file")
    add("--text", action="append", default=[], metavar="TEXT", help="also write the scores of this text; repeatable")
    add("--json", action="store_true", help="print a summary as JSON")

    add = _with_model(verb(index))
    add("folder", type=path, metavar="DIR", help="folder of recordings")
    add("--index", type=path, metavar="DIR", help="folder of the index (DIR/.slap_index)")
    add("--window", type=float, metavar="SECONDS", help="length of a window of a recording (the index's, or 10)")
    add(
        "--hop",
        type=float,
        metavar="SECONDS",
        help="time from the start of a window to the next (the index's, or half a window)",
    )
    add("--half", action="store_true", help="store vectors in 16 bits")
    add("--approximate", action="store_true", help="also build the vector index that `slap search --approximate` reads")
    add("--rebuild", action="store_true", help="discard the index and build a new one, as after a change of the model")
    add("--json", action="store_true", help="print a summary as JSON")

    added = verb(search)
    added.usage = "slap search [TEXT] [--audio FILE] [--index DIR] --model DIR [options]"
    add = _with_model(added)
    add("text", nargs="?", metavar="TEXT", help="description of the sound")
    add("--audio", type=path, metavar="FILE", help="recording to search for; with TEXT, both count equally")
    add(
        "--index", type=require_path, default=".", metavar="DIR", help="index, or folder that was indexed (this folder)"
    )
    add("-k", type=positive, default=10, metavar="N", help="number of hits (10)")
    add("--per-file", type=positive, metavar="N", help="maximum number of hits in one file (no limit)")
    add("--approximate", action="store_true", help="search approximately; faster with millions of windows")
    add("--json", action="store_true", help="print as JSON")

    add = _with_model(verb(demo))
    add("--folder", type=path, metavar="DIR", help="folder to search, which `slap index` indexed")
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1, this machine only)")
    add("--port", type=int, default=7860, metavar="N", help="port to listen at (7860)")
    add("--open", action="store_true", help="open the browser")


def _with_model(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Adds --model, whose default is an environment variable; returns the function that adds further arguments."""
    default = os.environ.get("SLAP_MODEL")
    parser.add_argument(
        "--model",
        type=require_path,
        default=default,
        required=default is None,
        metavar="DIR",
        help="export directory ($SLAP_MODEL)",
    )
    return parser.add_argument


def _output_files(files: list[str], folder: Path) -> dict[str, Path]:
    """Returns a path in the output folder for each file: its own path relative to the folder that all files share."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return {file: folder / f"{os.path.relpath(os.path.abspath(file), common)}.npz" for file in files}
