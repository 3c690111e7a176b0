"""The graph of neighbours proposes nearly what the exact search finds, and never hides what it does not know."""

import builtins
import dataclasses

import numpy as np
import pytest

from slap_jax.search import approximate
from slap_jax.search.approximate import approximate_hits, build_graph
from slap_jax.search.hits import exact_hits
from slap_jax.search.manifest import Manifest, SearchError
from slap_jax.search.reader import SearchIndex
from slap_jax.search.search import search
from slap_jax.search.update import update_index
from tests.search.fake_model import FakeModel, tone, write
from tests.search.test_hits import random_index, rounded, unit


def test_nearly_the_exact_hits(tmp_path, monkeypatch):
    random_index(tmp_path / "index", files=300, windows=9, embed_dim=16)
    build_graph(tmp_path / "index", progress=False)
    index = SearchIndex(tmp_path / "index")
    assert index.manifest.approximate_rows == index.manifest.rows == 2_700
    queries = unit(np.random.default_rng(3), 20, 16)
    exact = [exact_hits(index, query, 10) for query in queries]
    with monkeypatch.context() as patch:
        patch.delattr(approximate, "exact_hits")  # what is to be compared does not come from there
        near = [approximate_hits(index, query, 10) for query in queries]
        assert len(approximate_hits(index, queries[0], 40, per_file=1)) == 40
    assert [len(hits) for hits in near] == [10] * 20
    agree = sum(len({*map(str, rounded(a))} & {*map(str, rounded(b))}) for a, b in zip(exact, near, strict=True))
    assert agree >= 190  # of 200
    assert len(approximate_hits(index, queries[0], 10_000)) == len(exact_hits(index, queries[0], 10_000))


def test_the_graph_follows_updates(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.wav", tone(number, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    write(tmp_path / "new.wav", tone(1, 1.5))
    (tmp_path / "2.wav").unlink()
    update_index(FakeModel(), tmp_path)  # once there, it is kept up
    assert SearchIndex(tmp_path).manifest.approximate_rows == 5
    model = FakeModel()
    assert {hit.path for hit in search(model, tmp_path, "tone 1", k=2, approximate=True)} == {
        str(tmp_path / "1.wav"),
        str(tmp_path / "new.wav"),
    }
    assert search(model, tmp_path, "tone 2", k=10, approximate=True) == search(model, tmp_path, "tone 2", k=10)


def test_rows_that_the_graph_does_not_know_yet_are_found(tmp_path, monkeypatch):
    write(tmp_path / "old.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    write(tmp_path / "new.wav", tone(1, 1))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("slap_jax.search.approximate.build_graph", killed)
        with pytest.raises(KeyboardInterrupt):
            update_index(FakeModel(), tmp_path)
    assert SearchIndex(tmp_path).manifest.approximate_rows == 1
    assert search(FakeModel(), tmp_path, "tone 1", k=1, approximate=True)[0].path == str(tmp_path / "new.wav")

    # Killed between the graph and the manifest: the graph knows more than the manifest says.
    before = Manifest.read(tmp_path / ".slap_index")
    build_graph(tmp_path / ".slap_index", progress=False)
    before.write(tmp_path / ".slap_index")
    hits = search(FakeModel(), tmp_path, "tone 1", k=5, approximate=True)
    assert hits == search(FakeModel(), tmp_path, "tone 1", k=5)
    update_index(FakeModel(), tmp_path)
    assert SearchIndex(tmp_path).manifest.approximate_rows == 2


def test_rows_beyond_the_graph_are_looked_at_in_a_large_index_too(tmp_path):
    random_index(tmp_path / "index", files=300, windows=9, embed_dim=16)
    build_graph(tmp_path / "index", progress=False)
    manifest = Manifest.read(tmp_path / "index")
    dataclasses.replace(manifest, approximate_rows=2_000).write(tmp_path / "index")
    index = SearchIndex(tmp_path / "index")
    for row in (1_999, 2_500, 2_695):  # of files 222, 277 and 299
        query = np.array(index.vectors[row])
        assert rounded(approximate_hits(index, query, 1)) == rounded(exact_hits(index, query, 1))


def test_a_graph_of_older_data_is_not_taken_for_the_present_one(tmp_path):
    write(tmp_path / "a.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    old = tmp_path / ".slap_index" / "graph-000001.usearch"
    assert old.exists()
    write(tmp_path / "a.wav", tone(1, 1))
    update_index(FakeModel(), tmp_path, rebuild=True, approximate=True)
    assert not old.exists()
    assert search(FakeModel(), tmp_path, "tone 1", k=1, approximate=True)[0].score > 0.99


def test_a_graph_that_is_gone_or_of_something_else(tmp_path):
    write(tmp_path / "a.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    graph = tmp_path / ".slap_index" / "graph-000001.usearch"
    whole = graph.read_bytes()
    update_index(FakeModel(), tmp_path)
    for content in (None, whole[: len(whole) // 2], b"", b"something else" * 100):
        graph.unlink(missing_ok=True)
        if content is not None:
            graph.write_bytes(content)
        with pytest.raises(SearchError, match=r"graph-000001\.usearch .*; delete it and run `slap index` again"):
            search(FakeModel(), tmp_path, "tone 0", approximate=True)
        update_index(FakeModel(), tmp_path)
        assert search(FakeModel(), tmp_path, "tone 0", approximate=True)[0].score > 0.99


def test_without_usearch(tmp_path, monkeypatch):
    write(tmp_path / "a.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("usearch"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SearchError, match=r"pip install 'slap-jax\[search\]'"):
        search(FakeModel(), tmp_path, "tone 0", approximate=True)
    assert search(FakeModel(), tmp_path, "tone 0")[0].score > 0.99
