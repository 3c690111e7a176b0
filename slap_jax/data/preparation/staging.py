"""Where a preparation works: finished shards wait here until the data set of them takes the present one's place.

```
OUTPUT/.staging/NAME/
  plan/         the listed collection
  shards/       finished shards
  summaries/    their summaries; a shard counts as finished when its summary is there
  dataset/      the new data set, while it is made of them
  previous/     the present data set, in the moment of the exchange
```
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.atomic import atomic_file
from slap_jax.data.preparation.dataset_writer import SUMMARIES, DatasetIdentity, FinishedShard
from slap_jax.data.preparation.plan import REJECTED, ShardPlan
from slap_jax.data.preparation.shards import ShardSummary, shard_file, summary_file
from slap_jax.data.records import SUMMARY
from slap_jax.errors import UserError


class StagingError(UserError, ValueError):
    """Another preparation is at work on the same data set."""


class Staging:
    """The folder of one preparation, used in a `with` block, which keeps others out.

    Attributes:
        folder: of everything below.
        plan: of the listed collection.
        shards: of finished shards.
        dataset: of the new data set's version.
        rejected: file of the clips that are left out.
    """

    def __init__(self, output: Path, identity: DatasetIdentity):
        """Touches nothing before the `with` block.

        Args:
            output: directory that receives the data set.
            identity: of the data set.
        """
        self._output, self._version = output.absolute(), identity.version
        self._final = self._output / identity.name
        self.folder = self._output / ".staging" / identity.name
        self.plan, self.shards = self.folder / "plan", self.folder / "shards"
        self.dataset = self.folder / "dataset" / identity.version
        self.rejected = self.folder / REJECTED
        self._summaries, self._previous = self.folder / "summaries", self.folder / "previous"

    def __enter__(self) -> "Staging":
        """Takes up what an interrupted preparation left behind.

        Raises:
            StagingError: another preparation is at work.
        """
        self._is_new = not self._output.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        if self._previous.exists() and not self._final.exists():
            self._previous.rename(self._final)
        # Of a shard that the new data set keeps in part, the whole is still here.
        for shard in self.dataset.glob("*.array_record-*"):
            if not (self.shards / shard.name).exists():
                shard.rename(self.shards / shard.name)
        for leftover in (self.dataset.parent, self._previous, self.plan):
            shutil.rmtree(leftover, ignore_errors=True)
        self.rejected.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)
        with contextlib.suppress(OSError):  # not empty: there is something to go on with, or another data set
            self.folder.rmdir()
            self.folder.parent.rmdir()
            if self._is_new:
                self._output.rmdir()

    def make_folders(self) -> None:
        """Makes the folders that shards are written to."""
        self.shards.mkdir(parents=True, exist_ok=True)
        self._summaries.mkdir(exist_ok=True)

    def finished(self, split: str, file: str) -> FinishedShard:
        """Returns where a shard and its summary are, or will be."""
        return FinishedShard(split, shard_file(self.folder, file), summary_file(self.folder, file))

    def has(self, plan: ShardPlan) -> bool:
        """Whether a shard was finished, of the same inputs."""
        shard = self.finished(plan.split, plan.file)
        return shard.file.exists() and shard.summary_file.exists() and shard.summary().digest == plan.digest

    def keep_only(self, plans: Sequence[ShardPlan]) -> None:
        """Removes what other plans, and killed workers, left behind."""
        shards = [self.finished(plan.split, plan.file) for plan in plans]
        wanted = {shard.file for shard in shards} | {shard.summary_file for shard in shards}
        for folder in (self.shards, self._summaries):
            for file in folder.iterdir():
                if file not in wanted:
                    file.unlink()

    def take_over(self, plans: Sequence[ShardPlan]) -> None:
        """Takes shards of the same inputs from the present data set, which keeps them."""
        present = self._final / self._version
        found = {ShardSummary.load(file).digest: file for file in (present / SUMMARIES).glob("*.npz")}
        for plan in plans:
            if plan.digest in found and not self.has(plan):
                summary, shard = found[plan.digest], self.finished(plan.split, plan.file)
                _link(present / summary.stem, shard.file)
                _link(summary, shard.summary_file)

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Puts the new data set in the present one's place."""
        (self.dataset / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        if self._final.exists():
            self._final.rename(self._previous)
        self.dataset.parent.rename(self._final)
        for leftover in (self._previous, self.plan, self.shards, self._summaries):
            shutil.rmtree(leftover, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Opens a folder for this process alone; returns its descriptor. Processes that are killed let it go."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StagingError(
            f"another `slap prepare` is at work in {folder}; wait for it, or stop it: this one would go on from there"
        ) from error
    except OSError:
        pass  # a network file system without locks
    return descriptor


def _link(source: Path, target: Path) -> None:
    """Gives a file that never changes a second name, or a copy where the file system knows no such names."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_file(target) as partial:
            shutil.copyfile(source, partial)
