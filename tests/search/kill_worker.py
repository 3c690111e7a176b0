"""Updates an index again and again in processes that are killed at their first, second, third, ... step on the disk.

    python -m tests.search.kill_worker FOLDER

After each it compares what the index says with what had been finished before. Prints how often it killed.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from slap_jax.search import update
from slap_jax.search.index import MANIFEST, SearchIndex
from tests.search.fake_model import FakeModel

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def vectors_of(folder: Path) -> dict[str, list[float]]:
    """What the index says of each file; nothing before there is an index."""
    if not (folder / ".slap_index" / MANIFEST).exists():
        return {}
    index = SearchIndex(folder)
    return {
        path: index.vectors[index.contents.rows[state.content][0]].tolist()
        for path, state in index.contents.files.items()
    }


def before_each_step(action: Callable[[], object]) -> None:
    """Calls `action` before each step on the disk that concerns the index, and before each wait for the disk."""
    inside = False

    def step() -> None:
        nonlocal inside
        if not inside:
            inside = True
            action()
            inside = False

    def audit(event: str, arguments: tuple) -> None:
        if event in STEPS and ".slap_index" in str(arguments[0]):
            step()

    fsync = os.fsync

    def audited_fsync(descriptor: int) -> None:
        step()
        fsync(descriptor)

    os.fsync = audited_fsync
    sys.addaudithook(audit)


def killed_at(number: int) -> Callable[[], None]:
    """Returns what ends the process when it is called for the so-manyth time."""
    calls = itertools.count(1)

    def action() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return action


def in_a_child(folder: Path, action: Callable[[], object]) -> int:
    """Updates the index in a child process; returns how it ended."""
    child = os.fork()
    if child == 0:
        before_each_step(action)
        try:
            update.update_index(FakeModel(), folder, progress=False)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    """Indexes the folder; then removes most of its files and has the index packed anew."""
    update._COMMIT_FILES = 3
    update._SMALLEST_PACKED = 1
    names = sorted(path.name for path in folder.glob("*.wav"))
    kills = 0
    for present in (names, names[:2]):
        for name in {*names} - {*present}:
            (folder / name).unlink()
        for number in itertools.count(1):
            before = vectors_of(folder)
            status = in_a_child(folder, killed_at(number))
            after = vectors_of(folder)
            assert {(path, tuple(before[path])) for path in before if path in present} <= {
                (path, tuple(vector)) for path, vector in after.items()
            }
            if status == 0:
                assert sorted(after) == present
                break
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            kills += 1
    for name in names[:2]:
        (folder / name).rename(folder / f"new_{name}")
    readable = in_a_child(folder, lambda: SearchIndex(folder))
    assert readable == 0 and sorted(vectors_of(folder)) == [f"new_{name}" for name in names[:2]]
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
