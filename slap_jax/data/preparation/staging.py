"""The working folder of a preparation: shards are collected here until the new dataset replaces the published one.

```
OUTPUT/.staging/NAME/
  plan/         the listed collection
  shards/       finished shards
  summaries/    their summaries; a shard counts as finished once its summary exists
  dataset/      the new dataset while it is written
  previous/     the published dataset while it is replaced
```
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.atomic import atomic_file, write_text_atomic
from slap_jax.data.preparation.dataset_writer import SUMMARIES, DatasetIdentity, FinishedShard
from slap_jax.data.preparation.plan import REJECTED, ShardPlan
from slap_jax.data.preparation.shards import ShardSummary, shard_file, summary_file
from slap_jax.data.records import STAGING, SUMMARY
from slap_jax.errors import UserError


class StagingError(UserError, ValueError):
    """Another preparation of the same dataset is running."""


class Staging:
    """The working folder of one preparation. Its `with` block locks out other preparations of the dataset.

    Attributes:
        folder: the working folder.
        plan: folder of the listed collection.
        shards: folder of the finished shards.
        dataset: folder of the new dataset version.
        rejected: file of the rejected clips.
    """

    def __init__(self, output: Path, identity: DatasetIdentity):
        """Computes paths only; the `with` block creates the folder.

        Args:
            output: directory that receives the dataset.
            identity: identity of the dataset.
        """
        self._output, self._version = output.absolute(), identity.version
        self._final = self._output / identity.name
        self.folder = self._output / STAGING / identity.name
        self.plan, self.shards = self.folder / "plan", self.folder / "shards"
        self.dataset = self.folder / "dataset" / identity.version
        self.rejected = self.folder / REJECTED
        self._summaries, self._previous = self.folder / "summaries", self.folder / "previous"

    def __enter__(self) -> "Staging":
        """Recovers what an interrupted preparation left behind.

        Raises:
            StagingError: another preparation is running.
        """
        self._is_new = not self._output.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        if self._previous.exists() and not self._final.exists():
            self._previous.rename(self._final)
        # A shard of which the new dataset keeps a part was copied, so the complete shard is still in its folder.
        for shard in self.dataset.glob("*.array_record-*"):
            if not (self.shards / shard.name).exists():
                shard.rename(self.shards / shard.name)
        for leftover in (self.dataset.parent, self._previous, self.plan):
            shutil.rmtree(leftover, ignore_errors=True)
        self.rejected.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)
        with contextlib.suppress(OSError):  # not empty: unfinished work, or another dataset
            self.folder.rmdir()
            self.folder.parent.rmdir()
            if self._is_new:
                self._output.rmdir()

    @contextlib.contextmanager
    def drop_plan_on_error(self) -> Iterator[None]:
        """Leaves nothing of a collection that cannot be listed or is refused."""
        try:
            yield
        except UserError:
            shutil.rmtree(self.plan, ignore_errors=True)
            raise

    def make_folders(self) -> None:
        """Creates the folders of shards and summaries."""
        self.shards.mkdir(parents=True, exist_ok=True)
        self._summaries.mkdir(exist_ok=True)

    def finished(self, split: str, file: str) -> FinishedShard:
        """Returns the paths of a shard and its summary."""
        return FinishedShard(split, shard_file(self.folder, file), summary_file(self.folder, file))

    def has(self, plan: ShardPlan) -> bool:
        """Returns whether the shard is finished and was made from the same inputs."""
        shard = self.finished(plan.split, plan.file)
        return shard.file.exists() and shard.summary_file.exists() and shard.summary().digest == plan.digest

    def keep_only(self, plans: Sequence[ShardPlan]) -> None:
        """Removes the files of other plans and of killed workers."""
        shards = [self.finished(plan.split, plan.file) for plan in plans]
        expected = {shard.file for shard in shards} | {shard.summary_file for shard in shards}
        for folder in (self.shards, self._summaries):
            for file in folder.iterdir():
                if file not in expected:
                    file.unlink()

    def reuse_published(self, plans: Sequence[ShardPlan]) -> None:
        """Links shards with the same inputs from the published dataset."""
        published = self._final / self._version
        summaries = {ShardSummary.load(file).digest: file for file in (published / SUMMARIES).glob("*.npz")}
        for plan in plans:
            if plan.digest in summaries and not self.has(plan):
                summary, shard = summaries[plan.digest], self.finished(plan.split, plan.file)
                _link(published / summary.stem, shard.file)
                _link(summary, shard.summary_file)

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Replaces the published dataset by the new one."""
        write_text_atomic(self.dataset / SUMMARY, json.dumps(summary, indent=2) + "\n")
        if self._final.exists():
            self._final.rename(self._previous)
        self.dataset.parent.rename(self._final)
        for leftover in (self._previous, self.plan, self.shards, self._summaries):
            shutil.rmtree(leftover, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Locks a folder and returns its descriptor; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StagingError(
            f"another `slap prepare` is running in {folder}; wait for it, or stop it and repeat this command to resume"
        ) from error
    except OSError:
        pass  # the network file system has no locks
    return descriptor


def _link(source: Path, target: Path) -> None:
    """Creates a hard link to a file that never changes, or a copy if the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_file(target) as partial:
            shutil.copyfile(source, partial)
