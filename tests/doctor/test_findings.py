"""Every finding is reported for a model with that fault, and none for a healthy model."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slap_jax.checkpoints.model_dir import ExportError, export
from slap_jax.cli import main
from slap_jax.doctor.diagnosis import diagnose
from slap_jax.doctor.findings import read_fingerprint, write_fingerprint
from slap_jax.doctor.measure import TEXTS, probe_sounds
from slap_jax.inference.embedder import Embedder
from slap_jax.params import flatten, unflatten
from tests.export.seeded import seeded_params
from tests.inference.tiny import CAPTIONS, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module", autouse=True)
def one_embedder_for_each_config():
    """Models with the same config differ only in their weights, so they share compiled functions."""
    made: dict[str, Embedder] = {}

    def of_config(config):
        return made.setdefault(config.to_json(), Embedder(config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slap_jax.doctor.measure.Embedder", of_config)
        patch.setattr("slap_jax.doctor.diagnosis.Embedder", of_config)
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Config, parameters, vocabulary and fingerprint of a healthy model."""
    config = tiny_config()
    config.audio.update(mean=-9.0, std=3.0)
    config.model.text_encoder.layers = 1
    directory = tmp_path_factory.mktemp("sound")
    params, tokenizer = seeded_params(config), tiny_tokenizer(directory / "words.model")
    write_fingerprint(export(params, config, tokenizer.path, directory))
    return config, params, tokenizer, (directory / "fingerprint.json").read_bytes()


def examined(sound, directory: Path, weights=None, **audio) -> dict:
    """Checks the model with some weights and settings replaced, against the fingerprint of the healthy one."""
    config, params, tokenizer, fingerprint = sound
    config = config.copy_and_resolve_references()
    config.audio.update(**audio)
    export(unflatten({**flatten(params), **(weights or {})}), config, tokenizer.path, directory)
    (directory / "fingerprint.json").write_bytes(fingerprint)
    return diagnose(directory, invariance=False)


def names(result: dict) -> list[str]:
    assert result["healthy"] == (not result["findings"])
    return [finding["name"] for finding in result["findings"]]


def zeros(sound, *parts: str) -> dict:
    """Replaces the weights with this name by zeros."""
    return {name: np.zeros_like(value) for name, value in flatten(sound[1]).items() if any(p in name for p in parts)}


def test_a_sound_model(sound, tmp_path):
    result = examined(sound, tmp_path)
    assert names(result) == [] and result["fingerprint"] == "same"
    assert result["measures"]["modality_gap"] > 0.1 and result["measures"]["scale"] == pytest.approx(20.0)
    assert all(np.isfinite(value) for value in result["measures"].values())


def test_weights_that_are_not_finite(sound, tmp_path):
    name = "model/audio_projection/kernel"
    bad = np.array(flatten(sound[1])[name])
    bad[0, 0] = np.nan
    result = examined(sound, tmp_path, {name: bad})
    assert names(result) == ["non_finite_weights", "non_finite_sounds", "other_sounds"]
    assert name in result["findings"][0]["message"] and result["measures"] == {}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_text_tower_that_does_not_hear_the_words(sound, tmp_path):
    result = examined(sound, tmp_path, zeros(sound, "text_encoder/embedding/table"))
    assert names(result) == ["zero_weights", "dead_text_tower", "other_texts"]


def test_an_audio_tower_that_does_not_hear(sound, tmp_path):
    result = examined(sound, tmp_path, zeros(sound, "patch_embedding"))
    assert names(result) == ["zero_weights", "dead_audio_tower", "other_sounds"]


def test_texts_that_nearly_collapsed(sound, tmp_path):
    name = "model/text_encoder/embedding/table"
    table = np.array(flatten(sound[1])[name])
    result = examined(sound, tmp_path, {name: table[:1] + 0.03 * table})  # all words nearly alike
    assert names(result) == ["collapsed_texts", "other_texts"]
    assert 0.98 < result["measures"]["mean_cosine_of_texts"] < 1.0


def test_sounds_that_nearly_collapsed(sound, tmp_path):
    result = examined(sound, tmp_path, mean=-200.0, std=100.0)  # all that the tower sees is nearly alike
    assert names(result) == ["collapsed_sounds", "front_end_level", "other_sounds"]
    assert 0.98 < result["measures"]["mean_cosine_of_sounds"] < 1.0


@pytest.mark.parametrize("log_scale", [-1.0, 12.0, np.inf])
def test_a_scale_out_of_range(sound, tmp_path, log_scale):
    result = examined(sound, tmp_path, {"objectives/contrastive/log_scale": np.float32(log_scale)})
    assert "scale_out_of_range" in names(result)


def test_constants_of_a_log_mel_in_decibels(sound, tmp_path):
    result = examined(sound, tmp_path, mean=-40.0, std=20.0)
    assert any(f["name"] == "front_end_level" and "slap stats" in f["message"] for f in result["findings"])
    assert "front_end_mismatch" not in names(result)  # the log-mel is the same, but its normalisation is not
    assert "other_sounds" in names(result)


