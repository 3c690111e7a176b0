"""What the verbs that work through many files share: arguments to files, a bar, bad files told, the exit code."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError
from slap_jax.data.collections.entries import Rejection
from slap_jax.errors import UserError
from slap_jax.inference.many_files import NoInputError, audio_files, over_files

if TYPE_CHECKING:
    from slap_jax.inference.classifier import TrainedClassifier
    from slap_jax.inference.model import SlapModel


# Longer recordings go to the model one by one, as paths, where an export does not tell the longest clips of training.
_LONG_SECONDS = 30.0


class Batch:
    """The files of one call, worked through in order.

    Attributes:
        done: files with a result so far.
        bad: what is wrong with the others.
    """

    def __init__(self, program: str, arguments: Sequence[str], quiet: bool = False):
        """Finds the files.

        Args:
            program: name of the verb, for messages.
            arguments: files, folders (all audio files below), and patterns with * or ** that the shell left alone.
            quiet: show no bar.

        Raises:
            ArgumentError: there are no arguments.
            NoInputError: they lead to no file at all.
        """
        if not arguments:
            raise ArgumentError("no input: give files, folders, or patterns such as 'sounds/**/*.wav'")
        self.program, self.done = program, 0
        self.bad: list[str] = []
        self._hidden = True if quiet else None
        files: dict[str, None] = {}
        for argument in arguments:
            found = list(self._files_of(argument))
            files.update(dict.fromkeys(found))
        self.files = list(files)
        if not self.files:
            raise NoInputError(self.bad[0] if len(self.bad) == 1 else f"no audio files: {'; '.join(self.bad)}")

    def results(
        self,
        model: "SlapModel | TrainedClassifier",
        of_clips: Callable[[list[Any]], Any],
    ) -> Iterator[tuple[str, Any]]:
        """Yields good files with their results; tells about the others on standard error as they come.

        Args:
            model: says the rate.
            of_clips: of a list of clips, decoded or the path of a long recording.
        """
        from tqdm import tqdm

        rate = model.config.audio.sample_rate

        for reason in self.bad:  # folders that cannot be listed, patterns without a match
            self._tell(reason)
        longest = model.config.data.get("max_seconds", _LONG_SECONDS)
        with tqdm(total=len(self.files), unit=" files", disable=self._hidden) as bar:
            for file, result in over_files(self.files, of_clips, lambda clip: of_clips([clip])[0], rate, longest):
                bar.update()
                if isinstance(result, AudioError):
                    self.bad.append(str(result))
                    if len(self.files) > 1:
                        self._tell(str(result))
                else:
                    self.done += 1
                    yield file, result

    def exit_code(self) -> int:
        """0 if all files were good, 1 if some were.

        Raises:
            NoInputError: none was.
        """
        if self.done == 0:
            raise NoInputError(
                self.bad[0] if len(self.bad) == 1 else f"none of {len(self.files)} files could be used; see above"
            )
        if self.bad:
            print(f"{self.program}: {self.done} files done, {len(self.bad)} left out; see above", file=sys.stderr)
        return 1 if self.bad else 0

    def _files_of(self, argument: str) -> Iterator[str]:
        if os.path.isdir(argument):
            found = [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            found = sorted(glob.glob(argument, recursive=True))
            if not found:
                self.bad.append(f"{argument} fits no file")
        else:
            yield argument
            return
        listed = False
        for path in found:
            if os.path.isdir(path):
                for file in audio_files(Path(path)):
                    if isinstance(file, Rejection):
                        self.bad.append(file.detail)
                    else:
                        yield os.path.join(path, file)
                        listed = True
            elif os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES:
                yield path
                listed = True
        if found and not listed:
            self.bad.append(f"{argument} holds no audio files (hidden ones aside); give a folder or pattern with some")

    def _tell(self, reason: str) -> None:
        from tqdm import tqdm

        tqdm.write(f"{self.program}: left out: {reason}", file=sys.stderr)


AddVerb = Callable[[Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]


class ArgumentError(UserError, ValueError):
    """Arguments that do not go together, or are not of the form that is expected."""


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def print_each(
    options: argparse.Namespace,
    batch: Any,
    model: Any,
    of_clips: Callable[[list[Any]], Any],
    line: Callable[[Any], str],
) -> int:
    """Prints a line for each file as soon as it is there, or all of them as one JSON object."""
    found = {}
    for file, result in batch.results(model, of_clips):
        found[file] = result
        say(options, f"{file}: {line(result)}")
    if options.json and found:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return batch.exit_code()


def best_of(probabilities: dict[str, float], most: int) -> str:
    """Writes the first of sorted labels and their probabilities as a line."""
    return ", ".join(f"{label} {probability:.3f}" for label, probability in list(probabilities.items())[:most])


def say(options: argparse.Namespace, line: str) -> None:
    """Prints a line past the bar that may stand on the terminal."""
    if not options.json:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stdout)
