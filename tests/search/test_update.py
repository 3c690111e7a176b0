"""An index follows its folder, and only new contents are embedded."""

import os
import shutil
from datetime import timedelta

import numpy as np
import pytest
import soundfile
from lancedb.table import LanceTable

from slap_jax.inference.many_files import NoInputError
from slap_jax.search import update as update_module
from slap_jax.search.index import FileState, SearchError, SearchIndex, Settings, create_tables
from slap_jax.search.search import search
from slap_jax.search.update import IndexWriter, update_index
from tests.search.fake_model import RATE, FakeModel, stored, tone, write


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with three short recordings and a long one."""
    write(tmp_path / "sounds" / "low.wav", tone(0, 1))
    write(tmp_path / "sounds" / "deep" / "middle.flac", tone(1, 2))
    write(tmp_path / "sounds" / "high.wav", tone(2, 3))
    write(tmp_path / "sounds" / "long.wav", tone(0, 10), tone(3, 10), tone(0, 6))
    (tmp_path / "sounds" / "notes.txt").write_text("no audio")
    write(tmp_path / "sounds" / ".hidden" / "x.wav", tone(0, 1))
    return tmp_path / "sounds"


def times(folder, path: str) -> list[tuple[float, float]]:
    return [(start, end) for start, end, _ in stored(folder)[path]]


def data_files(index: SearchIndex) -> int:
    return len(list((index.path / "windows.lance" / "data").iterdir()))


def test_first_update(folder):
    model = FakeModel()
    update = update_index(model, folder)
    assert (update.files, update.embedded, update.unchanged, update.known, update.removed) == (4, 4, 0, 0, 0)
    assert sorted(stored(folder)) == ["deep/middle.flac", "high.wav", "long.wav", "low.wav"]
    assert update.windows == 3 + 5
    assert times(folder, "long.wav") == [(0, 10), (5, 15), (10, 20), (15, 25), (20, 26)]
    assert times(folder, "high.wav") == [(0, 3)]
    expected = model.embed_audio([str(folder / "high.wav")])[0]
    assert np.array_equal(stored(folder)["high.wav"][0][2], expected)


def test_nothing_is_embedded_twice(folder):
    update_index(FakeModel(), folder)
    before = stored(folder)
    model = FakeModel()
    assert update_index(model, folder).unchanged == 4 and model.heard == []
    os.utime(folder / "low.wav", ns=(1, 1))  # touched
    (folder / "high.wav").rename(folder / "deep" / "higher.wav")  # moved
    shutil.copy(folder / "deep" / "middle.flac", folder / "copy.flac")  # copied
    update = update_index(model, folder)
    assert (update.unchanged, update.known, update.embedded, update.removed) == (2, 3, 0, 1) and model.heard == []
    assert stored(folder) == {
        "low.wav": before["low.wav"],
        "long.wav": before["long.wav"],
        "deep/middle.flac": before["deep/middle.flac"],
        "deep/higher.wav": before["high.wav"],
        "copy.flac": before["deep/middle.flac"],
    }


def test_changed_and_removed_files(folder):
    update_index(FakeModel(), folder)
    before = stored(folder)
    write(folder / "low.wav", tone(3, 1))
    (folder / "high.wav").unlink()
    model = FakeModel()
    update = update_index(model, folder)
    assert (update.unchanged, update.embedded, update.removed) == (2, 1, 1) and model.heard == [16_000]
    after = stored(folder)
    assert set(after) == {"low.wav", "deep/middle.flac", "long.wav"} and after["low.wav"] != before["low.wav"]
    assert all("high" not in hit.path for hit in search(model, folder, "tone 2", k=100))
    write(folder / "high.wav", tone(2, 3))  # the same bytes again: its windows were not removed yet
    model.heard.clear()
    assert update_index(model, folder).known == 1 and model.heard == []


def test_copies_are_embedded_once(folder):
    shutil.copy(folder / "low.wav", folder / "again.wav")
    shutil.copy(folder / "low.wav", folder / "z.wav")
    model = FakeModel()
    update = update_index(model, folder)
    assert (update.files, update.embedded, update.known) == (6, 4, 2) and model.heard.count(16_000) == 1
    hits = [(os.path.relpath(hit.path, folder), hit.start) for hit in search(model, folder, "tone 0", k=5)]
    assert hits == [("again.wav", 0), ("long.wav", 0), ("long.wav", 20), ("low.wav", 0), ("z.wav", 0)]


def test_bad_files_are_reported_and_left_out(folder):
    (folder / "broken.wav").write_bytes(b"RIFFnothing")
    (folder / "broken_too.wav").write_bytes(b"RIFFnothing")
    (folder / "empty.mp3").touch()
    write(folder / "silent.wav", np.zeros(800, np.float32))
    write(folder / "silent_long.wav", np.zeros(20 * RATE, np.float32))
    write(folder / "late.wav", np.zeros(20 * RATE, np.float32), tone(0, 1))
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    soundfile.write(folder / "nan.wav", np.full(800, np.nan), 16_000, subtype="FLOAT")
    update = update_index(FakeModel(), folder)
    reasons = dict(update.bad)
    assert update.files == 5 and set(reasons) == {
        "broken.wav",
        "broken_too.wav",
        "empty.mp3",
        "silent.wav",
        "silent_long.wav",
        "gone.wav",
        "nan.wav",
    }
    assert "is silent" in reasons["silent.wav"] and "is silent" in reasons["silent_long.wav"]
    assert f"same bytes as {folder}/broken.wav, which was left out" in reasons["broken_too.wav"]
    assert "NaN" in reasons["nan.wav"] and "0 bytes" in reasons["empty.mp3"]
    assert all(str(folder / path) in reason for path, reason in reasons.items())
    assert dict(update_index(FakeModel(), folder).bad).keys() == reasons.keys()  # reported each time
    write(folder / "broken.wav", tone(1, 1.5))
    (folder / "low.wav").write_bytes(b"RIFFnothing")
    update = update_index(FakeModel(), folder)
    assert (update.embedded, update.removed) == (1, 1) and "low.wav" in dict(update.bad)
    assert set(stored(folder)) == {"broken.wav", "deep/middle.flac", "high.wav", "late.wav", "long.wav"}


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_update(folder):
    class Meddler(FakeModel):
        def windows(self, clip, seconds=10.0, hop=5.0, sample_rate=None):
            windows = super().windows(clip, seconds, hop)
            write(folder / "long.wav", tone(1, 12))
            return windows

    update = update_index(Meddler(), folder)
    assert update.bad == [("long.wav", f"{folder / 'long.wav'} changed while it was read; run `slap index` again")]
    assert update_index(FakeModel(), folder).embedded == 1


def test_files_in_a_folder_that_cannot_be_listed_are_kept(folder, monkeypatch):
    update_index(FakeModel(), folder)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    update = update_index(FakeModel(), folder)
    assert update.removed == 0 and update.bad[0][0] == "deep" and "cannot be listed" in update.bad[0][1]
    assert "deep/middle.flac" in stored(folder)


def test_windows_without_a_file_are_removed_when_they_are_the_majority(folder, monkeypatch):
    monkeypatch.setattr(update_module, "_SMALLEST_VACUUM", 1)
    update_index(FakeModel(), folder)
    before = stored(folder)
    (folder / "long.wav").unlink()
    assert update_index(FakeModel(), folder).windows == 3
    index = SearchIndex(folder)
    assert index.windows.count_rows() == 3
    assert stored(folder) == {path: windows for path, windows in before.items() if path != "long.wav"}
    assert data_files(index) == 1
    assert update_index(FakeModel(), folder).unchanged == 3


def test_compaction_removes_every_old_version(tmp_path, monkeypatch):
    """Also the versions that LanceDB commits while it compacts, which refer to the old data."""
    optimize, ages = LanceTable.optimize, []

    def record_age(self, *, cleanup_older_than):
        ages.append(cleanup_older_than)
        optimize(self, cleanup_older_than=cleanup_older_than)

    monkeypatch.setattr(LanceTable, "optimize", record_age)
    create_tables(tmp_path, Settings("m", 4, "float32", 10.0, 5.0, "/sounds"))
    index = SearchIndex(tmp_path)
    writer = IndexWriter(index)
    for number in range(10):
        writer.add_windows(str(number), np.array([[0.0, 1.0]]), np.eye(1, 4))
        writer.set_file(f"{number}.wav", FileState(1, number, str(number)))
        writer.commit()
        index.compact()
        assert data_files(index) == 1
        assert len(index.windows.list_versions()) == len(index.files_table.list_versions()) == 1
    # After any longer age, the outcome depends on how fast LanceDB compacts: 1 ms kept the old data in most cases.
    assert {*ages} == {timedelta(0)}


def test_a_rebuild_removes_the_former_index_from_the_disk(folder):
    update_index(FakeModel(), folder, approximate=True)
    update_index(FakeModel(), folder, rebuild=True)
    assert data_files(SearchIndex(folder)) == 1
    assert not [*(folder / ".slap_index" / "windows.lance").glob("_indices/*")]


def test_a_new_vector_index_replaces_the_former_on_the_disk(tmp_path):
    write(tmp_path / "0.wav", tone(0, 1))
    update_index(FakeModel(), tmp_path, approximate=True)
    for number in range(1, 4):
        write(tmp_path / f"{number}.wav", tone(number, 1))
    update_index(FakeModel(), tmp_path)
    assert len([*(tmp_path / ".slap_index" / "windows.lance").glob("_indices/*")]) == 1


def test_many_small_commits_are_merged(folder, monkeypatch):
    monkeypatch.setattr(update_module, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(update_module, "_MOST_FRAGMENTS", 2)
    update_index(FakeModel(), folder)
    assert SearchIndex(folder).windows.stats()["fragment_stats"]["num_fragments"] <= 2
    assert len(stored(folder)) == 4


def test_half_size(folder):
    update_index(FakeModel(), folder, number_type="float16")
    assert str(SearchIndex(folder).windows.schema.field("vector").type.value_type) == "halffloat"
    assert [hit.path for hit in search(FakeModel(), folder, "tone 2", k=1)] == [str(folder / "high.wav")]
    assert update_index(FakeModel(), folder).unchanged == 4  # keeps the setting without being asked


def test_windows(folder):
    update_index(FakeModel(), folder, window_seconds=2, hop_seconds=1.5)
    assert times(folder, "high.wav") == [(0, 2), (1.5, 3)]
    update_index(FakeModel(), folder, window_seconds=4, rebuild=True)
    assert SearchIndex(folder).settings.hop_seconds == 2


def test_an_index_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    update_index(FakeModel(), folder, tmp_path / "index")
    assert not (folder / ".slap_index").exists()
    assert search(FakeModel(), tmp_path / "index", "tone 2", k=1)[0].path == str(folder / "high.wav")
    write(tmp_path / "others" / "a.wav", tone(0, 1))
    with pytest.raises(SearchError, match=r"index has folder .*sounds, but .*others was asked for"):
        update_index(FakeModel(), tmp_path / "others", tmp_path / "index")


def test_an_index_moves_with_its_folder(folder, tmp_path):
    update_index(FakeModel(), folder)
    folder.rename(tmp_path / "elsewhere")
    model = FakeModel()
    assert search(model, tmp_path / "elsewhere", "tone 2", k=1)[0].path == str(tmp_path / "elsewhere" / "high.wav")
    assert update_index(model, tmp_path / "elsewhere").unchanged == 4 and model.heard == []


def test_odd_names(folder):
    odd = "\n\" l'öw\\.wav"
    os.rename(folder / "low.wav", folder / odd)
    write(folder / "x.wav", tone(1, 1.5))
    os.rename(folder / "x.wav", os.fsencode(folder) + b"/a\xff.wav")
    write(folder / "same_sound_good_name.wav", tone(1, 1.5))
    update = update_index(FakeModel(), folder)
    assert odd in stored(folder) and "same_sound_good_name.wav" in stored(folder)
    assert [reason for _, reason in update.bad] == [f"{folder}/a\\udcff.wav has a name that is not UTF-8; rename it"]
    assert update_index(FakeModel(), folder).unchanged == 5
    (folder / odd).unlink()
    assert update_index(FakeModel(), folder).removed == 1
    assert sorted(stored(folder)) == ["deep/middle.flac", "high.wav", "long.wav", "same_sound_good_name.wav"]


@pytest.mark.parametrize(
    ("present", "options", "message"),
    [
        (True, {"window_seconds": 5}, r"has window_seconds 10.0, but 5 was asked for: .* --rebuild"),
        (True, {"hop_seconds": 2}, r"has hop_seconds 5.0, but 2 was asked for"),
        (True, {"number_type": "float16"}, r"has number_type float32, but float16 was asked for"),
        (False, {"window_seconds": 0}, "windows of 0.0 s"),
        (False, {"hop_seconds": 11}, "windows of 10.0 s every 11.0 s"),
        (False, {"window_seconds": 1e-9}, "expected a hop of at least 0.01 s"),
        (False, {"window_seconds": float("inf")}, "windows of inf s"),
        (False, {"number_type": "int8"}, "number_type is 'int8'; expected one of float32, float16"),
    ],
)
def test_settings_that_are_refused(tmp_path, present, options, message):
    write(tmp_path / "low.wav", tone(0, 1))
    if present:
        update_index(FakeModel(), tmp_path)
    with pytest.raises(SearchError, match=message):
        update_index(FakeModel(), tmp_path, **options)


def test_another_model_is_refused(folder):
    update_index(FakeModel(), folder)
    other = FakeModel("fake00000002")
    with pytest.raises(SearchError, match=r"made with model fake00000001 .* but this is model fake00000002"):
        update_index(other, folder)
    assert update_index(other, folder, rebuild=True).embedded == 4
    assert SearchIndex(folder).settings.model_id == "fake00000002"


def test_no_audio(folder, tmp_path):
    update_index(FakeModel(), folder)
    for name in ("low.wav", "deep/middle.flac", "high.wav", "long.wav"):
        (folder / name).unlink()
    with pytest.raises(NoInputError, match="holds no audio files"):
        update_index(FakeModel(), folder)
    assert len(SearchIndex(folder)) == 4  # perhaps a disk that is not mounted
    with pytest.raises(NoInputError, match="is not a folder"):
        update_index(FakeModel(), tmp_path / "none")
