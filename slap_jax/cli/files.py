"""Verbs that process many files: arguments to files, a progress bar, results as they come, bad files, the exit code."""

import argparse
import contextlib
import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from slap_jax.cli.arguments import ArgumentError
from slap_jax.cli.terminal import busy, print_json
from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError
from slap_jax.data.collections.entries import Rejection
from slap_jax.errors import refuse_url
from slap_jax.inference.many_files import GROUP, NoInputError, audio_files, over_files

if TYPE_CHECKING:
    from slap_jax.inference.classifier import TrainedClassifier
    from slap_jax.inference.model import SlapModel
    from slap_jax.other_models.dual_encoder import DualEncoder

# Suffixes of the tables that verbs write with --output.
TABLES = (".csv", ".tsv", ".jsonl")


class FileJobs:
    """The audio files of one command, processed in order.

    Attributes:
        files: the files, each once.
        done: the number of files with a result so far.
        left_out: the other files and arguments, each with the reason.
    """

    def __init__(self, options: argparse.Namespace, *arguments: str):
        """Finds the files.

        Args:
            options: of the verb; `files`, `files_from`, `program` and `json` are read. `files` are files, folders (all
                audio files below them), and patterns with * or ** that the shell did not expand. The progress bar
                appears on a terminal, except with `json`.
            *arguments: more of them.

        Raises:
            ArgumentError: there are no arguments.
            NoInputError: the arguments match no file.
            UrlError: an argument is a URL.
        """
        inputs = [*options.files, *arguments, *_listed_files(options.files_from)]
        if not inputs:
            raise ArgumentError(
                "no input: give files, folders, or patterns such as 'sounds/**/*.wav', or --files-from FILE"
            )
        self.done = 0
        self.left_out: list[dict[str, str]] = []
        self._program, self._hide_bar = options.program, True if options.json else None
        self._group = max(GROUP, getattr(options, "batch_size", None) or 0)
        for argument in inputs:
            refuse_url(argument)
        self.files = list(dict.fromkeys(file for argument in inputs for file in self._find(argument)))
        if not self.files:
            reasons = self._reasons()
            raise NoInputError(reasons[0] if len(reasons) == 1 else f"no audio files: {'; '.join(reasons)}")

    def results(
        self, model: "SlapModel | DualEncoder | TrainedClassifier", infer: Callable[[list[Any]], Any]
    ) -> Iterator[tuple[str, Any]]:
        """Yields each good file with its result, and reports the others on standard error as they come.

        Args:
            model: provides the sample rate and the duration above which a recording is streamed.
            infer: maps a list of clips, decoded or the path of a long recording, to their results.
        """
        for reason in self._reasons():  # folders that cannot be listed, patterns without a match
            self._report(reason)
        first = "compiling for these lengths, the first time only"
        with tqdm(total=len(self.files), unit=" files", desc=first, disable=self._hide_bar) as bar:
            for file, result in over_files(
                self.files, infer, lambda clip: infer([clip])[0], model.sample_rate, model.max_seconds, self._group
            ):
                bar.set_description(refresh=False)
                bar.update()
                if isinstance(result, AudioError):
                    self._leave_out(file, str(result))
                    if len(self.files) > 1:
                        self._report(str(result))
                else:
                    self.done += 1
                    yield file, result

    def exit_code(self) -> int:
        """Returns 0 if all files have a result, and 1 if some were left out.

        Raises:
            NoInputError: no file has a result.
        """
        reasons = self._reasons()
        if self.done == 0:
            raise NoInputError(
                reasons[0] if len(reasons) == 1 else f"none of {len(self.files)} files could be used; see above"
            )
        if reasons:
            print(f"{self._program}: {self.done} files done, {len(reasons)} left out; see above", file=sys.stderr)
        return 1 if reasons else 0

    def _find(self, argument: str) -> Iterator[str]:
        if os.path.isdir(argument):
            matches = [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                self._leave_out(argument, f"{argument} matches no file; correct the pattern")
                return
        elif argument == "-":
            self._leave_out("-", "audio is not read from standard input; save it to a file, and give the file")
            return
        else:
            yield argument
            return
        empty = True
        for match in matches:
            if os.path.isdir(match):
                for file in audio_files(Path(match)):
                    if isinstance(file, Rejection):
                        self._leave_out(match, file.detail)
                    else:
                        yield os.path.join(match, file)
                        empty = False
            elif os.path.splitext(match)[1].lower() in AUDIO_SUFFIXES:
                yield match
                empty = False
        if empty:
            self._leave_out(
                argument,
                f"{argument} has no audio files (hidden ones are ignored); give a folder or pattern with some",
            )

    def _leave_out(self, file: str, reason: str) -> None:
        self.left_out.append({"file": file, "reason": reason})

    def _reasons(self) -> list[str]:
        return [item["reason"] for item in self.left_out]

    def _report(self, reason: str) -> None:
        tqdm.write(f"{self._program}: left out: {reason}", file=sys.stderr)


def load_model(options: argparse.Namespace) -> "SlapModel | DualEncoder":
    """Loads the model of a verb on its device, with a note on a terminal."""
    from slap_jax.other_models.load import load_model as load

    with busy("" if getattr(options, "json", False) else f"loading {options.model} ..."):
        return load(options.model, **({} if options.device is None else {"device": options.device}))


def batch_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments that pass --batch-size to the methods of a model."""
    return {} if options.batch_size is None else {"batch_size": options.batch_size}


def print_each(
    options: argparse.Namespace,
    jobs: FileJobs,
    model: Any,
    infer: Callable[[list[Any]], Any],
    line: Callable[[Any], str],
    columns: Callable[[Any], dict[str, Any]],
) -> int:
    """Prints a line for each file as soon as its result is there, or all results as one JSON object.

    With `--output FILE`, each result is also appended to a table as soon as it is there.

    Args:
        options: of the verb.
        jobs: its files.
        model: its model.
        infer: maps clips to their results.
        line: formats a result for the terminal.
        columns: formats a result for the table.

    Returns:
        The exit code.
    """
    results = {}
    with _table(options.output) as write:
        for file, result in jobs.results(model, infer):
            results[file] = result
            write({"file": file, **columns(result)})
            say(options, f"{file}: {line(result)}")
    if options.json:
        print_json({"results": results, "left_out": jobs.left_out})
    code = jobs.exit_code()
    if options.output:
        print(f"wrote {options.output}: {jobs.done} files", file=sys.stderr)
    return code


def check_table(output: Path | None) -> None:
    """Raises `ArgumentError` if the name of a table has another suffix."""
    if output is not None and output.suffix not in TABLES:
        raise ArgumentError(f"--output {output} ends with none of {', '.join(TABLES)}; rename it")


@contextlib.contextmanager
def _table(output: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Opens a table and yields the function that appends a row; the table exists after the first row."""
    if output is None:
        yield lambda row: None
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def write(row: dict[str, Any]) -> None:
            nonlocal writer
            if writer is None:
                file = stack.enter_context(output.open("w", encoding="utf-8", newline=""))
                if output.suffix == ".jsonl":

                    def write_line(row: dict[str, Any]) -> None:
                        print(json.dumps(row, ensure_ascii=False, allow_nan=False), file=file)

                    writer = write_line
                else:
                    table = csv.DictWriter(file, list(row), delimiter="\t" if output.suffix == ".tsv" else ",")
                    table.writeheader()
                    writer = table.writerow
            writer(row)

        yield write


def _listed_files(source: str | None) -> list[str]:
    """Returns the lines of a file, or of standard input for "-"."""
    if source is None:
        return []
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArgumentError(
            f"--files-from {source} is not UTF-8; save it as UTF-8, with one path in each line"
        ) from None
    files = [line for line in text.splitlines() if line.strip()]
    if not files:
        raise ArgumentError(f"--files-from {source} is empty; write one path in each line")
    return files


def best_of(probabilities: dict[str, float], count: int) -> str:
    """Formats the first labels of a sorted dict with their probabilities."""
    return ", ".join(f"{label} {probability:.3f}" for label, probability in list(probabilities.items())[:count])


def say(options: argparse.Namespace, line: str) -> None:
    """Prints a line above the progress bar, unless the verb prints JSON."""
    if not options.json:
        tqdm.write(line, file=sys.stdout)
