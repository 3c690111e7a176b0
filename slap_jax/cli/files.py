"""Verbs that process many files: arguments to files, a progress bar, results as they come, bad files, the exit code."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from slap_jax.cli.arguments import ArgumentError
from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError
from slap_jax.data.collections.entries import Rejection
from slap_jax.errors import refuse_url
from slap_jax.inference.many_files import NoInputError, audio_files, over_files

if TYPE_CHECKING:
    from slap_jax.inference.classifier import TrainedClassifier
    from slap_jax.inference.model import SlapModel


class FileJobs:
    """The audio files of one command, processed in order.

    Attributes:
        files: the files, each once.
        done: the number of files with a result so far.
        failures: why the other files and arguments were left out.
    """

    def __init__(self, program: str, arguments: Sequence[str], quiet: bool = False):
        """Finds the files.

        Args:
            program: name of the verb, for messages.
            arguments: files, folders (all audio files below them), and patterns with * or ** that the shell left as
                they are.
            quiet: whether to hide the progress bar; otherwise it appears on a terminal only.

        Raises:
            ArgumentError: there are no arguments.
            NoInputError: the arguments match no file.
            UrlError: an argument is a URL.
        """
        if not arguments:
            raise ArgumentError("no input: give files, folders, or patterns such as 'sounds/**/*.wav'")
        self.done = 0
        self.failures: list[str] = []
        self._program, self._hide_bar = program, True if quiet else None
        for argument in arguments:
            refuse_url(argument)
        self.files = list(dict.fromkeys(file for argument in arguments for file in self._find(argument)))
        if not self.files:
            raise NoInputError(
                self.failures[0] if len(self.failures) == 1 else f"no audio files: {'; '.join(self.failures)}"
            )

    def results(
        self, model: "SlapModel | TrainedClassifier", infer: Callable[[list[Any]], Any]
    ) -> Iterator[tuple[str, Any]]:
        """Yields each good file with its result, and reports the others on standard error as they come.

        Args:
            model: provides the sample rate and the duration above which a recording is streamed.
            infer: maps a list of clips, decoded or the path of a long recording, to their results.
        """
        for reason in self.failures:  # folders that cannot be listed, patterns without a match
            self._report(reason)
        with tqdm(total=len(self.files), unit=" files", disable=self._hide_bar) as bar:
            for file, result in over_files(
                self.files, infer, lambda clip: infer([clip])[0], model.sample_rate, model.max_seconds
            ):
                bar.update()
                if isinstance(result, AudioError):
                    self.failures.append(str(result))
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
        if self.done == 0:
            raise NoInputError(
                self.failures[0]
                if len(self.failures) == 1
                else f"none of {len(self.files)} files could be used; see above"
            )
        if self.failures:
            print(f"{self._program}: {self.done} files done, {len(self.failures)} left out; see above", file=sys.stderr)
        return 1 if self.failures else 0

    def _find(self, argument: str) -> Iterator[str]:
        if os.path.isdir(argument):
            matches = [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                self.failures.append(f"{argument} matches no file")
                return
        else:
            yield argument
            return
        empty = True
        for match in matches:
            if os.path.isdir(match):
                for file in audio_files(Path(match)):
                    if isinstance(file, Rejection):
                        self.failures.append(file.detail)
                    else:
                        yield os.path.join(match, file)
                        empty = False
            elif os.path.splitext(match)[1].lower() in AUDIO_SUFFIXES:
                yield match
                empty = False
        if empty:
            self.failures.append(
                f"{argument} has no audio files (hidden ones are ignored); give a folder or pattern with some"
            )

    def _report(self, reason: str) -> None:
        tqdm.write(f"{self._program}: left out: {reason}", file=sys.stderr)


def print_each(
    options: argparse.Namespace,
    jobs: FileJobs,
    model: Any,
    infer: Callable[[list[Any]], Any],
    line: Callable[[Any], str],
) -> int:
    """Prints a line for each file as soon as its result is there, or all results as one JSON object.

    Returns:
        The exit code.
    """
    results = {}
    for file, result in jobs.results(model, infer):
        results[file] = result
        say(options, f"{file}: {line(result)}")
    if options.json and results:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return jobs.exit_code()


def best_of(probabilities: dict[str, float], count: int) -> str:
    """Formats the first labels of a sorted dict with their probabilities."""
    return ", ".join(f"{label} {probability:.3f}" for label, probability in list(probabilities.items())[:count])


def say(options: argparse.Namespace, line: str) -> None:
    """Prints a line above the progress bar, unless the verb prints JSON."""
    if not options.json:
        tqdm.write(line, file=sys.stdout)
