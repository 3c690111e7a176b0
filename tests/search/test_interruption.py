"""However a process that writes an index ends: nothing that was finished is lost, and the index can always be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slap_jax.search import update as update_module
from slap_jax.search.index import JOURNAL, MANIFEST, TIMES, VECTORS, Contents, Manifest, SearchError, SearchIndex
from slap_jax.search.update import update_index
from slap_jax.search.writer import IndexWriter, pack_anew
from tests.search.fake_model import FakeModel, tone, write
from tests.search.kill_worker import vectors_of

ROOT = Path(__file__).parents[2]
FILES = 20


@pytest.fixture
def folder(tmp_path):
    for number in range(FILES):
        write(tmp_path / "sounds" / f"{number:03d}.wav", tone(number % 4, 0.1 + 0.01 * number))
    return tmp_path / "sounds"


def test_killed_at_every_step(folder):
    """See the worker, which judges."""
    worker = [sys.executable, "-m", "tests.search.kill_worker", str(folder)]
    ended = subprocess.run(worker, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 40


def test_what_a_killed_writer_left_behind_is_cut_off(folder):
    update_index(FakeModel(), folder)
    before, index = vectors_of(folder), SearchIndex(folder)
    data = index.path / index.manifest.data_folder
    for name, rest in ((VECTORS, b"\x00" * 7_001), (TIMES, b"\x00" * 3_003), (JOURNAL, b'{"path": "half a li')):
        with (data / name).open("ab") as file:
            file.write(rest)
    (index.path / "data-000009").mkdir()
    (index.path / ".manifest.json.0a.part").write_text("{")
    assert vectors_of(folder) == before
    write(folder / "new.wav", tone(1, 2))
    assert update_index(FakeModel(), folder).embedded == 1
    after = vectors_of(folder)
    assert after.pop("new.wav") and after == before
    manifest = Manifest.read(index.path)
    sizes = [(data / name).stat().st_size for name in (VECTORS, TIMES, JOURNAL)]
    assert sizes == [manifest.rows * 4 * 4, manifest.rows * 2 * 8, manifest.journal_bytes]
    assert sorted(path.name for path in index.path.iterdir()) == ["data-000001", "manifest.json"]


def test_a_search_that_opens_while_the_data_is_packed_anew(folder, monkeypatch):
    update_index(FakeModel(), folder)
    before, old = vectors_of(folder), Manifest.read(folder / ".slap_index")
    pack_anew(folder / ".slap_index")
    read = Manifest.read
    answers = [old]
    monkeypatch.setattr(Manifest, "read", lambda index: answers.pop() if answers else read(index))
    assert vectors_of(folder) == before and answers == []


def test_a_full_disk_leaves_what_was_finished(folder, monkeypatch):
    monkeypatch.setattr(update_module, "_COMMIT_FILES", 4)
    commit, commits = IndexWriter.commit, []

    def fail_later(self):
        commits.append(1)
        if len(commits) == 4:
            raise OSError(28, "No space left on device")
        commit(self)

    monkeypatch.setattr(IndexWriter, "commit", fail_later)
    with pytest.raises(OSError, match="No space left"):
        update_index(FakeModel(), folder)
    assert len(SearchIndex(folder)) == 12
    monkeypatch.undo()
    assert update_index(FakeModel(), folder).unchanged == 12


@pytest.mark.parametrize("name", [VECTORS, TIMES, JOURNAL])
def test_damage_is_told(folder, name):
    update_index(FakeModel(), folder)
    index = SearchIndex(folder)
    file = index.path / index.manifest.data_folder / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(SearchError, match=rf"data-000001 is damaged \({name} holds \d+ bytes of \d+\); delete"):
        SearchIndex(folder)


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"path": "a", "content": 1}', '"text"'])
def test_damage_of_the_journal_is_told(line):
    with pytest.raises(ValueError, match=r"."):
        Contents(line.encode() + b"\n")


def test_a_journal_that_promises_missing_vectors_is_damaged():
    contents = Contents(b'{"content": "x", "first": 2, "rows": 2}\n')
    contents.check(4)
    with pytest.raises(ValueError, match="vectors of 'x' are missing"):
        contents.check(3)
    contents.apply({"path": "a", "size": 1, "mtime_ns": 1, "content": "y"})
    with pytest.raises(ValueError, match="vectors of 'a' are missing"):
        contents.check(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest.json is damaged \(JSONDecodeError"),
        ("[]", r"manifest.json is damaged"),
        (json.dumps({"format": "slap_search_index", "format_version": 1, "rows": 2}), r"is damaged \(TypeError"),
        (json.dumps({"format": "slap_search_index", "format_version": 7}), r"version 7, expected .* version 1"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, content, message):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(SearchError, match=message):
        SearchIndex(tmp_path)


def test_no_index(tmp_path):
    with pytest.raises(SearchError, match="has no index; make one with `slap index"):
        SearchIndex(tmp_path)
    with pytest.raises(SearchError, match=r"is no index: it has no manifest.json"):
        Manifest.read(tmp_path)
