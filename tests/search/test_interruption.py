"""An update that dies loses nothing that was finished, and leaves an index that can be read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slap_jax.search import update as update_module
from slap_jax.search.index import LanceError, SearchError, SearchIndex
from slap_jax.search.search import search
from slap_jax.search.update import IndexWriter, update_index
from tests.search.fake_model import FakeModel, stored, tone, write

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        seconds = (0.1 + 0.01 * number, 12)[number == 4]
        write(tmp_path / "sounds" / f"{number}.wav", tone(number % 4, seconds))
    return tmp_path / "sounds"


def test_killed_in_every_operation(folder, tmp_path):
    """See the worker, which makes the assertions."""
    update_index(FakeModel(), folder, tmp_path / "index")
    (tmp_path / "expected.json").write_text(json.dumps(stored(tmp_path / "index")))
    worker = [sys.executable, "-m", "tests.search.kill_worker", str(tmp_path)]
    ended = subprocess.run(worker, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 8


def test_a_full_disk_leaves_what_was_finished(folder, monkeypatch):
    monkeypatch.setattr(update_module, "_COMMIT_SECONDS", 0.0)
    commit, commits = IndexWriter.commit, []

    def fail_later(self):
        commits.append(1)
        if len(commits) == 4:
            self._index.windows.add = _full
        commit(self)

    def _full(*_):
        raise RuntimeError("lance error: No space left on device\n  at src/lib.rs")

    monkeypatch.setattr(IndexWriter, "commit", fail_later)
    with pytest.raises(LanceError, match=r"cannot read or write .*\.slap_index \(RuntimeError: .*No space left on d"):
        update_index(FakeModel(), folder)
    assert len(SearchIndex(folder)) == 3
    monkeypatch.undo()
    assert update_index(FakeModel(), folder).unchanged == 3


def test_an_open_index_follows_an_update_that_removes_what_it_reads(folder, monkeypatch):
    """Also one that refreshes just before the update removes the version."""
    update_index(FakeModel(), folder)
    opened = [SearchIndex(folder), SearchIndex(folder)]
    monkeypatch.setattr(update_module, "_SMALLEST_VACUUM", 1)
    for number in range(1, 6):
        (folder / f"{number}.wav").unlink()
    write(folder / "new.wav", tone(2, 0.5))
    update_index(FakeModel(), folder)
    refresh, calls = SearchIndex.refresh, []
    for index in opened:
        assert [Path(hit.path).name for hit in search(FakeModel(), index, "tone 2", k=9)] == ["new.wav", "0.wav"]
        calls.append(1)
        monkeypatch.setattr(SearchIndex, "refresh", lambda self: calls.append(1) if len(calls) == 1 else refresh(self))
    assert len(calls) == 3


@pytest.mark.parametrize("commit_seconds", [0.0, 5.0])  # the first index is several versions ahead, or at the same
def test_an_open_index_follows_one_that_was_deleted_and_made_again(folder, monkeypatch, commit_seconds):
    with monkeypatch.context() as patch:
        patch.setattr(update_module, "_COMMIT_SECONDS", commit_seconds)
        update_index(FakeModel(), folder)
    index = SearchIndex(folder)
    assert len(search(FakeModel(), index, "tone 2", k=9)) == 6  # LanceDB now caches the data
    shutil.rmtree(index.path)
    with pytest.raises(SearchError, match=r"\.slap_index is gone; make it again with `slap index"):
        search(FakeModel(), index, "tone 2")
    for number in range(1, 6):
        (folder / f"{number}.wav").unlink()
    write(folder / "new.wav", tone(2, 0.5))
    update_index(FakeModel(), folder)
    assert [Path(hit.path).name for hit in search(FakeModel(), index, "tone 2", k=9)] == ["new.wav", "0.wav"]
