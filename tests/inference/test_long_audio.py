"""Recordings longer than the clips of training: windows with times, bounded memory, one result per moment."""

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference import long_audio
from slap_jax.inference.audio_input import Recordings
from slap_jax.inference.captioner import BeamError
from slap_jax.inference.long_audio import (
    Segment,
    WindowError,
    WindowSpec,
    context_windows,
    cut_windows,
    decode_segments,
    join_columns,
    longest_clip,
    mean_embedding,
    mean_over_segments,
    regular_windows,
    windows_of_training,
)
from slap_jax.inference.model import SlapModel
from tests.inference.tiny import noise, shared_params, tiny_config

pytestmark = pytest.mark.compile

CONFIG = tiny_config()
CONFIG.data.max_seconds = 1.0  # windows of 6 columns, 0.96 s, every 4 columns, 0.64 s
PARAMS = shared_params()
LONG = noise(0, 3.0)  # 19 columns; windows at 0, 0.64, 1.28, 1.92 and 2.56 s, the last of 0.44 s


@pytest.fixture(scope="module")
def model(tokenizer):
    return SlapModel(CONFIG, PARAMS, tokenizer)


def parts_of(samples):
    return [samples[start : start + 15_360] for start in range(0, 40_961, 10_240)]


def test_short_recordings_are_embedded_whole(model, embedder):
    clip = noise(1, 1.0)
    (whole,) = embedder.audio(PARAMS["model"], [clip])
    assert np.array_equal(model.embed_audio([clip], sample_rate=16_000)[0], whole)
    assert np.array_equal(model.embed_audio([clip], sample_rate=16_000, window_seconds=None)[0], whole)
    assert np.array_equal(model.windows(clip, seconds=1.0, hop=0.5, sample_rate=16_000).embeddings[0], whole)


