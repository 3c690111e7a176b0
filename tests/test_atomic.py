import pytest

from slap_jax.atomic import atomic_file


def test_a_file_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "file"
    with atomic_file(file) as partial:
        partial.write_text("new")
        assert not file.exists() and partial.parent == tmp_path
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_two_writers_do_not_meet(tmp_path):
    file = tmp_path / "file"
    with atomic_file(file) as first, atomic_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]
