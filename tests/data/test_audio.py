import contextlib
import io
import os
import struct
import tracemalloc

import librosa
import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import (
    AudioError,
    decode_audio,
    decode_flac,
    decode_flac_into,
    encode_flac,
    flac_samples,
    prepare_waveform,
    to_int16,
)
from tests.data.tiny_data import encoded, tone
from tests.data.unprivileged import unprivileged_folder


def stereo(seconds, rate):
    return np.stack([tone(seconds, 300.0, rate), tone(seconds, 2_000.0, rate, 0.2)], axis=1)


@pytest.mark.process
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 96_000])
def test_decodes_like_librosa(tmp_path, rate):
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(stereo(0.7, rate), rate, subtype="PCM_24"))
    expected, _ = librosa.load(path, sr=16_000, mono=True, res_type="soxr_hq")
    decoded = decode_audio(path)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")],
)
def test_every_sample_format_keeps_its_scale(container, subtype):
    samples = tone(0.2)
    step = 1 / 128 if subtype == "PCM_U8" else 1 / 32_768
    np.testing.assert_allclose(decode_audio(encoded(samples, 16_000, container, subtype)), samples, atol=1.01 * step)


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_lossy_formats_decode_to_about_the_same(container, subtype):
    samples = tone(1.0)
    decoded = decode_audio(encoded(samples, 16_000, container, subtype))
    assert abs(len(decoded) - len(samples)) < 0.1 * 16_000
    assert np.sqrt(np.mean(decoded**2)) == pytest.approx(np.sqrt(np.mean(samples**2)), rel=0.1)


def test_path_bytes_and_buffer_give_the_same(tmp_path):
    data = encoded(stereo(0.1, 44_100), 44_100)
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    for source in (str(path), data, io.BytesIO(data)):
        np.testing.assert_array_equal(decode_audio(source), decode_audio(path))


def test_another_target_rate():
    assert len(decode_audio(encoded(tone(0.5)), sample_rate=8_000)) == 4_000


# Bad and odd files: each with its stated outcome (docs/data_format.md) ---------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 96_000])
def test_one_sample_is_a_clip(rate):
    decoded = decode_audio(encoded(np.full(1, 0.25, np.float32), rate))
    np.testing.assert_allclose(decoded, [0.25], atol=1e-4)


@pytest.mark.parametrize(("container", "subtype"), [("MP3", None), ("FLAC", None), ("OGG", "OPUS"), ("WAV", None)])
@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "m4a", "txt"])
def test_the_format_is_detected_from_the_contents(tmp_path, container, subtype, suffix):
    data = encoded(tone(0.2), container=container, subtype=subtype)
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode_audio(path), decode_audio(data))


def test_six_channels_at_96_khz_are_averaged():
    channels = np.stack([tone(0.2, 440.0, 96_000, amplitude / 10) for amplitude in range(6)], axis=1)
    decoded = decode_audio(encoded(channels, 96_000, subtype="PCM_24"))
    np.testing.assert_allclose(decoded[400:-400], tone(0.2, amplitude=0.25)[400:-400], atol=1e-3)


def test_ten_minutes_are_decoded_whole():
    assert len(decode_audio(encoded(np.zeros(600 * 8_000, np.int16), 8_000))) == 600 * 16_000


def test_float_file_beyond_full_scale_is_kept_and_clipped_only_for_storage():
    decoded = decode_audio(encoded(tone(0.1, amplitude=2.0), subtype="FLOAT"))
    assert decoded.max() > 1.9
    assert to_int16(decoded).max() == 32_767 and to_int16(decoded).min() == -32_768


def truncated_wav():
    return encoded(tone(1.0))[:10_000]


def nan_wav():
    samples = tone(0.1)
    samples[[3, 500]] = np.nan, np.inf
    return encoded(samples, subtype="FLOAT")


def corrupt_flac():
    data = bytearray(encoded(np.random.default_rng(0).normal(0, 0.1, 16_000), container="FLAC"))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    return bytes(data)