def test_longer_recordings_are_the_mean_of_their_windows(model, embedder):
    parts = parts_of(LONG)
    vectors = embedder.audio(PARAMS["model"], parts)
    mean = sum(len(part) * vector for part, vector in zip(parts, vectors, strict=True))
    result = model.embed_audio([noise(1, 0.5), LONG], sample_rate=16_000)
    assert np.allclose(result[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(result[1]) == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(model.embed_audio([LONG], 16_000)[0], result[1])
    (whole,) = embedder.audio(PARAMS["model"], [LONG])
    for seconds in (None, 3.0):
        assert np.array_equal(model.embed_audio([LONG], 16_000, window_seconds=seconds)[0], whole)
    assert np.abs(whole - result[1]).max() > 1e-3


def test_windows(model, embedder):
    windows = model.windows((LONG, 16_000), seconds=0.96, hop=0.64)
    assert windows.start.tolist() == pytest.approx([0.0, 0.64, 1.28, 1.92, 2.56])
    assert windows.end.tolist() == pytest.approx([0.96, 1.6, 2.24, 2.88, 3.0])
    assert np.array_equal(windows.embeddings, embedder.audio(PARAMS["model"], parts_of(LONG)))


def test_frames_come_from_the_window_where_they_are_most_central(model, embedder):
    frames = model.frames((LONG, 16_000))
    assert frames.features.shape == (19, 32)
    assert frames.start.tolist() == pytest.approx([0.16 * column for column in range(19)])
    assert frames.end.tolist() == pytest.approx([*frames.start[1:], 3.0])
    parts = embedder.frames(PARAMS["model"], parts_of(LONG))
    # Windows at columns 0, 4, 8, 12 and 16 share two columns with the next: one for each.
    expected = [parts[0][:5], parts[1][1:5], parts[2][1:5], parts[3][1:5], parts[4][1:]]
    assert np.array_equal(frames.features, np.concatenate(expected))
    short = noise(2, 0.9)
    assert np.array_equal(model.frames(short, 16_000).features, embedder.frames(PARAMS["model"], [short])[0])


def test_scores_are_cosines_with_each_moment(model, embedder):
    texts = ["a dog barks", "rain falls"]
    short = noise(2, 0.9)
    scores = model.scores(short, texts, sample_rate=16_000)
    (columns,) = embedder.frame_embeddings(PARAMS["model"], [short])
    assert np.allclose(scores.scores, columns @ model.embed_text(texts).T, atol=1e-6)
    assert scores.end[-1] == pytest.approx(0.9) and scores.scores.shape == (6, 2)
    assert model.scores(LONG, texts, sample_rate=16_000).scores.shape == (19, 2)


def test_captions_of_windows(model):
    captions = model.caption_windows(LONG, seconds=1.0, hop=1.0, sample_rate=16_000)
    assert captions.start.tolist() == [0.0, 1.0, 2.0] and captions.end.tolist() == [1.0, 2.0, 3.0]
    assert captions.texts == model.caption([LONG[start : start + 16_000] for start in (0, 16_000, 32_000)], 1, 16_000)
    (whole,) = model.caption([LONG], sample_rate=16_000)
    assert whole in model.caption_windows(LONG, 0.96, 0.64, sample_rate=16_000).texts


def test_beams(model):
    clip = noise(3, 0.5)
    assert [type(text) for text in model.caption([clip, clip], beam=3, sample_rate=16_000)] == [str, str]
    for beam in (0, 2.5, 3.0, [2]):  # 3.0 equals the beam before
        with pytest.raises(BeamError, match="write a whole number"):
            model.caption([clip], beam=beam, sample_rate=16_000)


def test_a_long_file_is_never_in_memory(model, long_file, windows):
    """However long a recording is, the only windows in memory are those of the programs in flight."""
    assert model.embed_audio([long_file]).shape == (1, 16)
    assert windows.made > 90 and windows.most <= 8
    windows.made = windows.most = 0
    assert model.frames(long_file).features.shape == (375, 32)
    assert windows.made > 90 and windows.most <= 8


def test_damage_inside_a_long_file_is_an_error(model, tmp_path):
    path = tmp_path / "bad.wav"
    samples = LONG.copy()
    samples[40_000] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"clip 1: .*bad\.wav has NaN or infinite samples, the first at 2\.500 s"):
        model.embed_audio([noise(0, 0.3), path], sample_rate=16_000)
    with pytest.raises(AudioError, match=r"^/.*bad\.wav has NaN"):
        model.frames(path)
    soundfile.write(tmp_path / "whole.wav", LONG, 16_000)
    path.write_bytes((tmp_path / "whole.wav").read_bytes()[:70_000])
    with pytest.raises(AudioError, match="is truncated"):
        model.windows(path)


@pytest.mark.parametrize("seconds", [0.5, 3.0])  # whole, and in windows
def test_silence_is_an_error_of_every_method_unless_it_is_allowed(model, tmp_path, seconds):
    path = tmp_path / "nothing.wav"
    soundfile.write(path, np.zeros(round(seconds * 16_000), np.int16), 16_000)
    calls = [
        model.embed_audio,
        model.windows,
        model.frames,
        model.caption,
        model.caption_windows,
        lambda clip, **allow: model.scores(clip, "rain", **allow),
        lambda clip, **allow: model.classify(clip, ["rain", "dog"], **allow),
    ]
    for call in calls:
        with pytest.raises(AudioError, match=r"^/.*nothing\.wav is silent: .*leave it out$") as raised:
            call(path)
        assert raised.value.reason == "silent_audio"
        call(path, allow_silence=True)
    with pytest.raises(AudioError, match=r"^clip 1: .*nothing\.wav is silent"):
        model.embed_audio([LONG, path], 16_000)
    with pytest.raises(AudioError, match=r"^clip 1 is silent"):
        model.embed_audio([LONG, np.full(8_000, 2.0**-16, np.float32)], 16_000)
    vector = model.embed_audio([LONG, path], 16_000, allow_silence=True)[1]
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_silence_before_and_after_a_sound_is_no_error(model):
    padded = np.concatenate([np.zeros(40_000), noise(0, 0.2), np.zeros(40_000)]).astype(np.float32)
    assert model.embed_audio(padded, 16_000).shape == (1, 16)


def test_impossible_windows_are_errors(model):
    with pytest.raises(WindowError, match="too short"):
        model.embed_audio([LONG], 16_000, window_seconds=0.1)
    with pytest.raises(WindowError, match="expected 0 < hop"):
        model.windows(LONG, seconds=1.0, hop=2.0, sample_rate=16_000)
    for seconds in ("1", float("nan"), float("inf")):
        with pytest.raises(WindowError, match="write a number of seconds"):
            model.embed_audio([LONG], 16_000, window_seconds=seconds)
        with pytest.raises(WindowError, match="expected 0 < hop"):
            model.windows(LONG, seconds=seconds, sample_rate=16_000)


def test_the_default_hop_follows_the_length(model):
    assert model.windows(LONG, seconds=2.0, sample_rate=16_000).start.tolist() == [0.0, 1.0]
    assert model.caption_windows(LONG, seconds=1.5, sample_rate=16_000).start.tolist() == [0.0, 1.5]


def windows(samples, length, hop, block=7, whole=0):
    stream = np.arange(samples, dtype=np.float32)
    blocks = (stream[i : i + block] for i in range(0, samples, block))
    return [(start, window.tolist()) for start, window in cut_windows(blocks, WindowSpec(length, hop, whole))]


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize(
    ("samples", "starts"), [(1, [0]), (10, [0]), (11, [0, 6]), (16, [0, 6]), (17, [0, 6, 12]), (22, [0, 6, 12])]
)
def test_windows_cover_the_recording(samples, starts, block):
    result = windows(samples, 10, 6, block)
    assert [start for start, _ in result] == starts
    for start, values in result:
        assert values == list(range(start, min(start + 10, samples)))
    assert len(starts) == 1 or len(result[-1][1]) > 4


def test_a_recording_that_is_short_enough_stays_whole():
    assert [start for start, _ in windows(14, 10, 6, whole=14)] == [0]
    assert windows(15, 10, 6, whole=14) == windows(15, 10, 6)


def test_windows_are_cut_while_the_stream_is_read():
    read = 0

    def stream():
        nonlocal read
        for _ in range(1_000):
            read += 10
            yield np.zeros(10, np.float32)

    for start, _ in cut_windows(stream(), WindowSpec(40, 30)):
        assert read <= start + 40 + 2 * 10


def test_each_column_is_taken_where_it_is_most_central():
    parts = [(0, np.full(9, 0)), (6, np.full(9, 1)), (12, np.full(5, 2))]
    assert join_columns(parts).tolist() == [0] * 7 + [1] * 6 + [2] * 4
    assert join_columns([(0, np.arange(3))]).tolist() == [0, 1, 2]


def test_the_mean_counts_seconds_and_not_the_order():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(3, 8)).astype(np.float32)
    parts = [(Segment(0, start, length), v) for start, length, v in zip((0, 6, 12), (10, 10, 5), vectors, strict=True)]
    expected = (10 * vectors[0] + 10 * vectors[1] + 5 * vectors[2]).astype(np.float64)
    assert np.allclose(mean_embedding(parts), expected / np.linalg.norm(expected), atol=1e-6)
    assert np.array_equal(mean_embedding(parts[::-1]), mean_embedding(parts))
    assert np.array_equal(mean_embedding(parts[:1]), vectors[0])
    assert np.allclose(mean_over_segments(parts), expected / 25, atol=1e-6)
    assert np.array_equal(mean_over_segments(parts[::-1]), mean_over_segments(parts))
    assert np.array_equal(mean_over_segments(parts[:1]), vectors[0])


