import os

import pytest

from slap_jax.atomic import atomic_file, write_bytes_atomic, write_text_atomic


def test_the_file_appears_when_the_block_ends(tmp_path):
    file = tmp_path / "file"
    with atomic_file(file) as partial:
        partial.write_text("new")
        assert not file.exists() and partial.parent == tmp_path
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_two_writers_have_two_temporary_files(tmp_path):
    file = tmp_path / "file"
    with atomic_file(file) as first, atomic_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_contents_are_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    file = tmp_path / "file"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_ino, file.exists())))
    write_text_atomic(file, "Grüße\n")
    assert synced == [(file.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    assert file.read_bytes() == "Grüße\n".encode()


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_bytes_atomic(tmp_path / "file", b"\0")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_no_other_module_renames_files_by_hand():
    sources = [file for file in _package() if "os.replace(" in file.read_text() or "os.rename(" in file.read_text()]
    assert sources == []


def _package():
    import pathlib

    import slap_jax

    return sorted(pathlib.Path(slap_jax.__file__).parent.rglob("*.py"))
