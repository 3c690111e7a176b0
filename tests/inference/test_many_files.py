"""Many files: results in order, in groups, bad files among the results; a file gets the same result as in the API."""

import re
from typing import Any

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference import audio_input, many_files
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


def make(path, samples, rate=RATE, **settings):
    soundfile.write(path, samples, rate, **settings)
    return str(path)


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
    late = np.r_[np.zeros(4 * RATE), np.full(RATE, 0.5)]
    paths = [
        make(tmp_path / "long.flac", np.full(3 * RATE, 0.5)),
        make(tmp_path / "late.flac", late),
        make(tmp_path / "damaged.flac", np.random.default_rng(0).normal(0, 0.1, 30 * RATE)),
    ]

    def run_long(item):
        if "damaged" in item:
            raise AudioError(f"clip 0: {item} is broken off", "truncated_audio")
        return f"long {item}"

    inputs = [files[0], *paths, files[1]]
    results: list[Any] = [result for _, result in over_files(inputs, lengths, run_long, RATE, 2.0)]
    assert results[:3] == [8, f"long {paths[0]}", f"long {paths[1]}"] and results[4] == 16
    assert str(results[3]) == f"{paths[2]} is broken off" and results[3].reason == "truncated_audio"


def test_silent_files_are_left_out_whatever_their_length(tmp_path, files):
    paths = [
        make(tmp_path / "short.wav", np.zeros(RATE)),
        make(tmp_path / "long.flac", np.zeros(3 * RATE)),
        make(tmp_path / "hiss.wav", np.full(RATE, 2.0**-16), subtype="FLOAT"),
    ]
    results: list[Any] = [result for _, result in over_files([files[0], *paths, files[1]], lengths, no_long, RATE, 2.0)]
    assert (results[0], results[4]) == (8, 16)
    for path, error in zip(paths, results[1:4], strict=True):
        assert str(error).startswith(f"{path} is silent: ") and error.reason == "silent_audio"


def test_no_more_than_the_longest_clip_is_decoded_to_find_out_that_a_recording_is_long(tmp_path, monkeypatch):
    path = make(tmp_path / "long.wav", np.full(30 * RATE, 0.5))
    monkeypatch.setattr("slap_jax.data.audio.BLOCK_FRAMES", RATE)
    read = []
    original = many_files.stream_item

    def counted(*arguments):
        for block in original(*arguments):
            read.append(block.size)
            yield block

    monkeypatch.setattr(many_files, "stream_item", counted)
    ((_, result),) = over_files([path], lengths, lambda item: item, RATE, 2.0)
    assert result == path and sum(read) <= 3 * RATE


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MemoryError(), "needs more memory to decode than there is"),
        (RuntimeError("cannot resample"), r"cannot be decoded \(RuntimeError: cannot resample\)"),
        (OSError(5, "Input/output error"), r"cannot be decoded \(OSError: \[Errno 5\] Input/output error\)"),
    ],
)
def test_a_fault_of_a_decoder_is_an_error_of_its_file(files, monkeypatch, fault, message):
    original = audio_input.stream_audio

    def faulty(path, *arguments, **settings):
        yield from original(path, *arguments, **settings)
        if path == files[1]:
            raise fault

    monkeypatch.setattr(audio_input, "stream_audio", faulty)
    results: list[Any] = [result for _, result in over_files(files[:3], lengths, no_long, RATE, 2.0)]
    assert (results[0], results[2]) == (8, 24)
    assert isinstance(results[1], AudioError) and re.search(f"^{re.escape(files[1])} {message}", str(results[1]))


def test_a_clip_without_a_finite_result_does_not_take_its_group_along(files):
    def run_clips(clips):
        for index, clip in enumerate(clips):
            if clip.path == files[1]:
                raise AudioError(f"clip {index}: {clip.path} has no finite result", "nonfinite_result")
        return lengths(clips)

    results: list[Any] = [result for _, result in over_files(files[:3], run_clips, no_long, RATE, 2.0)]
    assert (results[0], results[2]) == (8, 24)
    assert str(results[1]) == f"{files[1]} has no finite result" and results[1].reason == "nonfinite_result"


@pytest.mark.compile
def test_a_file_gets_the_same_result_as_in_the_api(model, tmp_path):
    """Silent, short, resampled, and just above the longest clips of training."""
    clips = {
        "silent_short": np.zeros(8_000),
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
    for path in paths:
        if "silent" in path or "bad" in path:
            with pytest.raises(AudioError) as raised:
                model.embed_audio(path)
            assert str(results[path]) == str(raised.value) and results[path].reason == raised.value.reason
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