def test_windows_of_whole_columns_share_a_third():
    assert context_windows(30.0, 16_000, 2_560) == (187 * 2_560, 125 * 2_560, 480_000)
    assert regular_windows(10.0, 5.0, 16_000) == (160_000, 80_000, 0)
    assert windows_of_training(CONFIG) == (6 * 2_560, 4 * 2_560, 16_000)


def test_a_model_of_very_short_clips_has_windows_too():
    config = tiny_config()
    config.data.max_seconds = 0.3
    assert windows_of_training(config) == (3 * 2_560, 2 * 2_560, 4_800)
    assert longest_clip(config) == 0.3
    del config.data.max_seconds  # exports of format version 1 do not state it
    assert longest_clip(config) == 30.0


@pytest.mark.parametrize(("seconds", "hop"), [(0.0, 0.0), (5.0, 6.0), (5.0, 0.0), (-1.0, -1.0), (1.0, 1e-6)])
def test_impossible_window_plans(seconds, hop):
    with pytest.raises(WindowError, match="expected 0 < hop <= seconds"):
        regular_windows(seconds, hop, 16_000)


def test_too_short_windows_are_errors():
    with pytest.raises(WindowError, match="too short"):
        context_windows(0.3, 16_000, 2_560)


def test_recordings_are_decoded_a_few_ahead(monkeypatch):
    """The first windows of a few recordings are decoded ahead, and no later window."""
    monkeypatch.setattr(long_audio, "AHEAD", 3)
    touched = set()

    class Clips(list):
        def __getitem__(self, place):
            touched.add(place)
            return (np.full(25, place + 1, np.int16), 16_000)

    segments = decode_segments(Recordings(Clips(range(20))), 16_000, WindowSpec(10, 6))
    for count, (segment, samples) in enumerate(segments):
        assert segment == (count // 4, count % 4 * 6, [10, 10, 10, 7][count % 4]) and len(samples) == segment.length
        assert max(touched) <= segment.recording + 3
    assert count == 79 and len(touched) == 20
