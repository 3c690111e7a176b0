"""Opening an index: what is missing, damaged, old or locked gets one message."""

import json
import re
import sys

import pytest

from slap_jax.search.index import LanceError, SearchError, SearchIndex, only_writer
from slap_jax.search.search import search
from slap_jax.search.update import update_index
from tests.search.fake_model import FakeModel, stored, tone, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "sounds" / "a.wav", tone(0, 1))
    return tmp_path / "sounds"


def test_no_index(folder):
    with pytest.raises(SearchError, match=r"sounds has no index; make one with `slap index .*sounds --model DIR`"):
        SearchIndex(folder)
    with pytest.raises(
        SearchError, match=r"new has no index; make one with `slap index FOLDER --index .*new --model DIR`"
    ):
        SearchIndex(folder.parent / "new")


@pytest.mark.parametrize("name", ["windows", "files"])
def test_an_index_that_was_just_begun_is_none(folder, name):
    update_index(FakeModel(), folder)
    (folder / ".slap_index" / f"{name}.lance").rename(folder / ".slap_index" / "elsewhere")
    with pytest.raises(SearchError, match="has no index"):
        SearchIndex(folder)
    assert update_index(FakeModel(), folder).embedded == 1
    assert [hit.path for hit in search(FakeModel(), folder, "tone 0")] == [str(folder / "a.wav")]


@pytest.mark.parametrize("name", ["windows", "files"])
def test_damage(folder, name):
    update_index(FakeModel(), folder)
    data = [file for file in (folder / ".slap_index" / f"{name}.lance" / "data").iterdir()]
    for file in data:
        file.write_bytes(b"damaged")
    with pytest.raises(LanceError, match=r"cannot read or write .*\.slap_index .*delete .*\.slap_index and run"):
        search(FakeModel(), folder, "tone 0")
    assert update_index(FakeModel(), folder, rebuild=True).embedded == 1


def test_an_index_of_the_old_format_has_to_be_built_again(folder):
    index = folder / ".slap_index"
    (index / "data-000001").mkdir(parents=True)
    (index / "data-000001" / "vectors.bin").write_bytes(bytes(16))
    (index / "graph-000001.usearch").touch()
    manifest = {"format": "slap_search_index", "format_version": 1, "model_id": "fake00000001"}
    (index / "manifest.json").write_text(json.dumps(manifest))
    message = r"\.slap_index has the format of slap_jax 0\.1, .*: build it again with `slap index FOLDER .* --rebuild`"
    with pytest.raises(SearchError, match=message):
        SearchIndex(folder)
    with pytest.raises(SearchError, match=message):
        update_index(FakeModel(), folder)
    assert update_index(FakeModel(), folder, rebuild=True).embedded == 1 and [*stored(folder)] == ["a.wav"]
    assert sorted(path.name for path in index.iterdir()) == ["files.lance", "windows.lance"]


def test_other_files_next_to_an_index_are_kept(folder, tmp_path):
    (tmp_path / "index" / "data-000001").mkdir(parents=True)
    (tmp_path / "index" / "manifest.json").write_text("{}")
    update_index(FakeModel(), folder, tmp_path / "index", rebuild=True)
    assert (tmp_path / "index" / "data-000001").is_dir() and (tmp_path / "index" / "manifest.json").is_file()


def test_a_format_of_the_future(folder, monkeypatch):
    monkeypatch.setattr("slap_jax.search.index.FORMAT_VERSION", 3)
    update_index(FakeModel(), folder)
    monkeypatch.undo()
    with pytest.raises(SearchError, match="has format version 3, expected 2: build it again"):
        SearchIndex(folder)


def test_without_lancedb(folder, monkeypatch):
    update_index(FakeModel(), folder)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    message = re.escape("a search index needs lancedb, which is missing: pip install 'slap-jax[search]'")
    for act in (lambda: search(FakeModel(), folder, "tone 0"), lambda: update_index(FakeModel(), folder)):
        with pytest.raises(SearchError, match=f"^{message}$"):
            act()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SearchError, match=f"^{message}$"):
        update_index(FakeModel(), folder, rebuild=True)


def test_one_writer_at_a_time(folder):
    update_index(FakeModel(), folder)
    with only_writer(folder / ".slap_index"), pytest.raises(SearchError, match="another `slap index` is writing"):
        update_index(FakeModel(), folder)
    assert update_index(FakeModel(), folder).unchanged == 1


def test_a_folder_whose_name_looks_like_a_url(folder):
    odd = folder.rename(folder.parent / "a b%20c#d?e:f'g")
    update_index(FakeModel(), odd, approximate=True)
    assert search(FakeModel(), odd, "tone 0", approximate=True)[0].path == str(odd / "a.wav")
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]
