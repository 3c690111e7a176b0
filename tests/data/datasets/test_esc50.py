import pytest

from slap_jax.data.collections.entries import AudioFile, Rejection
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.esc50 import Esc50
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
CLIPS = [
    ("1-100032-A-0.wav", 1, 0, "dog", True, 100032, "A"),
    ("1-28135-B-11.wav", 1, 11, "sea_waves", True, 28135, "B"),
    ("3-100018-A-18.wav", 3, 18, "toilet_flush", False, 100018, "A"),
]


def publish(root, clips=CLIPS):
    write_csv(root / "meta/esc50.csv", [COLUMNS, *clips])
    for name, *_ in clips:
        write_wav(root / "audio" / name)
    return root


def test_classes_in_words_and_folds_as_splits(tmp_path):
    entries, rejections = listed(Esc50(publish(tmp_path)))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels, entry.licence) for entry in entries] == [
        ("1-100032-A-0", "fold1", ("label=dog", "fold=1", "subset=ESC-10"), "CC-BY"),
        ("1-28135-B-11", "fold1", ("label=sea waves", "fold=1", "subset=ESC-10"), "CC-BY"),
        ("3-100018-A-18", "fold3", ("label=toilet flush", "fold=3"), "CC-BY-NC-3.0"),
    ]
    assert entries[2].audio == AudioFile(tmp_path / "audio/3-100018-A-18.wav")
    assert all((entry.captions, entry.source) == ((), "esc50") for entry in entries)


def test_a_missing_clip_is_left_out(tmp_path):
    (publish(tmp_path) / "audio/1-28135-B-11.wav").unlink()
    entries, (rejection,) = listed(Esc50(tmp_path))
    assert [entry.id for entry in entries] == ["1-100032-A-0", "3-100018-A-18"]
    assert (rejection.where, rejection.id, rejection.reason) == ("esc50.csv:3", "1-28135-B-11", "missing_file")


def test_invalid_folds_and_classes_are_skipped(tmp_path):
    clips = [("1-1-A-0.wav", 6, 0, "dog", False, 1, "A"), ("1-2-A-0.wav", 1, 0, "", False, 2, "A")]
    entries, rejections = listed(Esc50(publish(tmp_path, clips)))
    assert not entries
    assert rejections == [
        Rejection(
            "esc50.csv:2",
            "1-1-A-0",
            "bad_field",
            "the split is 'fold6'; expected one of fold1, fold2, fold3, fold4, fold5",
        ),
        Rejection("esc50.csv:3", "1-2-A-0", "missing_label", "the labels are ['label=', 'fold=1']; expected a class"),
    ]


def test_a_folder_without_audio_is_an_error(tmp_path):
    (publish(tmp_path) / "audio").rename(tmp_path / "sounds")
    with pytest.raises(LayoutError, match=r"has no audio; ESC-50 from https://github.com/karolpiczak/ESC-50 is laid"):
        listed(Esc50(tmp_path))


def test_a_table_of_another_form_is_an_error(tmp_path):
    write_csv(publish(tmp_path) / "meta/esc50.csv", [("filename", "label")])
    with pytest.raises(LayoutError, match="no column 'fold' among filename, label; expected filename, fold, category"):
        listed(Esc50(tmp_path))
