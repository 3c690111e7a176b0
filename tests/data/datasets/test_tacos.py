import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.tacos import Tacos
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

METADATA = (
    "filename",
    "keywords",
    "freesound_id",
    "license",
    "superclass",
    "subclass",
    "duration",
    "start_time_s",
    "end_time_s",
)
ZERO = "http://creativecommons.org/publicdomain/zero/1.0/"
STRONG = [
    ("filename", "text", "onset", "offset"),
    ("11.mp3", "a door slams", 1.5, 2.0),
    ("11.mp3", "footsteps, slowly", 0.25, 1.75),
    ("11.mp3", "before the beginning", -0.5, 0.5),
    ("11.mp3", "beyond the end", 2.5, 9.0),
    ("11.mp3", "of no length", 1.0, 1.0),
    ("11.mp3", "after the end", 5.0, 6.0),
    ("11.mp3", " ", 0.0, 1.0),
    ("11.mp3", "unknown", "nan", 1.0),
    ("22.mp3", "wind", 0.0, 4.0),
]


def publish(root):
    write_csv(root / "development_split.csv", [("filename",), ("11.mp3",), ("33.mp3",)])
    write_csv(root / "test_split.csv", [("filename",), ("22.mp3",), ("44.mp3",)])
    write_csv(root / "annotations_strong.csv", STRONG)
    weak = [("11.mp3", " Someone walks, then a door slams. "), ("22.mp3", "It is windy."), ("33.mp3", "Gone.")]
    write_csv(root / "annotations_weak.csv", [("filename", "text"), *weak])
    rows = [
        ("11.mp3", "door, footsteps", 11, ZERO, "human", "walking", 60.0, 30.0, 33.0),
        # The stated end of the part is after that of the original.
        ("22.mp3", "", 22, "http://creativecommons.org/licenses/by-nc/4.0/", "nature", "wind", 10.0, 6.0, 36.0),
        ("33.mp3", "", 33, ZERO, "", "", 1.0, 0.0, 1.0),
    ]
    write_csv(root / "metadata.csv", [METADATA, *rows])
    for name in ("11.mp3", "44.mp3"):
        write_wav(root / "audio" / name, container="MP3")
    write_wav(root / "audio" / "22.flac", container="FLAC")
    return root


def test_clips_with_regions(tmp_path):
    entries, rejections = listed(Tacos(publish(tmp_path)))
    first, second = entries
    assert (first.id, first.split, first.audio) == ("11.mp3", "development", AudioFile(tmp_path / "audio/11.mp3"))
    assert first.captions == ("Someone walks, then a door slams.",)
    assert first.regions == (
        (0.0, 0.5, "before the beginning"),
        (0.25, 1.75, "footsteps, slowly"),
        (1.5, 2.0, "a door slams"),
        (2.5, 3.0, "beyond the end"),
    )
    assert first.labels == ("superclass=human", "subclass=walking", "tag=door", "tag=footsteps")
    assert (first.licence, first.duration_s, first.source) == ("CC0-1.0", 3.0, "tacos")
    assert (second.split, second.licence, second.duration_s) == ("test", "CC-BY-NC-4.0", 4.0)
    assert second.audio == AudioFile(tmp_path / "audio/22.flac")  # converted to another format, but still found
    assert [(rejection.id, rejection.reason, rejection.where) for rejection in rejections] == [
        ("33.mp3", "missing_file", "development_split.csv:3"),
        ("44.mp3", "empty_caption", "test_split.csv:3"),
    ]


def test_only_one_split(tmp_path):
    (publish(tmp_path) / "development_split.csv").unlink()
    entries, _ = listed(Tacos(tmp_path, splits="test"))
    assert [entry.id for entry in entries] == ["22.mp3"]


def test_missing_table(tmp_path):
    (publish(tmp_path) / "annotations_strong.csv").unlink()
    with pytest.raises(LayoutError, match=r"no annotations_strong.csv; TACOS(.|\n)*audio/<filename>"):
        listed(Tacos(tmp_path))
