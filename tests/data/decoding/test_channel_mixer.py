"""Values that no sound has are refused with what they probably are, in one piece and in blocks."""

import logging

import numpy as np
import pytest

from slap_jax.data import audio
from slap_jax.data.audio import decode_audio, prepare_waveform, stream_array, stream_audio
from slap_jax.data.decoding.errors import AudioError, mention
from tests.data.tiny_data import encoded, tone

NOISE = (0.05 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1_000)
    mention.cache_clear()


def verdicts(samples: np.ndarray) -> list[AudioError | None]:
    """Returns the errors of an array and of its file, each in one piece and in blocks."""
    data = encoded(samples, subtype="FLOAT")
    ways = (
        lambda: prepare_waveform(samples, 16_000, name="clip"),
        lambda: list(stream_array(samples, 16_000, name="clip")),
        lambda: decode_audio(data, name="clip"),
        lambda: list(stream_audio(data, name="clip")),
    )
    errors: list[AudioError | None] = []
    for way in ways:
        try:
            way()
            errors.append(None)
        except AudioError as error:
            errors.append(error)
    assert len({str(error) for error in errors}) == 1
    return errors


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (NOISE * 32_768, r"floats of integer scale: they reach \d+\.\d+, expected about 1; divide them by 32768 "),
        (np.rint(NOISE * 200), r"floats of integer scale: they reach \d\d, "),
        (NOISE * 2.0**31, r"floats of integer scale: they reach \d\.\d+e\+08, "),
        (NOISE * 2.0**23, r"floats of integer scale: they reach 1\.\d+e\+06, .* 8388608 for 24,"),
        (NOISE * 1e20, r"absurd samples: they reach \d\.\d+e\+19, .* bytes of another kind"),
        (np.concatenate([np.zeros(30_000, np.float32), np.full(9, 3e38, np.float32)]), r"absurd samples.* 3e\+38"),
        (np.stack([NOISE * 1e38, NOISE * 1e38], axis=1), "absurd samples"),
    ],
    ids=["16 bits", "quiet integers", "32 bits", "24 bits", "huge", "huge at the end", "stereo"],
)
def test_floats_of_another_scale_are_refused(samples, words):
    for error in verdicts(samples.astype(np.float32)):
        assert error is not None and error.reason == "bad_scale"
        with pytest.raises(AudioError, match=f"^clip has {words}"):
            raise error


@pytest.mark.parametrize("peak", [0.0, 1e-6, 1.0, 3.9])
def test_usual_levels_pass_without_a_word(peak, caplog):
    assert verdicts(tone(0.2, amplitude=peak)) == [None] * 4
    assert verdicts(np.stack([tone(0.2, amplitude=peak)] * 2, axis=1)) == [None] * 4
    assert not caplog.records


def test_float_recordings_louder_than_full_scale_are_mentioned_once(caplog):
    samples = tone(0.2, amplitude=30.0)
    assert verdicts(samples) == [None] * 4
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("clip is louder than full scale: it reaches 30, expected 1; it is clipped")
    np.testing.assert_array_equal(prepare_waveform(samples, 16_000), samples)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8])
def test_integers_have_their_own_scale(kind, caplog):
    full = np.full((2_000, 1), np.iinfo(kind).max, kind)
    assert np.abs(prepare_waveform(full, 16_000)).max() <= 1.0 and not caplog.records


@pytest.mark.parametrize("residue", [0.0, 1e-3])
def test_channels_that_cancel_each_other_are_refused(residue):
    samples = tone(1.0, amplitude=0.3)
    for error in verdicts(np.stack([samples, (residue - 1) * samples], axis=1)):
        assert error is not None and error.reason == "cancelling_channels"
        assert "clip has channels that cancel each other: they reach 0.3, and their mean " in str(error)
        assert "export one of the channels" in str(error)


def test_channels_that_are_only_different_are_averaged():
    samples = tone(1.0)
    loud_in_one = np.zeros((16_000, 64), np.float32)
    loud_in_one[:, 5] = samples
    for channels in (
        np.stack([samples, np.zeros_like(samples)], axis=1),
        np.stack([samples, -0.9 * samples], axis=1),
        loud_in_one,
    ):
        assert verdicts(channels) == [None] * 4


def test_channels_may_cancel_each_other_for_a_while():
    samples = tone(1.0)
    inverted = np.where(np.arange(16_000) < 14_000, -samples, samples)
    assert verdicts(np.stack([samples, inverted], axis=1)) == [None] * 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_stay_reported_as_such(value):
    samples = np.stack([tone(0.5)] * 2, axis=1).astype(np.float64)
    samples[5_000] = value, -value
    for way in (prepare_waveform, lambda array, rate: list(stream_array(array, rate))):
        with pytest.raises(AudioError, match="NaN or infinite"):
            way(samples, 16_000)
