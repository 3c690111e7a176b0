from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.datasets.urbansound8k import UrbanSound8K
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
CLIPS = [
    ("100032-3-0-0.wav", 100032, 0, 0.317551, 1, 5, 3, "dog_bark"),
    ("100263-2-0-117.wav", 100263, 58.5, 62.5, 1, 5, 2, "children_playing"),
    ("100648-1-0-0.wav", 100648, 4.823402, 5.471927, 2, 10, 1, "car_horn"),
]


def publish(root):
    write_csv(root / "metadata/UrbanSound8K.csv", [COLUMNS, *CLIPS])
    for name, *_, fold, _, _ in CLIPS:
        write_wav(root / f"audio/fold{fold}" / name)
    (root / "audio/.DS_Store").write_bytes(b"")
    return root


def test_classes_folds_and_salience(tmp_path):
    entries, rejections = listed(UrbanSound8K(publish(tmp_path)))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        ("100032-3-0-0", "fold5", ("label=dog bark", "fold=5", "salience=foreground")),
        ("100263-2-0-117", "fold5", ("label=children playing", "fold=5", "salience=foreground")),
        ("100648-1-0-0", "fold10", ("label=car horn", "fold=10", "salience=background")),
    ]
    assert entries[2].audio == AudioFile(tmp_path / "audio/fold10/100648-1-0-0.wav")
    assert entries[0].licence == "CC-BY-NC-3.0"


def test_a_missing_clip_is_left_out(tmp_path):
    (publish(tmp_path) / "audio/fold5/100263-2-0-117.wav").unlink()
    entries, (rejection,) = listed(UrbanSound8K(tmp_path))
    assert [entry.id for entry in entries] == ["100032-3-0-0", "100648-1-0-0"]
    assert (rejection.id, rejection.reason) == ("100263-2-0-117", "missing_file")


def test_expected_folds_sum_to_the_published_number():
    assert sum(split.clips for split in UrbanSound8K.expected.values()) == 8_732
