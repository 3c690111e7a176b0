import pytest

from slap_jax.data.collections.entry_fields import CollectionError
from slap_jax.data.collections.file_patterns import expand_braces, files_of_pattern, folder_of_pattern, is_pattern


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{008..011}", ["008", "009", "010", "011"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{00..2}", ["00", "01", "02"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{train,test}/{0..1}", ["train/0", "train/1", "test/0", "test/1"]),
        ("a{}b", ["ab"]),
        ("{a..c}", ["a..c"]),
    ],
)
def test_braces(pattern, names):
    assert list(expand_braces(pattern)) == names
    assert is_pattern(pattern) == ("{" in pattern)


def test_order_of_braces_and_wildcards(tmp_path):
    for name in ("b1", "a2", "a1", "b2"):
        (tmp_path / name).touch()
    (tmp_path / "a3").mkdir()
    assert [path.name for path in files_of_pattern(f"{tmp_path}/{{b,a}}*")] == ["b1", "b2", "a1", "a2"]


def test_folder_of_a_pattern():
    assert str(folder_of_pattern("data/x/{0..9}.tar")) == "data/x"
    assert str(folder_of_pattern("data/x*/{0..9}.tar")) == "data"
    assert str(folder_of_pattern("{0..9}.tar")) == "."
    assert str(folder_of_pattern("/d/0.tar")) == "/d"


def test_more_files_than_anybody_wants(tmp_path):
    with pytest.raises(CollectionError, match="names more than 1000000 files"):
        files_of_pattern(f"{tmp_path}/{{0..99999999999}}.tar")
