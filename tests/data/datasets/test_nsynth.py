import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.nsynth import NSynth
from tests.data.datasets.publisher_files import listed, write_json, write_wav


def example(note, family, source, pitch, velocity, qualities=()):
    return {
        "note": 201034,
        "note_str": note,
        "instrument": 417,
        "instrument_str": note.rpartition("-")[0].rpartition("-")[0],
        "pitch": pitch,
        "velocity": velocity,
        "sample_rate": 16000,
        "qualities": [0] * 10,
        "qualities_str": list(qualities),
        "instrument_family": 3,
        "instrument_family_str": family,
        "instrument_source": 0,
        "instrument_source_str": source,
    }


def publish(root):
    examples = {
        "train": [
            example("synth_lead_synthetic_001-082-050", "synth_lead", "synthetic", 82, 50, ["fast_decay", "dark"])
        ],
        "valid": [example("bass_electronic_018-022-100", "bass", "electronic", 22, 100)],
        "test": [
            example("guitar_acoustic_015-064-075", "guitar", "acoustic", 64, 75, ["reverb"]),
            example("keyboard_acoustic_004-060-025", "keyboard", "acoustic", 60, 25),
        ],
    }
    for split, notes in examples.items():
        write_json(root / f"nsynth-{split}/examples.json", {note["note_str"]: note for note in notes})
        for note in notes:
            write_wav(root / f"nsynth-{split}/audio/{note['note_str']}.wav")
    return root


def test_family_source_pitch_velocity_and_qualities(tmp_path):
    entries, rejections = listed(NSynth(publish(tmp_path)))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        (
            "synth_lead_synthetic_001-082-050",
            "train",
            (
                "label=synth lead",
                "source=synthetic",
                "pitch=82",
                "velocity=50",
                "quality=fast decay",
                "quality=dark",
            ),
        ),
        ("bass_electronic_018-022-100", "valid", ("label=bass", "source=electronic", "pitch=22", "velocity=100")),
        (
            "guitar_acoustic_015-064-075",
            "test",
            ("label=guitar", "source=acoustic", "pitch=64", "velocity=75", "quality=reverb"),
        ),
        ("keyboard_acoustic_004-060-025", "test", ("label=keyboard", "source=acoustic", "pitch=60", "velocity=25")),
    ]
    assert entries[1].audio == AudioFile(tmp_path / "nsynth-valid/audio/bass_electronic_018-022-100.wav")


def test_one_split_with_a_missing_note(tmp_path):
    (publish(tmp_path) / "nsynth-test/audio/guitar_acoustic_015-064-075.wav").unlink()
    (tmp_path / "nsynth-train/examples.json").unlink()
    entries, (rejection,) = listed(NSynth(tmp_path, splits="test"))
    assert [entry.id for entry in entries] == ["keyboard_acoustic_004-060-025"]
    assert (rejection.id, rejection.reason) == ("guitar_acoustic_015-064-075", "missing_file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"pitch": 1', "is not JSON"),
        ("[]", "is not of the form"),
        ('{"a": 3}', "is not of the form"),
        ('{"a": {"pitch": 1}}', "examples.json:a has no 'instrument_family_str'; expected instrument_family_str, "),
    ],
)
def test_another_json_file_is_an_error(tmp_path, content, message):
    (publish(tmp_path) / "nsynth-test/examples.json").write_text(content)
    with pytest.raises(LayoutError, match=message):
        listed(NSynth(tmp_path, splits="test"))
