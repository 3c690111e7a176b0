import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.vggsound import VggSound
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

# No header line; labels with commas are quoted; one video twice.
BATCH_SPEC = [
    ("---g-f_I2yQ", 1, "people marching", "test"),
    ("--9O4XZOge4", 30, "female speech, woman speaking", "train"),
    ("_0aBcDeFgHi", 1042, "horse clip-clop", "train"),
    ("_0aBcDeFgHi", 0, "dog barking", "train"),
]


def publish(root, table="vggsound.csv"):
    write_csv(root / table, BATCH_SPEC)
    write_wav(root / "audio/---g-f_I2yQ_000001.wav")
    write_wav(root / "audio/part_00/--9O4XZOge4_000030.flac", container="FLAC")
    write_wav(root / "audio/part_01/deep/_0aBcDeFgHi_001042.wav")
    return root


@pytest.mark.parametrize("table", ["vggsound.csv", "data/vggsound.csv"])
def test_splits_and_labels_with_commas(tmp_path, table):
    entries, (rejection,) = listed(VggSound(publish(tmp_path, table)))
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        ("---g-f_I2yQ_000001", "test", ("label=people marching",)),
        ("--9O4XZOge4_000030", "train", ("label=female speech, woman speaking",)),
        ("_0aBcDeFgHi_001042", "train", ("label=horse clip-clop",)),
    ]
    assert entries[1].audio == AudioFile(tmp_path / "audio/part_00/--9O4XZOge4_000030.flac")
    assert entries[2].audio == AudioFile(tmp_path / "audio/part_01/deep/_0aBcDeFgHi_001042.wav")
    assert (rejection.where, rejection.id, rejection.reason) == ("vggsound.csv:4", "_0aBcDeFgHi_000000", "missing_file")


def test_one_split(tmp_path):
    entries, rejections = listed(VggSound(publish(tmp_path), splits="test"))
    assert [entry.id for entry in entries] == ["---g-f_I2yQ_000001"]
    assert not rejections


def test_lines_of_another_form_are_left_out(tmp_path):
    with (publish(tmp_path) / "vggsound.csv").open("a") as file:
        file.write("abcdefghijk,5,bee, wasp,train\nabcdefghijk,6,sea waves,validation\n")
    _, rejections = listed(VggSound(tmp_path, splits="test"))
    assert [(rejection.where, rejection.reason) for rejection in rejections] == [
        ("vggsound.csv:5", "bad_row"),
        ("vggsound.csv:6", "bad_field"),
    ]


def test_a_start_that_is_not_a_number_is_an_error_with_its_line(tmp_path):
    write_csv(publish(tmp_path) / "vggsound.csv", [("youtube_id", "start", "label", "test")])
    with pytest.raises(LayoutError, match=r"vggsound.csv:1: start_seconds is 'start', not a number"):
        listed(VggSound(tmp_path))
