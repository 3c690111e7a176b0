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
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.atomic_file import atomic_file
from slap_jax.data.dataset_writer import SUMMARIES, DatasetIdentity, FinishedShard
from slap_jax.data.preparation_plan import REJECTED, ShardPlan
from slap_jax.data.prepare_shard import shard_file, summary_file
from slap_jax.data.records import SUMMARY
from slap_jax.data.shard_writer import ShardSummary


class Staging:
    """The folder of one preparation.

    Attributes:
        folder: of everything below.
        plan: of the listed collection.
        shards: of finished shards.
        dataset: of the new data set's version.
        rejected: file of the clips that are left out.
    """

    def __init__(self, output: Path, identity: DatasetIdentity):
        """Takes up what an interrupted preparation left behind; makes nothing.

        Args:
            output: directory that receives the data set.
            identity: of the data set.
        """
        self.folder = (output / ".staging" / identity.name).absolute()
        self.plan, self.shards = self.folder / "plan", self.folder / "shards"
        self.dataset = self.folder / "dataset" / identity.version
        self.rejected = self.folder / REJECTED
        self._final, self._previous = output.absolute() / identity.name, self.folder / "previous"
        self._version = identity.version
        self._summaries = self.folder / "summaries"
        if self._previous.exists() and not self._final.exists():
            self._previous.rename(self._final)
        # Of a shard that the new data set keeps in part, the whole is still here.
        for shard in self.dataset.glob("*.array_record-*"):
            if not (self.shards / shard.name).exists():
                shard.rename(self.shards / shard.name)
        for leftover in (self.dataset.parent, self._previous, self.plan):
            shutil.rmtree(leftover, ignore_errors=True)

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
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # of another data set
            self.folder.parent.rmdir()


def _link(source: Path, target: Path) -> None:
    """Gives a file that never changes a second name, or a copy where the file system knows no such names."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_file(target) as partial:
            shutil.copyfile(source, partial)
