"""Decoding in blocks equals decoding at once, bit for bit, and rejects the same bad input."""

import io

import numpy as np
import pytest
import soundfile

from slap_jax.data import audio
from slap_jax.data.audio import AudioError, decode_audio, prepare_waveform, stream_array, stream_audio
from tests.data.tiny_data import encoded, tone


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1_000)


def stereo(seconds, rate):
    return np.stack([tone(seconds, 300.0, rate), tone(seconds, 2_000.0, rate, 0.2)], axis=1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 44_101, 96_000])
def test_blocks_equal_the_whole_file(tmp_path, rate):
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(stereo(0.7, rate), rate, subtype="PCM_16"))
    pieces = list(stream_audio(path))
    assert len(pieces) > 5 and np.array_equal(np.concatenate(pieces), decode_audio(path))
    samples, _ = soundfile.read(path, dtype="int16")
    pieces = list(stream_array(samples, rate))
    assert len(pieces) > 5 and np.array_equal(np.concatenate(pieces), prepare_waveform(samples, rate))


@pytest.mark.parametrize("container", ["FLAC", "OGG", "MP3"])
def test_compressed_formats(container):
    data = encoded(stereo(0.7, 44_100), 44_100, container=container)
    pieces = list(stream_audio(data))
    assert len(pieces) > 5 and np.array_equal(np.concatenate(pieces), decode_audio(data))


@pytest.mark.parametrize("samples", [1, 2, 3, 40])
def test_very_few_samples(samples):
    array = np.linspace(0.1, 0.5, samples, dtype=np.float32)
    assert np.array_equal(np.concatenate(list(stream_array(array, 96_000))), prepare_waveform(array, 96_000))


def test_the_time_of_a_bad_sample_is_reported():
    samples = np.zeros(16_000, np.float32)
    samples[12_000] = np.inf
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8_000, format="WAV", subtype="FLOAT")
    pieces = stream_audio(buffer.getvalue(), name="clip 3")
    assert len(next(pieces)) > 0
    with pytest.raises(AudioError, match=r"clip 3 has NaN or infinite samples, the first at 1\.500 s") as error:
        list(pieces)
    assert error.value.reason == "nonfinite_audio"


def test_a_truncated_file_raises_at_its_end():
    data = encoded(stereo(1.0, 16_000), 16_000)[:20_000]
    for pieces, name in ((stream_audio(data, 16_000, "clip 3"), "clip 3"), (stream_audio(data), "audio bytes")):
        assert len(next(pieces)) == 1_000
        with pytest.raises(AudioError, match=f"^{name} is truncated"):
            list(pieces)


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16_000, "holds no samples"),
        (np.zeros((2, 5_000), np.float32), 16_000, "transpose it"),
        (np.float32(1.0), 16_000, "has shape"),
        (np.zeros(8, np.float32), 0, "sample rate 0"),
        (np.zeros(8, complex), 16_000, "has type complex"),
    ],
)
def test_bad_arrays(array, rate, message):
    with pytest.raises(AudioError, match=message):
        list(stream_array(array, rate))
