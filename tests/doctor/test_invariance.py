"""The changes change what they say and nothing else, and the measures are those of the model that is given."""

import dataclasses

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.doctor.diagnosis import ADVICE, diagnose, invariance_warnings
from slap_jax.doctor.invariance import (
    Invariance,
    beginning,
    built_in_sounds,
    changes,
    invariance_table,
    measure_invariance,
)
from slap_jax.inference.audio_input import load_audio

RATE = 16_000


def spectra(clips):
    """A model that ignores nothing: unit vectors of the magnitudes of the first two seconds."""
    padded = [np.resize(np.pad(load_audio(clip, RATE), (0, 2 * RATE)), 2 * RATE) for clip in clips]
    vectors = np.abs(np.fft.rfft(padded)).astype(np.float32) + 1e-3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def raw(clips):
    """A model to which level is all that counts: the vector turns with the root mean square."""
    levels = np.array([np.sqrt(np.mean(np.square(load_audio(clip, RATE)))) for clip in clips])
    return np.stack([np.cos(20 * levels), np.sin(20 * levels)], axis=1).astype(np.float32)


def by_name(measured):
    return {(item.group, item.name): item for item in measured}


def test_built_in_sounds_never_change_and_are_unlike_each_other():
    sounds = built_in_sounds(RATE)
    assert len(sounds) == 18 and all(RATE <= len(sound) <= 3 * RATE for sound in sounds)
    assert all(np.abs(sound).max() == pytest.approx(0.2) and sound.dtype == np.float32 for sound in sounds)
    assert sounds[3][:3].tolist() == pytest.approx([0.07907, 0.04247, -0.09176], abs=1e-5)
    vectors = spectra([(sound, RATE) for sound in sounds])
    assert (vectors @ vectors.T)[~np.eye(18, dtype=bool)].max() < 0.9
    for high in built_in_sounds(48_000):  # the same sounds at another rate
        assert len(high) >= 48_000 and np.abs(high).max() == pytest.approx(0.2)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_every_change_gives_audio_of_the_right_length_and_level(rate):
    sound = built_in_sounds(rate)[0]
    seen = {}
    for change in changes(rate):
        samples, new_rate = change.apply(sound, rate)
        mono = load_audio((samples, new_rate), rate)
        seen.setdefault(change.group, {})[change.name] = mono
        assert change.group in (*ADVICE, "cut") and (change.group != "cut" or change.expected is None)
    assert {group: len(names) for group, names in seen.items()} == {
        "level": 5,
        "lead-in": 5,
        "codec": 4,
        "rate": 4,
        "channels": 2,
        "cut": 2,
    }
    np.testing.assert_allclose(seen["level"]["-20 dB"], 0.1 * sound, rtol=1e-6)
    assert np.abs(seen["level"]["+12 dB"]).max() < 1.0  # nothing clips
    late = seen["lead-in"]["1200 ms of silence"]
    np.testing.assert_array_equal(late[-len(sound) :], sound)
    assert len(late) == len(sound) + rate * 12 // 10 and not late[: -len(sound)].any()
    np.testing.assert_allclose(seen["codec"]["WAV, 16 bits"], sound, atol=2**-15)
    np.testing.assert_array_equal(seen["channels"]["two equal"], sound)
    np.testing.assert_allclose(seen["channels"]["one of two silent"], sound / 2)
    np.testing.assert_array_equal(seen["cut"]["first 25 %"], sound[: len(sound) // 4])
    for name, mono in {**seen["codec"], **seen["rate"]}.items():
        shared = min(len(mono), len(sound))
        assert abs(len(mono) - len(sound)) <= 0.1 * rate, name
        assert np.corrcoef(mono[:shared], sound[:shared])[0, 1] > 0.98, name


def test_the_mp3_has_64_kbit_per_second(monkeypatch):
    sizes = []
    write = soundfile.write

    def recorded(buffer, samples, rate, **settings):
        write(buffer, samples, rate, **settings)
        if settings["format"] == "MP3":
            sizes.append(8 * len(buffer.getvalue()) / (len(samples) / rate))

    monkeypatch.setattr(soundfile, "write", recorded)
    for rate in (16_000, 24_000, 32_000, 44_100, 48_000):
        next(change for change in changes(rate) if change.name.startswith("MP3")).apply(
            np.zeros(5 * rate, np.float32), rate
        )
    assert sizes == pytest.approx([64_000] * 5, rel=0.05)


def test_a_model_that_ignores_level_is_invariant_to_it_and_one_that_hears_nothing_else_is_not():
    sounds = built_in_sounds(RATE)[:6]
    ignores, hears = by_name(measure_invariance(spectra, sounds, RATE)), by_name(measure_invariance(raw, sounds, RATE))
    assert ignores["level", "-12 dB"].median > 0.999 and ignores["level", "+12 dB"].least > 0.999
    assert ignores["channels", "two equal"].least == pytest.approx(1.0, abs=1e-5)
    assert hears["channels", "two equal"].least == pytest.approx(1.0, abs=1e-5)
    assert hears["level", "+12 dB"].median < 0.9 and hears["cut", "first 25 %"].median > 0.5
    levels = [np.sqrt(np.mean(np.square(sound))) for sound in sounds]
    expected = np.cos(20 * (np.array(levels) - 10 ** (12 / 20) * np.array(levels)))
    assert hears["level", "+12 dB"].median == pytest.approx(np.median(expected), abs=1e-4)
    assert hears["level", "+12 dB"].least == pytest.approx(expected.min(), abs=1e-4)


def test_a_warning_names_the_changes_of_a_group_that_move_sounds_too_far():
    measured = [
        Invariance("level", "-12 dB", 0.89, 0.2, 0.9),
        Invariance("level", "-6 dB", 0.95, 0.2, 0.9),
        Invariance("level", "+12 dB", 0.5, 0.2, 0.9),
        Invariance("lead-in", "10 ms of silence", 0.9, 0.1, 0.9),
        Invariance("cut", "first 25 %", 0.1, 0.1, None),
    ]
    (warning,) = invariance_warnings(measured)
    assert warning.name == "varies_with_level"
    assert "(-12 dB: 0.89, +12 dB: 0.50): bring recordings to the level" in warning.message
    lines = list(invariance_table(measured))
    assert lines[1].endswith("0.2000  below 0.9") and lines[2].endswith("0.9500    0.2000") and len(lines) == 6
    groups = {change.group for change in changes(RATE) if change.expected is not None}
    for group in groups:
        bad = [dataclasses.replace(measured[0], group=group)]
        assert [warning.name for warning in invariance_warnings(bad)] == [f"varies_with_{group.replace('-', '_')}"]


def test_the_beginning_of_a_recording(tmp_path):
    long = np.concatenate([np.zeros(20_000), 0.1 * np.ones(11 * 44_100)]).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", long, 44_100)
    soundfile.write(tmp_path / "short.wav", long[20_000:24_410], 44_100)
    soundfile.write(tmp_path / "silent.wav", np.zeros(11 * 16_000), 16_000)
    assert len(beginning(str(tmp_path / "long.wav"), RATE)) == 10 * RATE
    short = beginning(str(tmp_path / "short.wav"), RATE)
    np.testing.assert_array_equal(short, load_audio(str(tmp_path / "short.wav"), RATE))
    with pytest.raises(AudioError, match=r"silent\.wav is silent for the first 10 s; leave it out"):
        beginning(str(tmp_path / "silent.wav"), RATE)
    with pytest.raises(AudioError, match="missing"):
        beginning(str(tmp_path / "nowhere.wav"), RATE)


def test_a_sound_that_a_change_makes_silent_does_not_count():
    late = np.concatenate([np.zeros(RATE, np.float32), built_in_sounds(RATE)[0]])
    quiet = np.float32(2**-13) * built_in_sounds(RATE)[1] / 0.2
    seen = []

    def embed(clips):
        seen.append(len(clips))
        assert all(np.abs(samples).max() >= 2**-15 for samples, _ in clips)
        return spectra(clips)

    measured = by_name(measure_invariance(embed, [late, quiet], RATE))
    assert ("cut", "first 25 %") in measured and 1 in seen and 2 in seen
    only = by_name(measure_invariance(embed, [quiet], RATE))
    assert ("level", "-20 dB") not in only and ("level", "-6 dB") in only


class OtherModel:
    """A model of another family, as far as the doctor knows it."""

    sample_rate = 48_000

    def embed_audio(self, audio):
        assert all(rate > 0 and np.abs(samples).max() >= 2**-15 for samples, rate in audio)  # silence is refused
        return spectra(audio)

    def embed_text(self, texts):
        vectors = np.random.default_rng(0).normal(size=(len(texts), RATE + 1)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_models_of_other_families_are_examined_by_what_they_compute(monkeypatch):
    monkeypatch.setattr("slap_jax.doctor.diagnosis.load_other_model", lambda name: OtherModel())
    result = diagnose("clap:some/model")
    assert result["healthy"] and result["step"] is None and result["fingerprint"] == "none"
    assert len(result["invariance"]) == 22 and result["measures"].keys() >= {"modality_gap", "mean_cosine_of_texts"}
    assert {item["name"] for item in result["invariance"] if item["group"] == "rate"} == {
        f"{rate} Hz" for rate in (8_000, 16_000, 22_050, 44_100)
    }
    monkeypatch.setattr(OtherModel, "embed_text", lambda self, texts: np.full((len(texts), RATE + 1), 0.01, np.float32))
    assert [fault["name"] for fault in diagnose("clap:some/model", invariance=False)["findings"]] == ["dead_text_tower"]
