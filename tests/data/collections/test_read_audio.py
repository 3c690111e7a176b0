import concurrent.futures
import os

import pytest

from slap_jax.data.audio import AudioError
from slap_jax.data.collections.entries import ArchiveMember, AudioFile, TableCell
from slap_jax.data.collections.read_audio import read_audio
from slap_jax.data.collections.webdataset import WebDataset
from tests.data.listing import listed
from tests.data.tiny_data import write_tone
from tests.data.tiny_tables import table_of, write_arrow, write_parquet
from tests.data.tiny_tars import write_tar
from tests.data.unprivileged import unprivileged_folder

CONTENTS = [b"%d" % number * 100 for number in range(50)]


@pytest.fixture(params=["parquet", "arrow"])
def table(request, tmp_path):
    """A table of `CONTENTS` in groups of seven rows."""
    rows = table_of({"audio": [{"bytes": data, "path": None} for data in CONTENTS], "plain": CONTENTS})
    write = write_parquet if request.param == "parquet" else write_arrow
    return write(tmp_path / f"t.{request.param}", rows, 7)


def reason_of_failure(location, words):
    with pytest.raises(AudioError, match=words) as caught:
        read_audio(location)
    assert str(location) in str(caught.value)
    return caught.value.reason


def test_files(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert read_audio(AudioFile(tmp_path / "a.wav")) == tmp_path / "a.wav"
    assert reason_of_failure(AudioFile(tmp_path / "b.wav"), "is missing") == "missing_file"
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert reason_of_failure(AudioFile(tmp_path / "loop.wav"), "symbolic links") == "unreadable_file"


def test_a_file_without_permission():
    with unprivileged_folder() as folder:
        write_tone(folder / "a.wav")
        (folder / "a.wav").chmod(0)
        assert reason_of_failure(AudioFile(folder / "a.wav"), "Permission denied") == "unreadable_file"


def test_members_of_an_archive(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(512) + b"audio" + bytes(507))
    member = ArchiveMember(archive, "0.flac", 512, 5)
    assert read_audio(member) == b"audio"
    longer = ArchiveMember(archive, "0.flac", 512, 600)
    assert reason_of_failure(longer, "truncated: 512 of 600 bytes") == "truncated_audio"
    archive.unlink()
    assert reason_of_failure(member, "is missing") == "missing_file"


def test_cells_of_a_table_are_read_in_any_order_by_many_threads(table):
    rows = [(31 * number) % 50 for number in range(200)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for column in ("audio", "plain"):
            cells = list(pool.map(lambda row, column=column: read_audio(TableCell(table, column, row)), rows))
            assert cells == [CONTENTS[row] for row in rows]


def test_a_rewritten_table_is_read_again(table, tmp_path):
    assert read_audio(TableCell(table, "plain", 0)) == CONTENTS[0]
    write = write_parquet if table.suffix == ".parquet" else write_arrow
    write(tmp_path / "new", table_of({"plain": [b"new"]})).rename(table)
    os.utime(table, ns=(1, 1))
    assert read_audio(TableCell(table, "plain", 0)) == b"new"


def test_missing_cells(table):
    for row in (-1, 50, 1_000):
        reason = reason_of_failure(TableCell(table, "audio", row), f"row {row} does not exist: the table has 50 rows")
        assert reason == "unreadable_file"
    table.unlink()
    assert reason_of_failure(TableCell(table, "audio", 0), "is missing") == "missing_file"


def test_an_empty_cell(tmp_path):
    audio = [{"bytes": None, "path": "a.wav"}, None, {"bytes": b"", "path": None}]
    table = write_parquet(tmp_path / "t.parquet", table_of({"audio": audio}))
    for row in range(3):
        assert reason_of_failure(TableCell(table, "audio", row), "no audio in column 'audio'") == "empty_audio"


def test_a_damaged_row_group_leaves_the_others_readable(tmp_path):
    rows = table_of({"plain": [os.urandom(300) for _ in range(6)]})
    table = write_parquet(tmp_path / "t.parquet", rows, 2, use_dictionary=False)
    good = [read_audio(TableCell(table, "plain", row)) for row in range(6)]
    data = bytearray(table.read_bytes())
    data[4:60] = b"\xff" * 56
    table.write_bytes(data)
    os.utime(table, ns=(1, 1))
    assert reason_of_failure(TableCell(table, "plain", 1), "the table is damaged .*page header") == "unreadable_file"
    assert [read_audio(TableCell(table, "plain", row)) for row in range(2, 6)] == good[2:]


def test_git_lfs_pointers_are_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7\n"
    (tmp_path / "a.wav").write_bytes(pointer)
    archive = write_tar(tmp_path / "a.tar", [("x.wav", pointer), ("x.txt", b"a")])
    (entry,), _ = listed(WebDataset(archive))
    for location in (AudioFile(tmp_path / "a.wav"), entry.audio):
        with pytest.raises(AudioError, match="is a Git LFS pointer, not the file of 7 bytes") as caught:
            read_audio(location)
        assert caught.value.reason == "lfs_pointer"
