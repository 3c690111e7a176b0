"""The verbs that use a trained model."""

import argparse
import functools
import glob
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.cli.arguments import (
    AddVerb,
    ArgumentError,
    add_device,
    add_files,
    add_model,
    add_table,
    non_negative,
    path,
    positive,
)
from slap_jax.cli.terminal import print_json
from slap_jax.errors import require_path

# Those of slap_jax.inference.prompts, which takes seconds to import.
TEMPLATES = (
    "ensemble",
    "sound",
    "heard",
    "plain",
    "ensemble_music",
    "ensemble_instrument",
    "ensemble_emotion",
    "ensemble_word",
)
DEFAULT_TEMPLATE = "ensemble"


def embed(options: argparse.Namespace) -> int:
    """Writes or prints the embeddings of files or texts.

    Example:
      slap embed recordings --output vectors.npz --model runs/demo/export
    """
    import numpy as np

    from slap_jax.cli.files import FileJobs, batch_settings, load_model

    if options.output is None and not options.json:
        raise ArgumentError("give --output FILE, or --json to print the vectors")
    if options.output is not None and options.output.suffix not in (".npz", ".json"):
        raise ArgumentError(
            f"--output {options.output} is neither .npz nor .json: vectors are written in these formats; rename it"
        )
    if options.output is not None:  # before the work, so that a bad path costs nothing
        options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.text:
        if not options.files:
            raise ArgumentError("no input: give texts, in quotes, after --text")
        vectors = load_model(options).embed_text(options.files, **batch_settings(options))
        _write_vectors(options, options.files, vectors, [])
        return 0
    jobs = FileJobs(options)
    if options.files and not any(os.path.lexists(name) or glob.has_magic(name) for name in options.files):
        raise ArgumentError(f"{options.files[0]} is missing; correct the path, or add --text to embed texts")
    model = load_model(options)
    embed_audio = functools.partial(model.embed_audio, **batch_settings(options))
    results: dict[str, Any] = {}
    interrupted = False
    try:
        for file, vector in jobs.results(model, embed_audio):
            results[file] = vector
    except KeyboardInterrupt:  # what is done is not lost
        interrupted = True
    if interrupted and not results:
        raise KeyboardInterrupt
    exit_code = jobs.exit_code()  # raises if there is no vector to write
    _write_vectors(options, list(results), np.stack(list(results.values())), jobs.left_out)
    if interrupted:
        print(f"{options.program}: interrupted after {len(results)} of {len(jobs.files)} files", file=sys.stderr)
    return 130 if interrupted else exit_code


def _write_vectors(options: argparse.Namespace, names: list[str], vectors: Any, left_out: list[dict[str, str]]) -> None:
    import numpy as np

    from slap_jax.atomic import write_bytes_atomic
    from slap_jax.cli.files import say

    content = {"names": names, "embeddings": vectors.tolist(), "left_out": left_out}
    if options.output is not None and options.output.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, names=np.array(names), embeddings=vectors)
        write_bytes_atomic(options.output, buffer.getvalue())
    elif options.output is not None:
        write_bytes_atomic(options.output, (json.dumps(content, allow_nan=False) + "\n").encode())
    if options.output is not None:
        say(options, f"wrote {options.output}: {len(vectors)} vectors of {vectors.shape[1]}")
    if options.json:
        print_json(content, indent=None)


def classify(options: argparse.Namespace) -> int:
    """Prints how well each of your labels fits a file, without training.

    Example:
      slap classify recordings --labels "dog,rain,speech" --model runs/demo/export
    """
    from slap_jax.cli.files import FileJobs, batch_settings, best_of, check_table, load_model, print_each
    from slap_jax.inference.classifier import has_trained_head

    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    check_table(options.output)
    jobs = FileJobs(options, *options.audio)
    model = load_model(options)
    if has_trained_head(model):
        config: Any = getattr(model, "config", None)
        label = config.objectives.classification.label
        print(
            f"{options.program}: this model has a trained head for {label!r}, which `slap predict` uses; these scores "
            "compare the sounds with the texts of the labels",
            file=sys.stderr,
        )
    model.classify([], labels, options.template)  # reports a bad label or template before any file is read

    def infer(clips: list[Any]) -> list[dict[str, float]]:
        return model.classify(clips, labels, options.template, **batch_settings(options))

    def columns(result: dict[str, float]) -> dict[str, float]:
        return {label: result[label] for label in labels}

    return print_each(options, jobs, model, infer, lambda result: best_of(result, options.top), columns)


