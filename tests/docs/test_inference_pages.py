"""Runs the examples of the pages on inference as printed, with a tiny model."""

import functools
import json

import numpy as np
import pytest
import soundfile

import slap_jax
from tests.docs.run_page import run_page, write_model
from tests.inference.tiny import noise

pytestmark = pytest.mark.compile

LOAD = functools.cache(slap_jax.load)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages use: a model, two sounds, a folder, and a recording longer than in training."""
    root = tmp_path_factory.mktemp("pages")
    write_model(root)
    soundfile.write(root / "dog.wav", noise(0, 1.0), 16_000)
    soundfile.write(root / "rain.mp3", noise(1, 1.0, 44_100), 44_100)
    soundfile.write(root / "concert.flac", noise(2, 12.0), 16_000)
    (root / "sounds").mkdir()
    for index in range(2):
        soundfile.write(root / "sounds" / f"{index}.wav", noise(index, 0.5), 16_000)
    return root


def test_using_a_model(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(slap_jax, "load", LOAD)  # its programs are compiled once
    result, commands = run_page("inference")
    assert result["audio"].shape == result["text"].shape == (2, 16)
    assert result["frames"].features.shape == (7, 32) and result["scores"].scores.shape == (7, 2)
    assert len(np.load("vectors.npz")["names"]) == 2
    assert json.loads((folder / "texts.json").read_text())["names"] == ["a dog barks", "rain"]
    assert len(commands) == 5 and "most like a dog from" in capsys.readouterr().out


def test_long_recordings(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(slap_jax, "load", LOAD)  # its programs are compiled once
    result, commands = run_page("long_audio")
    assert result["parts"].start.tolist() == [0.0, 5.0] and result["parts"].end.tolist() == [10.0, 12.0]
    assert result["frames"].features.shape == (75, 32) and result["scores"].scores.shape == (75, 1)
    printed = capsys.readouterr().out
    assert len(commands) == 2 and "0-10 s: " in printed and "10-12 s: " in printed