def test_another_front_end(sound, tmp_path):
    result = examined(sound, tmp_path, f_min=300.0)
    assert names(result)[0] == "front_end_mismatch" and "tone" in result["findings"][0]["message"]


def test_exchanged_weights(sound, tmp_path):
    other = seeded_params(sound[0], seed=2)["model"]["text_encoder"]
    result = examined(sound, tmp_path, {f"model/text_encoder/{name}": value for name, value in flatten(other).items()})
    assert names(result) == ["other_texts"] and result["fingerprint"] == "other"


def test_a_fingerprint_of_an_accelerator_is_compared_less_closely(sound, tmp_path):
    _, params, _, fingerprint = sound
    name = "model/audio_projection/kernel"
    kernel = flatten(params)[name]
    noisy = kernel * (1 + 0.05 * np.random.default_rng(0).normal(size=kernel.shape)).astype(np.float32)
    result = examined(sound, tmp_path, {name: noisy})
    assert names(result) == ["other_sounds"] and "expected at least 0.9999" in result["findings"][0]["message"]
    of_a_tpu = {**json.loads(fingerprint), "platform": "tpu"}
    (tmp_path / "fingerprint.json").write_text(json.dumps(of_a_tpu))
    assert names(diagnose(tmp_path, invariance=False)) == []


def test_a_vocabulary_that_cannot_spell(sound, tmp_path):
    config, params, _, _ = sound
    from slap_jax.data.tokenizer import train_tokenizer

    greek = train_tokenizer(["σκύλος γαβγίζει", "βροχή πέφτει", "άνεμος φυσά"] * 4, tmp_path / "greek.model", 40)
    result = diagnose(export(params, config, greek.path, tmp_path / "export"), invariance=False)
    assert names(result)[-1] == "vocabulary" and result["fingerprint"] == "none"


def test_the_command_and_its_exit_codes(sound, tmp_path, capsys):
    config, params, tokenizer, fingerprint = sound
    directory = export(params, config, tokenizer.path, tmp_path / "export")
    (directory / "fingerprint.json").write_bytes(fingerprint)
    assert main(["doctor", str(directory)]) == 0
    output = capsys.readouterr().out
    assert output.endswith("healthy\n") and "level       -12 dB" in output and "\nwarning, varies_with_" in output
    (directory / "config.json").write_text(
        (directory / "config.json").read_text().replace('"mean": -9.0', '"mean": 9.0')
    )
    assert main(["doctor", str(directory), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["healthy"] and "front_end_level" in names(result)
    assert len(result["invariance"]) == 22 and result["left_out"] == []
    assert {"group", "name", "median", "least", "expected"} == result["invariance"][0].keys()
    assert all(0.999 < item["median"] <= 1.001 for item in result["invariance"] if item["name"] == "two equal")
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a directory" in capsys.readouterr().err


def test_a_damaged_fingerprint(tmp_path):
    assert read_fingerprint(tmp_path) is None
    cases = {"{": "is damaged", '{"version": 9}': "has version 9", '{"version": 1}': "is damaged"}
    for content, message in cases.items():
        (tmp_path / "fingerprint.json").write_text(content)
        with pytest.raises(ExportError, match=message):
            read_fingerprint(tmp_path)


def test_probes_are_unlike_each_other_and_never_change():
    sounds = probe_sounds(16_000)
    assert all(len(samples) == 24_000 and np.abs(samples).max() <= 0.5 for samples in sounds.values())
    spectra = [np.abs(np.fft.rfft(samples)) for name, samples in sounds.items() if name != "silence"]
    unit = np.stack([spectrum / np.linalg.norm(spectrum) for spectrum in spectra])
    assert (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].max() < 0.9
    assert sounds["noise"][:3].tolist() == pytest.approx([0.17640524, 0.04001572, 0.0978738])
    assert len(set(TEXTS)) == len(TEXTS) and not set(TEXTS) & set(CAPTIONS)


def test_invariances_are_measured_on_the_sounds_that_are_given(sound, tmp_path, capsys):
    config, params, tokenizer, _ = sound
    directory = export(params, config, tokenizer.path, tmp_path / "export")
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "first.wav", 0.1 * probe_sounds(16_000)["noise"], 16_000)
    soundfile.write(folder / "second.flac", probe_sounds(16_000)["tone"], 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    result = diagnose(directory, [str(folder / "first.wav"), str(folder / "second.flac")])
    assert result["left_out"] == [] and result["invariance"] != diagnose(directory)["invariance"]
    assert main(["doctor", str(directory), "--json", "--sounds", str(folder), str(tmp_path / "nowhere.wav")]) == 1
    output = capsys.readouterr()
    printed = json.loads(output.out)
    assert printed["invariance"] == result["invariance"] and printed["healthy"]
    assert {item["file"] for item in printed["left_out"]} == {str(folder / "broken.wav"), str(tmp_path / "nowhere.wav")}
    assert output.err.count("slap doctor: left out: ") == 2
    assert "broken.wav" in output.err and "nowhere.wav is missing" in output.err
    assert main(["doctor", str(directory), "--sounds", str(folder / "broken.wav")]) == 2
    assert "none of 1 sounds can be used" in capsys.readouterr().err
