import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.ravdess import Ravdess
from tests.data.datasets.publisher_files import listed, write_wav

SPEECH = "Actor_01/03-01-01-01-01-01-01.wav"
FEARFUL = "Actor_12/03-01-06-02-02-02-12.wav"
SONG = "Actor_01/03-02-03-01-02-01-01.wav"


def publish(root, *names):
    for name in names:
        write_wav(root / name)
    return root


def test_file_names_give_emotion_intensity_statement_and_actor(tmp_path):
    entries, rejections = listed(Ravdess(publish(tmp_path, SPEECH, FEARFUL, SONG)))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        (
            "03-01-01-01-01-01-01",
            "speech",
            (
                "label=neutral",
                "intensity=normal",
                "statement=Kids are talking by the door",
                "repetition=1",
                "actor=01",
            ),
        ),
        (
            "03-01-06-02-02-02-12",
            "speech",
            (
                "label=fearful",
                "intensity=strong",
                "statement=Dogs are sitting by the door",
                "repetition=2",
                "actor=12",
            ),
        ),
    ]
    assert entries[1].audio == AudioFile(tmp_path / FEARFUL)


def test_songs_on_request(tmp_path):
    entries, _ = listed(Ravdess(publish(tmp_path, SPEECH, SONG), splits="speech+song"))
    assert [(entry.id, entry.split) for entry in entries] == [
        ("03-01-01-01-01-01-01", "speech"),
        ("03-02-03-01-02-01-01", "song"),
    ]


def test_second_copies_and_videos_are_skipped(tmp_path):
    publish(tmp_path, SPEECH, f"audio_speech_actors_01-24/{SPEECH}", f"audio_speech_actors_01-24/{FEARFUL}")
    (tmp_path / "Actor_01/01-01-01-01-01-01-01.mp4").write_bytes(b"video")
    entries, rejections = listed(Ravdess(tmp_path))
    assert not rejections
    assert [entry.audio for entry in entries] == [
        AudioFile(tmp_path / SPEECH),
        AudioFile(tmp_path / "audio_speech_actors_01-24" / FEARFUL),
    ]


def test_file_names_of_another_form_are_skipped(tmp_path):
    publish(tmp_path, "Actor_01/03-01-09-01-01-01-01.wav", "Actor_01/03-07-01-01-01-01-01.wav", "Actor_01/03-01.wav")
    entries, rejections = listed(Ravdess(tmp_path))
    assert not entries
    assert [(rejection.where, rejection.reason) for rejection in rejections] == [
        ("Actor_01/03-01-09-01-01-01-01.wav", "missing_label"),
        ("Actor_01/03-01.wav", "missing_label"),
        ("Actor_01/03-07-01-01-01-01-01.wav", "bad_field"),
    ]


def test_a_folder_without_actors_is_an_error(tmp_path):
    publish(tmp_path, "audio/03-01-01-01-01-01-01.wav")
    with pytest.raises(LayoutError, match="has no folder Actor_01; RAVDESS is laid out as\nActor_<01 to 24>/03-01"):
        listed(Ravdess(tmp_path))
