from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.datasets.speech_commands import SpeechCommands
from tests.data.datasets.publisher_files import listed, write_wav

FILES = (
    "_background_noise_/white_noise.wav",
    "backward/0165e0e8_nohash_0.wav",
    "right/0165e0e8_nohash_0.wav",  # the same name in another folder
    "right/bb05582b_nohash_3.wav",
    "zero/004ae714_nohash_0.wav",
)


def publish(root):
    for name in FILES:
        write_wav(root / name)
    (root / "right/._bb05582b_nohash_3.wav").write_bytes(b"\x00" * 100)
    (root / "validation_list.txt").write_text("zero/004ae714_nohash_0.wav\nright/ffffffff_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("right/0165e0e8_nohash_0.wav\n")
    return root


def test_clips_in_no_list_are_for_training(tmp_path):
    entries, (rejection,) = listed(SpeechCommands(publish(tmp_path)))
    assert [(entry.id, entry.split, entry.labels, entry.where) for entry in entries] == [
        ("backward/0165e0e8_nohash_0", "train", ("label=backward",), "backward/0165e0e8_nohash_0.wav"),
        ("right/bb05582b_nohash_3", "train", ("label=right",), "right/bb05582b_nohash_3.wav"),
        ("zero/004ae714_nohash_0", "valid", ("label=zero",), "validation_list.txt:1"),
        ("right/0165e0e8_nohash_0", "test", ("label=right",), "testing_list.txt:1"),
    ]
    assert entries[3].audio == AudioFile(tmp_path / "right/0165e0e8_nohash_0.wav")
    assert (rejection.where, rejection.id, rejection.reason) == (
        "validation_list.txt:2",
        "right/ffffffff_nohash_0",
        "missing_file",
    )


def test_the_separate_test_archive_has_twelve_classes(tmp_path):
    archive = publish(tmp_path) / "speech_commands_test_set_v0.02"
    for name in ("_silence_/0.wav", "_unknown_/bed_1b4c9b89_nohash_0.wav", "right/0165e0e8_nohash_0.wav"):
        write_wav(archive / name)
    entries, rejections = listed(SpeechCommands(tmp_path, splits="test+test_12"))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        ("right/0165e0e8_nohash_0", "test", ("label=right",)),
        ("speech_commands_test_set_v0.02/_silence_/0", "test_12", ("label=silence",)),
        ("speech_commands_test_set_v0.02/_unknown_/bed_1b4c9b89_nohash_0", "test_12", ("label=unknown",)),
        ("speech_commands_test_set_v0.02/right/0165e0e8_nohash_0", "test_12", ("label=right",)),
    ]


def test_a_listed_word_outside_the_35_is_rejected(tmp_path):
    (publish(tmp_path) / "testing_list.txt").write_text("_background_noise_/white_noise.wav\n")
    entries, (rejection,) = listed(SpeechCommands(tmp_path, splits="test"))
    assert not entries
    assert (rejection.id, rejection.reason) == ("_background_noise_/white_noise", "missing_file")


def test_expected_splits_sum_to_the_published_number():
    expected = SpeechCommands.expected
    assert sum(expected[split].clips for split in ("train", "valid", "test")) == 105_829