def truncated_mp3():
    data = encoded(tone(3.0), container="MP3")
    return data[: len(data) // 2 + 10]  # inside a frame


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty_audio", "0 bytes"),
        (b"This is a text file that somebody named .wav\n" * 20, "unreadable_audio", "not readable"),
        (encoded(np.zeros(0, np.int16)), "empty_audio", "no samples"),
        (encoded(tone(1.0))[:30], "unreadable_audio", "not readable"),
        (truncated_wav(), "truncated_audio", "states more than the 0.31 s"),
        (truncated_mp3(), "truncated_audio", "is truncated"),
        (corrupt_flac(), "unreadable_audio", "not readable"),
        (nan_wav(), "nonfinite_audio", "2 NaN or infinite samples of 1600"),
    ],
    ids=["zero-length", "text", "header-only", "half-header", "truncated-wav", "truncated-mp3", "corrupt-flac", "nan"],
)
def test_bad_files_raise_naming_the_file(tmp_path, data, reason, words):
    path = tmp_path / "bad.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=words) as caught:
        decode_audio(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason == reason
    with pytest.raises(AudioError, match="upload 7"):
        decode_audio(data, name="upload 7")


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(AudioError, match=r"nothing\.wav is missing"):
        decode_audio(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="a directory"):
        decode_audio(tmp_path)


def test_a_path_that_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.wav").write_bytes(encoded(tone(0.1)))
    with pytest.raises(AudioError, match=r"caf\\udce9/a\.wav has a name that is not UTF-8; rename it") as caught:
        decode_audio(folder / "a.wav")
    assert caught.value.reason == "bad_name"


def test_a_file_without_permission():
    with unprivileged_folder() as folder:
        (folder / "a.wav").write_bytes(encoded(tone(0.1)))
        (folder / "a.wav").chmod(0)
        with pytest.raises(AudioError, match=r"a\.wav cannot be read \(Permission denied\)") as caught:
            decode_audio(folder / "a.wav")
    assert caught.value.reason == "unreadable_file"


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_streamed_wav_without_a_length_in_its_header_is_whole(size):
    data = bytearray(encoded(tone(0.5)))
    position = data.index(b"data") + 4
    data[position : position + 4] = struct.pack("<I", size)
    np.testing.assert_array_equal(decode_audio(bytes(data)), decode_audio(encoded(tone(0.5))))


# In memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64, np.uint8])
def test_arrays_are_scaled_by_their_type(kind):
    samples = tone(0.1)
    if kind == np.uint8:
        array = np.round(samples * 128 + 128).astype(np.uint8)
    elif np.issubdtype(kind, np.integer):
        array = np.round(samples.astype(np.float64) * (np.iinfo(kind).max + 1)).astype(kind)
    else:
        array = samples.astype(kind)
    prepared = prepare_waveform(array, 16_000)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, samples, atol=1 / 128 if kind == np.uint8 else 1 / 32_768)


def test_array_and_file_of_the_same_samples_agree():
    samples = stereo(0.3, 44_100)
    file = encoded(samples, 44_100, subtype="FLOAT")
    np.testing.assert_array_equal(prepare_waveform(samples, 44_100), decode_audio(file))


@pytest.mark.parametrize(
    ("array", "rate", "words"),
    [
        (np.zeros((2, 16_000)), 16_000, "transpose"),
        (np.zeros((1, 2, 3)), 16_000, "shape"),
        (np.zeros(0), 16_000, "no samples"),
        (np.zeros(9, bool), 16_000, "type bool"),
        (np.zeros(9, complex), 16_000, "type complex"),
        (np.array([0.0, np.nan]), 16_000, "1 NaN"),
        (np.zeros(9), 0, "sample rate"),
        (np.zeros(9), 44.1, "sample rate"),
    ],
)
def test_bad_arrays_raise(array, rate, words):
    with pytest.raises(AudioError, match=words):
        prepare_waveform(array, rate)


# Storage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 15, 2_560, 50_001])
def test_flac_round_trip_is_exact(count):
    samples = np.random.default_rng(count).integers(-32_768, 32_768, count).astype(np.int16)
    data = encode_flac(samples)
    decoded = decode_flac(data)
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, samples)
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.samplerate, info.channels, info.subtype) == ("FLAC", 16_000, 1, "PCM_16")


def test_int16_survives_float():
    samples = np.arange(-32_768, 32_768, dtype=np.int16)
    np.testing.assert_array_equal(to_int16(samples / np.float32(32_768)), samples)


def test_damaged_record_says_so():
    with pytest.raises(AudioError, match=r"record x holds damaged audio.*slap prepare"):
        decode_flac(b"fLaC nothing", "record x")


@pytest.mark.parametrize("count", [1, 16, 4_096, 4_097, 50_001])
def test_the_flac_header_states_the_number_of_samples(count):
    data = encode_flac(np.random.default_rng(count).integers(-32_768, 32_768, count).astype(np.int16))
    assert flac_samples(data) == flac_samples(data[:26]) == len(decode_flac(data)) == count


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no FLAC"),
        (encode_flac(np.ones(5, np.int16))[:25], "no FLAC"),
        (encoded(tone(0.1)), "no FLAC"),
        (encode_flac(np.ones(5, np.int16))[:21] + bytes(5), "does not state how many samples"),
    ],
    ids=["empty", "cut", "wav", "unknown"],
)
def test_a_flac_header_without_a_number_of_samples(data, words):
    with pytest.raises(AudioError, match=f"record x .*{words}"):
        flac_samples(data, "record x")


