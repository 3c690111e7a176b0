"""Work over many files: in order, in groups, with the bad ones among the results instead of in the way."""

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference.many_files import audio_files, over_files

RATE = 8_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns 70 clips of 1 to 70 ms, every tenth of which is broken."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(70):
        path = folder / f"{number:02d}.wav"
        if number % 10 == 9:
            path.write_bytes(b"RIFFnothing")
        else:
            soundfile.write(path, np.full(8 * (number + 1), 0.5), RATE)
    return [str(path) for path in sorted(folder.iterdir())]


def lengths(waveforms):
    return [len(waveform) for waveform in waveforms]


def no_long(item):
    raise AssertionError(item)


def test_results_come_in_order_whatever_is_bad(files):
    groups = []

    def of_clips(waveforms):
        groups.append(len(waveforms))
        return lengths(waveforms)

    results = list(over_files(files, of_clips, no_long, RATE, 1.0))
    assert [file for file, _ in results] == files
    for number, (file, result) in enumerate(results):
        if number % 10 == 9:
            assert isinstance(result, AudioError) and str(result).startswith(f"{file} is not readable")
        else:
            assert result == 8 * (number + 1)
    assert sum(groups) == 63 and max(groups) <= 32


def test_files_are_asked_for_as_they_are_needed(files):
    asked = []

    def names():
        for file in files:
            asked.append(file)
            yield file

    running = over_files(names(), lengths, no_long, RATE, 1.0)
    next(running)
    assert len(asked) == 64  # a group that is computed and one that is read meanwhile
    running.close()
    assert len(asked) == 64


def test_long_recordings_go_by_themselves(tmp_path, files):
    soundfile.write(tmp_path / "long.flac", np.full(3 * RATE, 0.5), RATE)
    soundfile.write(tmp_path / "silent.flac", np.zeros(3 * RATE), RATE)
    soundfile.write(tmp_path / "damaged.flac", np.random.default_rng(0).normal(0, 0.1, 30 * RATE), RATE)
    data = (tmp_path / "damaged.flac").read_bytes()
    (tmp_path / "damaged.flac").write_bytes(data[: len(data) // 3])
    paths = [str(tmp_path / name) for name in ("long.flac", "silent.flac", "damaged.flac")]

    def of_long(item):
        if "damaged" in item:
            raise AudioError(f"{item} is broken off")
        return f"long {item}"

    results = [result for _, result in over_files([files[0], *paths, files[1]], lengths, of_long, RATE, 2.0)]
    assert (results[0], results[1], results[4]) == (8, f"long {paths[0]}", 16)
    assert f"{paths[1]} is silent" in str(results[2]) and str(results[3]) == f"{paths[2]} is broken off"


def test_a_mistake_of_the_caller_is_no_bad_file(files):
    def broken(waveforms):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(over_files(files, broken, no_long, RATE, 1.0))
    assert list(over_files([], broken, no_long, RATE, 1.0)) == []


def test_audio_files(tmp_path):
    for name in ("b.WAV", "a/c.mp3", "a/notes.txt", ".d.wav", ".e/f.wav", "g.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(audio_files(tmp_path)) == ["a/c.mp3", "b.WAV", "g.m4a"]