def caption(options: argparse.Namespace) -> int:
    """Prints one sentence about each file, however long.

    Example:
      slap caption "recordings/**/*.wav" --beam 4 --model runs/demo/export
    """
    from slap_jax.cli.files import FileJobs, batch_settings, check_table, load_model, print_each

    check_table(options.output)
    jobs = FileJobs(options)
    model = load_model(options)

    def infer(clips: list[Any]) -> list[str]:
        return model.caption(clips, beam=options.beam, **batch_settings(options))

    return print_each(options, jobs, model, infer, str, lambda text: {"caption": text})


def frames(options: argparse.Namespace) -> int:
    """Writes features of files for every 160 ms, and with --text their similarity to texts over time.

    Example:
      slap frames recordings --text "a dog barks" --output moments --model runs/demo/export
    """
    import numpy as np

    from slap_jax.cli.files import FileJobs, load_model, say

    jobs = FileJobs(options)
    outputs = _output_files(jobs.files, options.output)
    model = load_model(options)

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
        print_json({"results": written, "left_out": jobs.left_out})
    return jobs.exit_code()


def index(options: argparse.Namespace) -> int:
    """Indexes the recordings below a folder for `slap search`, or updates their index.

    Example:
      slap index recordings --model runs/demo/export
    """
    import dataclasses

    from slap_jax.cli.files import load_model
    from slap_jax.search.update import update_index

    update = update_index(
        load_model(options),
        options.folder,
        options.index,
        options.window,
        options.hop,
        "float16" if options.half else None,
        options.rebuild,
        options.approximate,
        progress=False if options.json else None,
        batch_size=options.batch_size,
    )
    for _, reason in update.bad:
        print(f"{options.program}: left out: {reason}", file=sys.stderr)
    if options.json:
        facts = dataclasses.asdict(update)
        left_out = [{"file": file, "reason": reason} for file, reason in facts.pop("bad")]
        print_json({**facts, "files": update.files, "left_out": left_out})
    else:
        print(
            f"{update.index}: {update.files} files, {update.windows} windows ({update.embedded} embedded, "
            f"{update.known} known by their bytes, {update.unchanged} unchanged, {update.removed} removed, "
            f"{len(update.bad)} left out)"
        )
    return 2 if update.files == 0 else 1 if update.bad else 0


def search(options: argparse.Namespace) -> int:
    """Finds the moments of indexed recordings that match a text, a sound, or both.

    Example:
      slap search "a dog barks" --index recordings --model runs/demo/export
    """
    import dataclasses

    from slap_jax.cli.files import load_model
    from slap_jax.search.index import SearchIndex
    from slap_jax.search.search import search

    if not options.text and not options.audio:
        raise ArgumentError("there is nothing to search for; give a text in quotes, --audio FILE, or both")
    opened = SearchIndex(options.index)
    model = load_model(options)
    hits = search(
        model, opened, options.text, options.audio, options.k, options.per_file, approximate=options.approximate
    )
    if options.json:
        print_json([dataclasses.asdict(hit) for hit in hits])
    else:
        if sys.stdout.isatty():
            print(" score     start -      end    file          (scores compare hits of one query only)")
        for hit in hits:
            print(f"{hit.score:6.3f}  {hit.start:8.2f} - {hit.end:8.2f} s  {hit.path}")
    return 0


def demo(options: argparse.Namespace) -> None:
    """Serves a web page to try a model: record, classify, caption, score over time, search.

    Example:
      slap demo --folder recordings --model runs/demo/export --open
    """
    from slap_jax.page.app import serve

    serve(options.model, options.folder, options.host, options.port, browser=options.open, device=options.device)


