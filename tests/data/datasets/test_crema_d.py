from slap_jax.data.collections.entries import AudioFile, Rejection
from slap_jax.data.datasets.crema_d import CremaD
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

FAULTY = Rejection(
    "AudioWAV/1076_MTI_SAD_XX.wav",
    "1076_MTI_SAD_XX",
    "excluded_no_sound",
    "the publisher states that this file has no sound",
)


def publish(root, *names):
    for name in names:
        write_wav(root / f"AudioWAV/{name}.wav")
    return root


def test_file_names_give_emotion_level_actor_and_sentence(tmp_path):
    publish(tmp_path, "1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1076_MTI_SAD_XX", "1091_TIE_NEU_LO")
    entries, rejections = listed(CremaD(tmp_path))
    assert rejections == [FAULTY]
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        (
            "1001_DFA_ANG_XX",
            "full",
            ("label=anger", "level=unspecified", "actor=1001", "sentence=Don't forget a jacket"),
        ),
        ("1002_IEO_HAP_HI", "full", ("label=happy", "level=high", "actor=1002", "sentence=It's eleven o'clock")),
        (
            "1091_TIE_NEU_LO",
            "full",
            ("label=neutral", "level=low", "actor=1091", "sentence=That is exactly what happened"),
        ),
    ]
    assert entries[0].audio == AudioFile(tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav")
    assert entries[0].licence == "ODbL-1.0"


def test_missing_clips_of_the_publishers_table_are_rejected(tmp_path):
    publish(tmp_path, "1001_DFA_ANG_XX", "1002_IEO_HAP_HI")
    names = ["1002_IEO_HAP_HI", "1001_IEO_FEA_LO", "1001_DFA_ANG_XX"]
    write_csv(
        tmp_path / "SentenceFilenames.csv",
        [("Stimulus_Number", "Filename"), *enumerate(names, start=1)],
    )
    entries, (rejection,) = listed(CremaD(tmp_path))
    assert [entry.id for entry in entries] == ["1002_IEO_HAP_HI", "1001_DFA_ANG_XX"]
    assert (rejection.where, rejection.id, rejection.reason) == (
        "SentenceFilenames.csv:3",
        "1001_IEO_FEA_LO",
        "missing_file",
    )


def test_a_file_misnamed_in_earlier_copies_is_corrected(tmp_path):
    publish(tmp_path, "1040_ITH_SAD_X")
    (entry,), _ = listed(CremaD(tmp_path))
    write_csv(tmp_path / "SentenceFilenames.csv", [("Stimulus_Number", "Filename"), (1, "1040_ITH_SAD_XX")])
    (from_table,), _ = listed(CremaD(tmp_path))
    assert entry.id == from_table.id == "1040_ITH_SAD_XX"
    assert entry.audio == from_table.audio == AudioFile(tmp_path / "AudioWAV/1040_ITH_SAD_X.wav")
    assert entry.labels[:2] == ("label=sad", "level=unspecified")


def test_file_names_of_another_form_are_skipped(tmp_path):
    publish(tmp_path, "1001_DFA_JOY_XX", "noise")
    entries, rejections = listed(CremaD(tmp_path))
    assert not entries
    assert [(rejection.id, rejection.reason) for rejection in rejections] == [
        ("1001_DFA_JOY_XX", "missing_label"),
        ("noise", "missing_label"),
    ]