@pytest.mark.parametrize(
    ("start", "count"), [(0, 50_001), (0, 1), (1, 50_000), (4_095, 9_000), (4_096, 5), (50_000, 1)]
)
def test_part_of_a_record_is_decoded_in_place(start, count):
    samples = np.random.default_rng(3).integers(-32_768, 32_768, 50_001).astype(np.int16)
    row = np.full(60_000, 7, np.int16)
    decode_flac_into(encode_flac(samples), row[100 : 100 + count], start)
    np.testing.assert_array_equal(row[100 : 100 + count], samples[start : start + count])
    assert (row[:100] == 7).all() and (row[100 + count :] == 7).all()


def test_damaged_or_shorter_records_are_not_decoded_in_place():
    data = encode_flac(np.random.default_rng(0).integers(-3_000, 3_000, 16_000).astype(np.int16))
    damaged = data[: len(data) // 2] + b"\xff" * 400 + data[len(data) // 2 + 400 :]
    for bad, start, count in [
        (damaged, 0, 16_000),
        (data[: len(data) // 2], 0, 16_000),
        (data, 0, 16_001),
        (data, 10, 16_000),
        (data, 16_001, 1),
        (b"fLaC nothing", 0, 5),
    ]:
        with pytest.raises(AudioError, match=r"record x holds damaged audio.*slap prepare"):
            decode_flac_into(bad, np.zeros(count, np.int16), start, "record x")


def test_damaged_sound_files_are_refused():
    data = bytearray(encode_flac(np.random.default_rng(0).integers(-3_000, 3_000, 16_000).astype(np.int16)))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    for damaged in (bytes(data), encoded(tone(0.5))[:30], bytes(data[50:])):
        with pytest.raises(AudioError, match="not readable") as caught:
            decode_audio(damaged)
        assert caught.value.reason == "unreadable_audio"


# Headers and names that ask too much ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_sound_has(rate):
    data = bytearray(encoded(tone(0.1)))
    data[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioError, match=f"bad.wav has a sample rate of {rate} Hz; expected 1000 to 1000000") as caught:
        decode_audio(bytes(data), name="bad.wav")
    assert caught.value.reason == "bad_sample_rate"
    with pytest.raises(AudioError, match="expected 1000 to 1000000"):
        prepare_waveform(tone(0.1), rate)


@pytest.mark.parametrize("rate", [1_000, 1_000_000])
def test_the_lowest_and_the_highest_rate(rate):
    assert len(decode_audio(encoded(np.full(rate // 4, 0.1, np.float32), rate))) == pytest.approx(4_000, abs=1)


def test_more_channels_than_any_sound_has():
    samples = np.full((10, 65), 0.1, np.float32)
    with pytest.raises(AudioError, match=r"bad\.wav has 65 channels; expected at most 64") as caught:
        decode_audio(encoded(samples), name="bad.wav")
    assert caught.value.reason == "too_many_channels"
    assert len(decode_audio(encoded(samples[:, :64]))) == 10


def test_memory_is_that_of_the_contents_not_that_of_the_header():
    data = bytearray(encoded(tone(0.5), subtype="FLOAT"))
    data[22:24] = struct.pack("<H", 64)  # channels
    struct.pack_into("<I", data, data.index(b"data") + 4, 0x7FFFFFF0)
    flac = encoded(tone(0.5), container="FLAC").replace(b"\x10\x00\x10\x00", b"\xff\xff\xff\xff", 1)  # samples a block
    for broken in (bytes(data), flac):
        tracemalloc.start()
        with contextlib.suppress(AudioError):
            decode_audio(broken)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 << 20


@pytest.mark.parametrize("error", [MemoryError(), OverflowError("too large"), ValueError("no"), OSError("no")])
def test_any_exception_of_a_decoder_is_a_fault_of_the_file(monkeypatch, error):
    def fail(*_, **__):
        raise error

    data = encoded(tone(0.1))
    for place in ("slap_jax.data.decoding.sound_decoder._sound_layout", "soundfile.SoundFile.read", "soxr.resample"):
        with monkeypatch.context() as patched:
            patched.setattr(place, fail)
            if place == "soxr.resample" and not isinstance(error, MemoryError):
                continue
            with pytest.raises(AudioError, match=r"^bad\.wav ") as caught:
                decode_audio(data, 8_000, name="bad.wav")
            assert caught.value.reason in ("unreadable_audio", "too_large")


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("a" * 300 + ".wav", r"cannot be read \(File name too long\); correct the path", "unreadable_file"),
        ("a\0.wav", "has a null character", "bad_name"),
    ],
)
def test_names_that_no_file_can_have(tmp_path, name, words, reason):
    with pytest.raises(AudioError, match=words) as caught:
        decode_audio(str(tmp_path / name))
    assert caught.value.reason == reason
