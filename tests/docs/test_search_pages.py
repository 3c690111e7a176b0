"""Runs the examples of the pages on search and on the command line as printed, with a tiny model."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import slap_jax
from tests.docs.run_page import run_page, write_model
from tests.inference.tiny import noise
from tests.search.fake_model import stored

pytestmark = pytest.mark.compile

LOAD = functools.cache(slap_jax.load)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages use: a model, a sound, and a folder with a short and a long recording."""
    root = tmp_path_factory.mktemp("pages")
    write_model(root)
    soundfile.write(root / "dog.wav", noise(0, 1.0), 16_000)
    (root / "recordings" / "tuesday").mkdir(parents=True)
    soundfile.write(root / "recordings" / "dog.flac", noise(0, 1.0), 16_000)
    soundfile.write(root / "recordings" / "tuesday" / "yard.wav", noise(1, 12.0), 16_000)
    return root


@pytest.fixture
def here(folder, monkeypatch):
    """The working directory; a model is compiled once for all commands."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(slap_jax, "load", LOAD)


def test_search(here, capsys):
    found, commands = run_page("search")
    assert len(commands) == 6 and (found["update"].files, found["update"].unchanged) == (2, 2)
    same = found["search"](found["model"], "recordings", audio=found["Path"]("dog.wav"), k=5)
    assert same[0].path == "recordings/dog.flac" and same[0].score > 0.999
    assert (same[0].start, same[0].end) == (0.0, 1.0)
    assert {hit.path for hit in found["hits"]} == {"recordings/dog.flac", "recordings/tuesday/yard.wav"}
    printed = capsys.readouterr().out
    assert "2 files, 3 windows (2 embedded" in printed and "2 files; 0 new; []" in printed

    # The stored vectors are those that the model computes for the windows.
    index, windows = stored(Path("recordings")), found["model"].windows("recordings/tuesday/yard.wav")
    assert [row[:2] for row in index["tuesday/yard.wav"]] == [(0, 10), (5, 12)]
    np.testing.assert_array_equal([row[2] for row in index["tuesday/yard.wav"]], windows.embeddings)
    vector = found["model"].embed_audio(["recordings/dog.flac"])[0]
    np.testing.assert_array_equal(index["dog.flac"][0][2], vector)


def test_command_line(here, capsys):
    _, commands = run_page("command_line")
    assert len(commands) == 6
    printed = capsys.readouterr().out
    assert printed.count("recordings/tuesday/yard.wav: ") == 3  # caption, classify, frames
    assert '{"names": ["recordings/dog.flac", "recordings/tuesday/yard.wav"], ' in printed
    content = json.loads(printed[printed.index("{\n") : printed.index("\n}") + 3])
    assert content["results"]["dog.wav"].keys() == {"dog", "rain"} and content["left_out"] == []
    assert np.load("moments/tuesday/yard.wav.npz")["scores"].shape == (75, 2)
