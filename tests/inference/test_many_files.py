"""Many files: results in order, in groups, bad files among the results; a file gets the same result as in the API."""

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference.many_files import audio_files, over_files
from slap_jax.inference.model import SlapModel
from tests.inference.tiny import noise, tiny_config

RATE = 8_000


@pytest.fixture(scope="module")
def model(run_params, tokenizer):
    config = tiny_config()
    config.data.max_seconds = 1.0
    return SlapModel(config, run_params, tokenizer)


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


def lengths(clips):
    return [len(clip.samples) for clip in clips]


def no_long(item):
    raise AssertionError(item)


def test_results_keep_the_order_despite_bad_files(files):
    groups = []

    def run_clips(clips):
        groups.append(len(clips))
        return lengths(clips)

    results = list(over_files(files, run_clips, no_long, RATE, 1.0))
    assert [file for file, _ in results] == files
    for number, (file, result) in enumerate(results):
        if number % 10 == 9:
            assert isinstance(result, AudioError) and str(result).startswith(f"{file} is not readable")
        else:
            assert result == 8 * (number + 1)
    assert sum(groups) == 63 and max(groups) <= 32


def test_files_are_requested_lazily(files):
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


def test_long_recordings_are_processed_alone(tmp_path, files):
    soundfile.write(tmp_path / "long.flac", np.full(3 * RATE, 0.5), RATE)
    soundfile.write(tmp_path / "silent.flac", np.zeros(3 * RATE), RATE)
    soundfile.write(tmp_path / "damaged.flac", np.random.default_rng(0).normal(0, 0.1, 30 * RATE), RATE)
    data = (tmp_path / "damaged.flac").read_bytes()
    (tmp_path / "damaged.flac").write_bytes(data[: len(data) // 3])
    paths = [str(tmp_path / name) for name in ("long.flac", "silent.flac", "damaged.flac")]

    def run_long(item):
        if "damaged" in item:
            raise AudioError(f"{item} is broken off")
        return f"long {item}"

    def run(**settings):
        inputs = [files[0], *paths, files[1]]
        return [result for _, result in over_files(inputs, lengths, run_long, RATE, 2.0, **settings)]

    results = run()
    assert results[:3] == [8, f"long {paths[0]}", f"long {paths[1]}"] and results[4] == 16
    assert str(results[3]) == f"{paths[2]} is broken off"
    results = run(skip_silent=True)
    assert results[1] == f"long {paths[0]}" and f"{paths[1]} is silent" in str(results[2])


@pytest.mark.compile
def test_a_file_gets_the_same_result_as_in_the_api(model, tmp_path, caplog):
    """Silent, short, resampled, and just above the longest clips of training."""
    clips = {
        "silent": np.zeros(8_000),
        "silent_long": np.zeros(20_000),
        "short": noise(1, 0.5),
        "border": noise(2, 1.0)[:16_000],
        "long": noise(3, 1.7),
    }
    for name, samples in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    soundfile.write(tmp_path / "stereo.flac", np.stack([noise(4, 0.7, 44_100)] * 2, axis=1), 44_100)
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    paths = sorted(map(str, tmp_path.iterdir()))
    results = dict(
        over_files(
            paths, model.embed_audio, lambda clip: model.embed_audio([clip])[0], model.sample_rate, model.max_seconds
        )
    )
    messages = sorted(record.getMessage() for record in caplog.records if "is silent" in record.getMessage())
    assert [line.split(" is silent")[0] for line in messages] == [
        str(tmp_path / f"{n}.wav") for n in ("silent", "silent_long")
    ]
    for path in paths:
        if path.endswith("bad.wav"):
            with pytest.raises(AudioError, match=r"bad\.wav is not readable"):
                model.embed_audio([path])
            assert isinstance(results[path], AudioError) and "bad.wav is not readable" in str(results[path])
        else:
            assert np.array_equal(np.asarray(results[path]), model.embed_audio([path])[0]), path


def test_a_bad_argument_is_not_reported_as_a_bad_file(files):
    def broken(clips):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(over_files(files, broken, no_long, RATE, 1.0))
    assert list(over_files([], broken, no_long, RATE, 1.0)) == []


def test_audio_files(tmp_path):
    for name in ("b.WAV", "a/c.mp3", "a/notes.txt", ".d.wav", ".e/f.wav", "g.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(audio_files(tmp_path)) == ["a/c.mp3", "b.WAV", "g.m4a"]
