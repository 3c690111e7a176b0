"""The hits against a plain sort over all windows, and the agreement of approximate with exact search."""

from pathlib import Path

import numpy as np
import pytest

from slap_jax.data.audio import AudioError
from slap_jax.search.index import FileState, SearchError, SearchIndex, Settings, create_tables
from slap_jax.search.search import Hit, best_hits, search
from slap_jax.search.update import IndexWriter, update_index
from tests.search.fake_model import FakeModel, tone, write


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_index(
    folder: Path, files: dict[str, tuple[np.ndarray, np.ndarray]], number_type: str = "float32"
) -> IndexWriter:
    """Writes an index of files with the given times and vectors."""
    folder.mkdir()
    embed_dim = next(iter(files.values()))[1].shape[1]
    create_tables(folder, Settings("m", embed_dim, number_type, 10.0, 5.0, "/sounds"))
    writer = IndexWriter(SearchIndex(folder))
    for path, (times, vectors) in files.items():
        writer.add_windows(f"content of {path}", times, vectors)
        writer.set_file(path, FileState(1, 1, f"content of {path}"))
    writer.commit()
    return writer


def random_index(folder: Path, files: int, windows: int, embed_dim: int = 8, number_type: str = "float32") -> None:
    """Files of overlapping windows with repeated vectors; every seventh file was removed, some have copies."""
    generator = np.random.default_rng(0)
    starts = 5.0 * np.arange(windows)
    content = {}
    for number in range(files):
        vectors = unit(generator, windows, embed_dim)
        vectors[::5] = np.eye(embed_dim, dtype=np.float32)[generator.choice(2)]  # ties, also between files
        content[f"{number}.wav"] = (np.stack([starts, starts + 10], axis=1), vectors)
    writer = make_index(folder, content, number_type)
    for number in range(0, files, 7):
        writer.remove_file(f"{number}.wav")
        writer.set_file(f"copy/{number + 1}.wav", writer.files[f"{number + 1}.wav"])
    writer.commit()


def brute_force(index: SearchIndex, query: np.ndarray, k: int, per_file: int | None = None) -> list[Hit]:
    """Sorts all windows, then picks one by one."""
    rows = index.windows.search().to_arrow().to_pylist()
    scores = (np.array([row["vector"] for row in rows], np.float64) @ query.astype(np.float64)).astype(np.float32)
    ranked = sorted(
        (-float(score), path, row["start"], row["end"])
        for path, state in index.files.items()
        for row, score in zip(rows, scores, strict=True)
        if row["content"] == state.content
    )
    hits: list[Hit] = []
    for score, path, start, end in ranked:
        same = [hit for hit in hits if hit.path == f"/sounds/{path}"]
        if any(start < hit.end and hit.start < end for hit in same) or (per_file and len(same) >= per_file):
            continue
        hits.append(Hit(f"/sounds/{path}", start, end, -score))
    return hits[:k]


