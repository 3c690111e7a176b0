"""Updates indexes in processes that are killed during LanceDB operations of each kind.

    python -m tests.search.kill_worker FOLDER

After each kill it checks that the index can be read, that each file in it has all of its windows, that no finished file
was lost, and that the next update does not embed a finished file again. Prints the number of kills.

Only child processes call LanceDB, so that a fork never copies its running threads.
"""

import itertools
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
from lancedb.merge import LanceMergeInsertBuilder
from lancedb.table import LanceTable

from slap_jax.search import update
from slap_jax.search.search import search
from tests.search.fake_model import FakeModel, stored

OPERATIONS = {
    "create_table": lancedb.db.LanceDBConnection,
    "add": LanceTable,
    "execute": LanceMergeInsertBuilder,
    "create_index": LanceTable,
    "delete": LanceTable,
    "optimize": LanceTable,
}


def in_a_child(function: Callable[[], Any]) -> tuple[int, Any]:
    """Calls a function in a child process; returns the status of the process and the JSON value of the function."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        content = pipe.read()
    return os.waitpid(child, 0)[1], json.loads(content) if content else None


def update_killed_in(folder: Path, index: Path, operation: str, number: int) -> int:
    """Updates the index, but dies at a random moment after the start of the first, second, ... call of an operation.

    Returns:
        The number of unchanged files.
    """
    calls = itertools.count(1)
    owner = OPERATIONS[operation]
    call = getattr(owner, operation)

    def may_kill(*arguments, **options):
        if next(calls) == number:
            delay = random.Random(number).uniform(0, 0.005)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return call(*arguments, **options)

    setattr(owner, operation, may_kill)
    return update.update_index(FakeModel(), folder, index, approximate=True, progress=False).unchanged


def finished(index: Path) -> dict[str, Any]:
    if not all((index / f"{name}.lance" / "_versions").is_dir() for name in ("windows", "files")):
        return {}
    status, windows = in_a_child(lambda: stored(index))
    assert status == 0
    return windows


def kill_and_resume(folder: Path, index: Path, operation: str, expected: dict[str, Any]) -> int:
    """Kills an update in its first call of the operation, another in its second, and resumes; returns the kills."""
    present = {path.name for path in folder.glob("*.wav")}
    kills, before = 0, finished(index)
    for number in (1, 2, 0):
        status, unchanged = in_a_child(lambda number=number: update_killed_in(folder, index, operation, number))
        after = finished(index)
        assert all(windows == expected[name] for name, windows in after.items()), after
        assert {*before} & present <= {*after}, (before, after)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            assert status == 0 and {*after} == present and unchanged >= len({*before} & present)
        before = after
    assert {*before} == present and kills >= 1, (operation, kills)
    return kills


def main(root: Path) -> None:
    """Indexes a folder, then removes most of its files so that their windows are removed as well."""
    update._COMMIT_SECONDS = 0
    update._SMALLEST_VACUUM = 1
    folder, expected = root / "sounds", json.loads((root / "expected.json").read_text())
    kills = 0
    for operation in ("create_table", "add", "execute", "create_index"):
        kills += kill_and_resume(folder, root / f"index_{operation}", operation, expected)
    for path in sorted(folder.glob("*.wav"))[2:]:
        path.unlink()
    for operation, index in (("delete", "create_table"), ("optimize", "add")):
        kills += kill_and_resume(folder, root / f"index_{index}", operation, expected)
    print(kills)
    # After the last fork: a process that has used LanceDB exits on its own.
    assert len(search(FakeModel(), root / "index_add", "tone 0", approximate=True)) == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