def serve(options: argparse.Namespace) -> None:
    """Serves a model over HTTP: /embed, /classify, /caption and /search.

    Example:
      slap serve --folder recordings --model runs/demo/export
    """
    from slap_jax.cli.files import load_model
    from slap_jax.serve.app import Limits, require_safe, serve

    token = os.environ.get("SLAP_TOKEN")
    require_safe(options.host, token)  # before the model is loaded
    limits = Limits(options.max_megabytes, options.max_seconds, options.timeout, options.waiting)
    serve(load_model(options), options.folder, options.host, options.port, token, limits)


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""

    def with_files(
        function: Callable[[argparse.Namespace], Any], note: str = "", *, batches: bool = True
    ) -> argparse.ArgumentParser:
        added = verb(function)
        add_files(added, note)
        add_model(added)
        add_device(added, batches=batches)
        return added

    def with_model(function: Callable[[argparse.Namespace], Any], *, batches: bool = False) -> argparse.ArgumentParser:
        added = verb(function)
        add_model(added)
        add_device(added, batches=batches)
        return added

    added = with_files(embed, "With --text: texts, each in quotes.")
    added.usage = "slap embed FILE ... (--output FILE | --json) [--model MODEL] [options]"
    add = added.add_argument
    add("--output", type=path, metavar="FILE", help="Write names and embeddings to a .npz or .json file.")
    add("--text", action="store_true", help="Embed the arguments as texts.")

    added = with_files(classify)
    added.usage = "slap classify FILE ... --labels LABEL,LABEL,... [--model MODEL] [options]"
    add = added.add_argument
    add("--audio", nargs="+", default=[], metavar="FILE", help="More files, folders or patterns.")
    add("--labels", required=True, help="The labels to choose from, separated by commas.")
    add(
        "--template",
        default=DEFAULT_TEMPLATE,
        help=f"The prompt for a label: {', '.join(TEMPLATES)}, or a text with {{}} (default: {DEFAULT_TEMPLATE}).",
    )
    add("--top", type=positive, default=3, metavar="N", help="The number of labels to print (default: 3).")
    add_table(add)

    added = with_files(caption, "A long recording gets one caption.")
    add = added.add_argument
    add("--beam", type=positive, default=1, metavar="N", help="The beam width; 1 decodes greedily (default: 1).")
    add_table(add)

    add = with_files(frames, batches=False).add_argument
    add("--output", type=path, required=True, metavar="DIR", help="Write FILE.npz for each file into this folder.")
    add(
        "--text",
        action="append",
        default=[],
        metavar="TEXT",
        help="Also write the similarity to this text over time; repeat it for several texts.",
    )

    add = with_model(index, batches=True).add_argument
    add("--json", action="store_true", help="Print a JSON object, with the files left out.")
    add("folder", type=path, metavar="DIR", help="The folder of recordings.")
    add("--index", type=path, metavar="DIR", help="The folder of the index (default: DIR/.slap_index).")
    add(
        "--window",
        type=float,
        metavar="SECONDS",
        help="The length of the windows that recordings are cut into (default: that of the index, or 10).",
    )
    add(
        "--hop",
        type=float,
        metavar="SECONDS",
        help="The time from the start of a window to the next (default: that of the index, or half a window).",
    )
    add("--half", action="store_true", help="Store vectors in 16 bits.")
    add("--approximate", action="store_true", help="Also build what `slap search --approximate` reads.")
    add("--rebuild", action="store_true", help="Discard the index and build a new one, for example for another model.")

    added = with_model(search)
    added.usage = "slap search [TEXT] [--audio FILE] [--index DIR] [--model MODEL] [options]"
    add = added.add_argument
    add("--json", action="store_true", help="Print the hits as JSON.")
    add("text", nargs="?", metavar="TEXT", help="A description of the sound.")
    add("--audio", type=path, metavar="FILE", help="A recording to search for. With TEXT, both count equally.")
    add(
        "--index",
        type=require_path,
        default=".",
        metavar="DIR",
        help="The index, or the folder that was indexed (default: this folder).",
    )
    add("-k", type=positive, default=10, metavar="N", help="The number of hits (default: 10).")
    add("--per-file", type=positive, metavar="N", help="The largest number of hits in one file (default: no limit).")
    add("--approximate", action="store_true", help="Search approximately, which is faster with millions of windows.")

    add = with_model(demo).add_argument
    add("--folder", type=path, metavar="DIR", help="A folder to search, which `slap index` indexed.")
    add("--host", default="127.0.0.1", help="The address to listen at (default: 127.0.0.1, this machine only).")
    add("--port", type=int, default=7860, metavar="N", help="The port to listen at (default: 7860).")
    add("--open", action="store_true", help="Open the browser.")

    add = with_model(serve).add_argument
    add("--folder", type=path, metavar="DIR", help="A folder for /search, which `slap index` indexed.")
    add(
        "--host",
        default="127.0.0.1",
        help="The address to listen at (default: 127.0.0.1, this machine only). Others need a token in $SLAP_TOKEN, "
        "which clients send as a bearer token.",
    )
    add("--port", type=non_negative, default=8000, metavar="N", help="The port to listen at (default: 8000).")
    add(
        "--max-megabytes",
        type=positive,
        default=50,
        metavar="N",
        help="The largest size of a request in MB (default: 50).",
    )
    add(
        "--max-seconds",
        type=positive,
        default=600,
        metavar="N",
        help="The longest total duration of the audio of a request in seconds (default: 600).",
    )
    add(
        "--timeout",
        type=positive,
        default=60,
        metavar="N",
        help="The longest time to send a request, and from there to its result, in seconds (default: 60).",
    )
    add(
        "--waiting",
        type=positive,
        default=16,
        metavar="N",
        help="The number of requests that may run or wait; more are refused with status 503 (default: 16).",
    )


def _output_files(files: list[str], folder: Path) -> dict[str, Path]:
    """Returns a path in the output folder for each file: its own path relative to the folder that all files share."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return {file: folder / f"{os.path.relpath(os.path.abspath(file), common)}.npz" for file in files}