@pytest.fixture(scope="module", params=["float32", "float16"])
def ranked(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranked") / "index"
    random_index(folder, files=30, windows=9, number_type=request.param)
    return SearchIndex(folder)


@pytest.mark.parametrize(("k", "per_file"), [(1, None), (10, None), (10, 1), (40, 2), (10_000, None)])
def test_exact_hits_are_those_of_a_sort(ranked, k, per_file):
    for query in (unit(np.random.default_rng(1), 8), np.eye(8, dtype=np.float32)[0], np.zeros(8, np.float32)):
        hits = best_hits(ranked, query, k, per_file)
        assert hits == brute_force(ranked, query, k, per_file)
        assert "/sounds/7.wav" not in {hit.path for hit in hits}


def test_neighbours_in_a_long_recording_are_one_hit(tmp_path):
    """The best windows all overlap: far more of them have to be fetched than there are hits."""
    angle, starts = np.linspace(0, 0.5, 3_000), 0.01 * np.arange(3_000)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    make_index(tmp_path / "index", {"x.wav": (np.stack([starts, starts + 10], axis=1), vectors)})
    hits = best_hits(SearchIndex(tmp_path / "index"), np.array([1, 0], np.float32), k=3)
    moments = [(round(hit.start, 2), round(hit.end, 2)) for hit in hits]
    assert moments == [(0, 10), (10, 20), (20, 30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write(folder / "low.wav", tone(0, 3))
    write(folder / "high.wav", tone(3, 3))
    write(folder / "long.wav", tone(1, 12), tone(2, 10), tone(1, 10))
    update_index(FakeModel(), folder)
    return folder


def test_a_text_finds_the_moment(folder):
    hits = search(FakeModel(), folder, "tone 2", k=2)
    assert (hits[0].path, hits[0].start, hits[0].end) == (str(folder / "long.wav"), 10, 20)
    assert hits[0].score > 0.9 and hits[1].score < hits[0].score
    assert len(search(FakeModel(), folder, "tone 1", k=10, per_file=1)) == 3


def test_a_sound_finds_the_same_sound(folder):
    high = folder / "high.wav"
    for clip in (str(high), high, (tone(3, 1), 16_000), high.read_bytes()):
        assert search(FakeModel(), folder, audio=clip, k=1)[0].path == str(high)


def test_a_bad_sound_is_named_by_its_path_alone(folder, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFFnothing")
    with pytest.raises(AudioError) as raised:
        search(FakeModel(), folder, audio=bad)
    assert str(raised.value).startswith(str(bad))


def test_a_text_and_a_sound_search_for_their_mean(folder):
    vector = FakeModel().embed_text(["tone 0"])[0] + FakeModel().embed_audio([(tone(3, 1), 16_000)])[0]
    index = SearchIndex(folder)
    hits = search(FakeModel(), index, "tone 0", (tone(3, 1), 16_000), k=5)
    assert hits == best_hits(index, vector / np.linalg.norm(vector), 5)
    assert {hits[0].path, hits[1].path} == {str(folder / "high.wav"), str(folder / "low.wav")}
    assert hits[0].score == pytest.approx(0.5**0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to search for"),
        ({"text": "tone 1", "k": 0}, "k is 0; expected at least 1"),
        ({"text": "tone 1", "per_file": 0}, "per_file is 0"),
        ({"text": "tone 1", "approximate": True}, "has no index for approximate search: make it with `slap index"),
    ],
)
def test_mistakes_are_errors(folder, options, message):
    with pytest.raises(SearchError, match=message):
        search(FakeModel(), folder, **options)


def test_another_model_is_refused(folder):
    with pytest.raises(SearchError, match=r"made with model fake00000001 .* but this is model other"):
        search(FakeModel("other"), folder, "tone 1")


def test_approximate_hits_are_nearly_the_exact_ones(tmp_path, monkeypatch):
    random_index(tmp_path / "index", files=300, windows=9, embed_dim=16)
    index = SearchIndex(tmp_path / "index")
    index.update_vector_index()
    queries = unit(np.random.default_rng(3), 20, 16)
    exact = [best_hits(index, query, 10) for query in queries]
    assert best_hits(index, queries[0], 10_000) == best_hits(index, queries[0], 10_000, approximate=True)
    nearest = SearchIndex.nearest

    def only_approximate(self, query, count, approximate=False):
        assert approximate
        return nearest(self, query, count, approximate)

    monkeypatch.setattr(SearchIndex, "nearest", only_approximate)  # the exact search does not stand in
    near = [best_hits(index, query, 10, approximate=True) for query in queries]
    assert [len(hits) for hits in near] == [10] * 20
    assert sum(len({*a} & {*b}) for a, b in zip(exact, near, strict=True)) >= 190  # of 200
    assert len(best_hits(index, queries[0], 40, per_file=1, approximate=True)) == 40


@pytest.mark.parametrize("number_type", ["float32", "float16"])
def test_the_vector_index_follows_updates(tmp_path, number_type):
    for number in range(4):
        write(tmp_path / f"{number}.wav", tone(number, 1))
    update_index(FakeModel(), tmp_path, approximate=True, number_type=number_type)
    write(tmp_path / "new.wav", tone(1, 1.5))
    (tmp_path / "2.wav").unlink()
    update_index(FakeModel(), tmp_path)  # keeps it up to date without being asked
    assert SearchIndex(tmp_path).windows.index_stats("vector_idx").num_unindexed_rows == 0
    for text in ("tone 1", "tone 2"):
        exact, near = (search(FakeModel(), tmp_path, text, approximate=approximate) for approximate in (False, True))
        assert near == exact and len(near) == 4


def test_windows_that_are_not_in_the_vector_index_yet_are_found(tmp_path, monkeypatch):
    write(tmp_path / "old.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    write(tmp_path / "new.wav", tone(1, 1))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SearchIndex, "update_vector_index", killed)
        update_index(FakeModel(), tmp_path)
    assert SearchIndex(tmp_path).windows.index_stats("vector_idx").num_unindexed_rows == 1
    assert search(FakeModel(), tmp_path, "tone 1", k=1, approximate=True)[0].path == str(tmp_path / "new.wav")


def test_a_new_index_has_no_vector_index_of_the_former(tmp_path):
    write(tmp_path / "a.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    update_index(FakeModel(), tmp_path, rebuild=True)
    with pytest.raises(SearchError, match="no index for approximate search"):
        search(FakeModel(), tmp_path, "tone 0", approximate=True)
    update_index(FakeModel(), tmp_path, approximate=True)
    assert search(FakeModel(), tmp_path, "tone 0", k=1, approximate=True)[0].score > 0.99
