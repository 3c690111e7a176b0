"""Ranking against a plain sort over all windows, and what becomes of windows that overlap.

The graph of neighbours proposes nearly what the exact search finds, and never hides what it does not know.
"""

import builtins
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from slap_jax.search import search as approximate
from slap_jax.search import search as hits_module
from slap_jax.search.index import FileState, Manifest, SearchError, SearchIndex, file_entry
from slap_jax.search.search import Hit, all_scores, approximate_hits, build_graph, exact_hits, search
from slap_jax.search.update import update_index
from slap_jax.search.writer import IndexWriter
from tests.search.fake_model import FakeModel, tone, write


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def random_index(
    folder: Path, files: int, windows: int, embed_dim: int = 8, number_type: str = "float32"
) -> SearchIndex:
    """Files of that many overlapping windows; every seventh file is gone again, and scores repeat."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    writer = IndexWriter(folder, Manifest("m", embed_dim, number_type, 10.0, 5.0, "/sounds"))
    for number in range(files):
        vectors = unit(generator, windows, embed_dim)
        vectors[::5] = vectors[0]
        starts = 5.0 * np.arange(windows)
        writer.add_content(f"content{number}", np.stack([starts, starts + 10], axis=1), vectors)
        writer.note(file_entry(f"{number}.wav", FileState(1, 1, f"content{number}")))
        if number % 7 == 0:
            writer.note({"path": f"{number}.wav"})
    writer.commit()
    writer.close()
    return SearchIndex(folder)


def plainly(index: SearchIndex, query: np.ndarray, k: int, per_file: int | None) -> list[Hit]:
    """All windows sorted, then picked one by one."""
    found = []
    for path, state in index.contents.files.items():
        first, rows = index.contents.rows[state.content]
        for row in range(first, first + rows):
            score = float(np.float32(index.vectors[row].astype(np.float32) @ query))
            found.append((-round(score, 5), path, *index.times[row].tolist()))
    hits: list[Hit] = []
    for score, path, start, end in sorted(found):
        same = [hit for hit in hits if hit.path == f"/sounds/{path}"]
        if any(start < hit.end and hit.start < end for hit in same) or (per_file and len(same) >= per_file):
            continue
        hits.append(Hit(f"/sounds/{path}", start, end, -score))
    return hits[:k]


def rounded(hits: list[Hit]) -> list[Hit]:
    return [Hit(hit.path, hit.start, hit.end, round(hit.score, 5)) for hit in hits]


@pytest.mark.parametrize(("k", "per_file"), [(1, None), (10, None), (10, 1), (40, 2), (10_000, None)])
@pytest.mark.parametrize("number_type", ["float32", "float16"])
def test_ranking(tmp_path, monkeypatch, k, per_file, number_type):
    monkeypatch.setattr(hits_module, "_CHUNK_ROWS", 17)
    index = random_index(tmp_path / "index", files=30, windows=9, number_type=number_type)
    query = unit(np.random.default_rng(1), 8)
    hits = exact_hits(index, query, k, per_file)
    # Whoever ties to five digits may stand in either order.
    assert sorted(rounded(hits)[: len(hits) - 1], key=str) == sorted(
        plainly(index, query, k, per_file)[: len(hits) - 1], key=str
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(hits) == len(plainly(index, query, k, per_file)) and "/sounds/7.wav" not in {hit.path for hit in hits}


def test_one_long_recording_in_which_everything_is_alike(tmp_path):
    """The best moments are all neighbours: far more windows have to be looked at than are shown."""
    folder = tmp_path / "index"
    folder.mkdir()
    writer = IndexWriter(folder, Manifest("m", 2, "float32", 10.0, 0.01, "/sounds"))
    angle = np.linspace(0, 0.5, 3_000)
    starts = 0.01 * np.arange(3_000)
    writer.add_content("x", np.stack([starts, starts + 10], axis=1), np.stack([np.cos(angle), np.sin(angle)], axis=1))
    writer.note(file_entry("x.wav", FileState(1, 1, "x")))
    writer.commit()
    writer.close()
    hits = exact_hits(SearchIndex(folder), np.array([1, 0], np.float32), k=3)
    moments = [(round(hit.start, 2), round(hit.end, 2)) for hit in hits]
    assert moments == [(0, 10), (10, 20), (20, 30)]


def test_scores_are_cosines(tmp_path):
    index = random_index(tmp_path / "index", files=5, windows=3)
    query = unit(np.random.default_rng(2), 8)
    np.testing.assert_allclose(all_scores(index, query), index.vectors @ query, atol=1e-6)
    np.testing.assert_allclose(all_scores(index, query, first=4), index.vectors[4:] @ query, atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "low.wav", tone(0, 3))
    write(tmp_path / "high.wav", tone(3, 3))
    write(tmp_path / "long.wav", tone(1, 12), tone(2, 10), tone(1, 10))
    update_index(FakeModel(), tmp_path)
    return tmp_path


def test_text_finds_the_moment(folder):
    hits = search(FakeModel(), folder, "tone 2", k=2)
    assert (hits[0].path, hits[0].start, hits[0].end) == (str(folder / "long.wav"), 10, 20)
    assert hits[0].score > 0.9 and hits[1].score < hits[0].score
    assert len(search(FakeModel(), folder, "tone 1", k=10, per_file=1)) == 3


def test_sound_finds_its_like(folder):
    model = FakeModel()
    for clip in (
        str(folder / "high.wav"),
        folder / "high.wav",
        (tone(3, 1), 16_000),
        (folder / "high.wav").read_bytes(),
    ):
        assert search(model, folder, audio=clip, k=1)[0].path == str(folder / "high.wav")


def test_text_and_sound_together(folder):
    vector = FakeModel().embed_text(["tone 0"])[0] + FakeModel().embed_audio([(tone(3, 1), 16_000)])[0]
    index = SearchIndex(folder)
    expected = exact_hits(index, vector / np.linalg.norm(vector), 5)
    found = search(FakeModel(), index, "tone 0", (tone(3, 1), 16_000), k=5)
    assert rounded(found) == rounded(expected)
    assert {found[0].path, found[1].path} == {str(folder / "high.wav"), str(folder / "low.wav")}
    assert found[0].score == pytest.approx(0.5**0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to search for"),
        ({"text": "tone 1", "k": 0}, "k is 0; expected at least 1"),
        ({"text": "tone 1", "per_file": 0}, "per_file is 0"),
        ({"text": "tone 1", "approximate": True}, "has no graph: make it with `slap index FOLDER"),
    ],
)
def test_mistakes(folder, options, message):
    with pytest.raises(SearchError, match=message):
        search(FakeModel(), folder, **options)


def test_another_model_is_refused(folder):
    with pytest.raises(SearchError, match=r"made with model fake00000001 .* but this is model other"):
        search(FakeModel("other"), folder, "tone 1")


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
        patch.setattr("slap_jax.search.search.build_graph", killed)
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
