"""Files whose headers state a wrong length are decoded to the end of what they hold, in one piece and in blocks."""

import io
import itertools
import struct
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest
import soundfile

from slap_jax.data import audio
from slap_jax.data.audio import decode_audio, stream_audio
from slap_jax.data.decoding import chunks
from slap_jax.data.decoding.errors import AudioError, mention
from slap_jax.data.decoding.pyav_decoder import container_blocks
from tests.data.tiny_data import encoded, tone

RATE = 16_000
NOISE = (0.3 * np.random.default_rng(0).standard_normal(24_000)).clip(-1, 1).astype(np.float32)
OTHER = (0.3 * np.random.default_rng(1).standard_normal(9_000)).clip(-1, 1).astype(np.float32)
# Where each format states the size of its samples, how, and what of it is no sample.
SIZES: dict[str, tuple[Callable[[bytes], int], str, int]] = {
    "WAV": (lambda data: data.index(b"data") + 4, "<I", 0),
    "RF64": (lambda data: data.index(b"ds64") + 16, "<Q", 0),
    "W64": (lambda data: data.index(b"data\xf3") + 16, "<Q", 24),
    "AIFF": (lambda data: data.index(b"SSND") + 4, ">I", 8),
    "CAF": (lambda data: data.index(b"data") + 4, ">q", 4),
    "AU": (lambda data: 8, ">I", 0),
}
UNKNOWN = {"WAV": 2**32 - 1, "RF64": 2**64 - 1, "W64": 2**64 - 1, "AIFF": 2**32 - 1, "CAF": -1, "AU": 2**32 - 1}
TRAILING = {
    "WAV": b"LIST\x0e\0\0\0INFOISFT\2\0\0\0xy",
    "RF64": b"id3 \4\0\0\0abcd",
    "W64": b"list" + bytes(12) + struct.pack("<Q", 32) + bytes(8),
    "AIFF": b"NAME\0\0\0\4abcd",
    "CAF": b"info" + struct.pack(">q", 4) + bytes(4),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1_000)
    mention.cache_clear()


def both(data: bytes, name: str = "clip") -> np.ndarray:
    """Decodes in one piece, after checking that blocks give the same."""
    whole = decode_audio(data, name=name)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(data, name=name))), whole)
    return whole


def refused(data: bytes) -> AudioError:
    """Returns the error of a file, after checking that decoding in blocks raises the same."""
    with pytest.raises(AudioError) as whole:
        decode_audio(data, name="clip")
    with pytest.raises(AudioError) as blocks:
        list(stream_audio(data, name="clip"))
    assert (str(whole.value), whole.value.reason) == (str(blocks.value), blocks.value.reason)
    return whole.value


def with_size(data: bytes, container: str, change: Callable[[int], int]) -> bytes:
    """Returns a file with another stated size of its samples."""
    where, form, rest = SIZES[container]
    at, result = where(data), bytearray(data)
    (size,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, result, at, change(size - rest) + rest)
    return bytes(result)


# WAV, RF64, W64, AIFF, CAF, AU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", SIZES)
@pytest.mark.parametrize("size", ["0", "unknown", "half", "little less", "little more"])
def test_all_samples_are_read_whatever_the_size(container, size, caplog):
    data = encoded(NOISE, container=container, subtype="PCM_16")
    changes: dict[str, Callable[[int], int]] = {
        "0": lambda _: 0,
        "unknown": lambda _: UNKNOWN[container] - SIZES[container][2] if container != "CAF" else -5,
        "half": lambda size: size // 2,
        "little less": lambda size: size - 100,
        "little more": lambda size: size + 100,
    }
    decoded = both(with_size(data, container, changes[size]))
    np.testing.assert_array_equal(decoded, decode_audio(data))
    assert len(decoded) == len(NOISE)
    mentions = [record.getMessage() for record in caplog.records]
    if size in ("0", "unknown"):  # which is how writers say that they do not know
        assert mentions == []
    else:
        (line,) = mentions  # although the file was decoded twice
        assert line.startswith("clip has a wrong header: it states ") and "48000" in line


@pytest.mark.parametrize("container", SIZES)
def test_a_file_that_ends_within_its_samples_is_truncated(container):
    data = encoded(NOISE, container=container, subtype="PCM_16")
    error = refused(data[: len(data) - 30_000])
    assert error.reason == "truncated_audio"
    assert "more than the 0.56 s that it holds (it states 48000 bytes of samples, and 18000 are there)" in str(error)


@pytest.mark.parametrize("container", TRAILING)
def test_chunks_after_the_samples_are_not_sound(container, caplog):
    data = encoded(NOISE, container=container, subtype="PCM_16")
    decoded = both(data + TRAILING[container])
    np.testing.assert_array_equal(decoded, decode_audio(data))
    assert not caplog.records


@pytest.mark.parametrize("container", SIZES)
@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(60)], ids=["id3v1", "ape"])
def test_tags_around_the_samples_are_not_sound(container, tail):
    data = encoded(NOISE, container=container, subtype="PCM_16")
    np.testing.assert_array_equal(both(data + tail), decode_audio(data))
    np.testing.assert_array_equal(both(b"ID3\4\0\0\0\0\1\0" + bytes(128) + data), decode_audio(data))


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF", "CAF", "W64"])
def test_padding_with_zeros_is_not_sound(container):
    data = encoded(NOISE, container=container, subtype="PCM_16")
    assert len(both(data + bytes(4_096))) == len(NOISE)


@pytest.mark.parametrize("container", SIZES)
def test_joined_files_are_read_one_after_the_other(container, caplog):
    first, second = (encoded(samples, container=container, subtype="PCM_16") for samples in (NOISE, OTHER))
    decoded = both(first + second)
    np.testing.assert_array_equal(decoded, np.concatenate([decode_audio(first), decode_audio(second)]))
    assert not caplog.records


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AU"])
def test_very_many_joined_files(container):
    data = encoded(NOISE[:20], container=container, subtype="PCM_16")
    np.testing.assert_array_equal(both(2_000 * data), np.tile(decode_audio(data), 2_000))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_sizes_of_every_sample_format(subtype):
    data = encoded(NOISE, subtype=subtype)
    np.testing.assert_array_equal(both(with_size(data, "WAV", lambda _: 0)), decode_audio(data))


def test_sizes_beyond_4_gib_have_wrapped(monkeypatch):
    monkeypatch.setattr(chunks, "_WRAP", 1 << 14)
    data = encoded(NOISE, subtype="PCM_16")
    wrapped = with_size(data, "WAV", lambda size: size % (1 << 14))
    assert struct.unpack_from("<I", wrapped, 40) == (48_000 % (1 << 14),)
    np.testing.assert_array_equal(both(wrapped + TRAILING["WAV"]), decode_audio(data))


def test_a_corrected_header_beyond_4_gib_is_rf64(monkeypatch):
    monkeypatch.setattr(chunks, "_LONGEST_RIFF", 40_000)
    data = encoded(NOISE, subtype="PCM_16")
    np.testing.assert_array_equal(both(with_size(data, "WAV", lambda size: size // 2)), decode_audio(data))


def test_an_honest_file_without_samples_holds_none():
    empty = encoded(np.zeros(0, np.int16))
    for data in (empty, empty + TRAILING["WAV"]):
        assert refused(data).reason == "empty_audio"


def test_a_format_that_contradicts_itself_is_refused():
    data = bytearray(encoded(NOISE, subtype="PCM_16"))
    data[22] = 5  # channels; two bytes a frame and the bytes a second say that there is one
    error = refused(bytes(data))
    assert error.reason == "unreadable_audio"
    assert "its header contradicts itself: 5 channels of 16 bits in 2 bytes" in str(error)
    data[22:24], data[32:34] = b"\1\0", b"\4\0"  # only the bytes a frame are wrong
    np.testing.assert_array_equal(both(bytes(data)), decode_audio(encoded(NOISE, subtype="PCM_16")))


# FLAC ---------------------------------------------------------------------------------------------------------------


def flac(samples: np.ndarray = NOISE, stated: int | None = None, rate: int = RATE, **settings) -> bytes:
    data = bytearray(encoded(samples, rate, container="FLAC", **settings))
    if stated is not None:
        data[18:26] = (int.from_bytes(data[18:26], "big") >> 36 << 36 | stated).to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("stated", [0, 1, 12_000, 23_999, 24_001, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_of_a_wrong_or_unknown_length(stated, subtype, caplog):
    decoded = both(flac(stated=stated, subtype=subtype))
    np.testing.assert_array_equal(decoded, decode_audio(flac(subtype=subtype)))
    assert [f"it states {stated} samples" in record.getMessage() for record in caplog.records] == [True] * (stated > 0)


def test_flac_that_ends_inside_a_frame_is_truncated():
    for data, words in (
        (flac()[:-10_000], "(it states 24000 samples, and "),
        (flac()[:-100], "(its last frame is incomplete)"),
    ):
        error = refused(data)
        assert error.reason == "truncated_audio" and words in str(error)


def test_flac_of_unknown_length_that_was_cut_is_read_up_to_its_last_whole_frame():
    decoded = both(flac(stated=0)[:-100])
    assert len(decoded) == 24_000 // 4_096 * 4_096
    np.testing.assert_array_equal(decoded, decode_audio(flac())[: len(decoded)])


def test_joined_flac_and_tags():
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    parts = [flac(), tag, flac(OTHER), flac(stated=5), b"TAG" + bytes(125)]
    expected = [decode_audio(flac()), decode_audio(flac(OTHER)), decode_audio(flac())]
    np.testing.assert_array_equal(both(tag + b"".join(parts)), np.concatenate(expected))


# Ogg ----------------------------------------------------------------------------------------------------------------


def ogg(kind: str, samples: np.ndarray = NOISE, rate: int = RATE) -> bytes:
    return encoded(samples, rate, container="OGG", subtype=kind)


def pages(data: bytes) -> Iterator[bytearray]:
    at = 0
    while at < len(data):
        count = data[at + 26]
        size = 27 + count + sum(data[at + 27 : at + 27 + count])
        yield bytearray(data[at : at + size])
        at += size


def with_checksum(page: bytearray) -> bytes:
    page[22:26] = bytes(4)
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ 0x04C11DB7) & 0xFFFFFFFF if crc & 0x80000000 else crc << 1
    page[22:26] = struct.pack("<I", crc)
    return bytes(page)


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_joined_ogg_files(kind):
    first, second = ogg(kind), ogg(kind, OTHER)
    np.testing.assert_array_equal(
        both(first + second + first), np.concatenate([decode_audio(data) for data in (first, second, first)])
    )


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_ogg_without_an_end_of_stream(kind):
    *rest, last = pages(ogg(kind))
    last[5] &= ~4
    without_end = b"".join([*map(bytes, rest), with_checksum(last)])
    decoded, whole = both(without_end), decode_audio(ogg(kind))
    assert abs(len(decoded) - len(whole)) < 1_024  # Vorbis states where it ends in the page with the flag
    np.testing.assert_array_equal(decoded[: len(whole)], whole[: len(decoded)])
    other = decode_audio(ogg(kind, OTHER))
    np.testing.assert_array_equal(both(without_end + ogg(kind, OTHER))[-len(other) :], other)


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_ogg_that_ends_inside_a_page_is_truncated(kind):
    data = ogg(kind, np.tile(NOISE, 8))
    error = refused(data[: len(data) // 2])
    assert error.reason == "truncated_audio" and "its last page is incomplete" in str(error)


def test_recordings_of_other_rates_and_channels_are_resampled_to_the_first():
    stereo = np.stack([tone(1.0, 500.0, 48_000), tone(1.0, 500.0, 48_000)], axis=1)
    decoded = both(ogg("VORBIS", tone(1.0, 500.0, 44_100), 44_100) + ogg("VORBIS", stereo, 48_000))
    assert abs(len(decoded) - 32_000) <= 2
    for half in (decoded[2_000:14_000], decoded[18_000:30_000]):
        assert np.argmax(np.abs(np.fft.rfft(half))) * RATE / 12_000 == pytest.approx(500, abs=2)


# MP3 ----------------------------------------------------------------------------------------------------------------


def mp3(samples: np.ndarray = NOISE, rate: int = RATE, mode: str = "VARIABLE") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    return buffer.getvalue()


def mp3_frames(data: bytes) -> list[bytes]:
    """Splits MPEG-2 layer III at 16 kHz, which is what `mp3` returns."""
    bit_rates = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frames, at = [], 0
    while at < len(data):
        size = 72_000 * bit_rates[data[at + 2] >> 4] // RATE + (data[at + 2] >> 1 & 1)
        frames.append(data[at : at + size])
        at += size
    return frames


def with_frames_stated(data: bytes, frames: int) -> bytes:
    at = max(data.find(b"Xing"), data.find(b"Info"))
    return data[: at + 8] + struct.pack(">I", frames) + data[at + 12 :]


LOUD_AND_QUIET = [np.concatenate(halves) for halves in itertools.permutations([np.tile(NOISE, 4), np.zeros(96_000)])]


@pytest.mark.parametrize("samples", LOUD_AND_QUIET, ids=["loud first", "quiet first"])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_without_a_header(samples, mode, caplog):
    data = mp3(samples, mode=mode)
    header, *frames = mp3_frames(data)
    assert b"Xing" in header or b"Info" in header
    decoded, whole = both(b"".join(frames)), decode_audio(data)
    assert len(decoded) == 576 * len(frames) - 529 and not caplog.records  # without the delay of any decoder
    delay = int(np.argmax(np.correlate(decoded[:30_000], whole[:20_000], "valid")))  # the header states the padding
    if np.abs(whole[:20_000]).max() > 0.1:
        np.testing.assert_allclose(decoded[delay : delay + 80_000], whole[:80_000], atol=1e-4)


@pytest.mark.parametrize("frames", [576, 1_000, 4_096])
def test_the_blocks_of_mp3_are_those_of_the_whole_file(monkeypatch, frames):
    """Frames refer to bytes of the frames before: a seek between two blocks spoils the beginning of the second."""
    data = mp3(LOUD_AND_QUIET[0])
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    monkeypatch.setattr(audio, "BLOCK_FRAMES", frames)
    np.testing.assert_allclose(decode_audio(data), expected, atol=1e-6)


@pytest.mark.parametrize("stated", [1, 20, 500])
def test_mp3_with_a_wrong_number_of_frames(stated, caplog):
    np.testing.assert_array_equal(both(with_frames_stated(mp3(), stated)), decode_audio(mp3()))
    (record,) = caplog.records
    assert f"it states {stated} frames, and {len(mp3_frames(mp3())) - 1} are there" in record.getMessage()


def test_mp3_that_ends_inside_a_frame_is_truncated_if_its_header_states_more():
    data = mp3()
    frames = mp3_frames(data)
    inside, between = len(b"".join(frames[:20])) + 10, len(b"".join(frames[:20]))
    error = refused(data[:inside])
    assert error.reason == "truncated_audio" and f"it states {len(frames) - 1} frames, and 19 are there" in str(error)
    assert len(both(data[:between])) > 16 * 576  # of which the header says that they are padding
    assert len(both(b"".join(frames[1:])[:inside])) > 18 * 576


def test_joined_mp3():
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    expected = np.concatenate([decode_audio(mp3()), decode_audio(mp3(OTHER)), decode_audio(mp3())])
    np.testing.assert_array_equal(both(mp3() + mp3(OTHER) + tag + mp3() + b"TAG" + bytes(125)), expected)


def test_a_large_tag_is_no_sound():
    """mpg123 counts it when it estimates the length of a file without a header."""
    frames = b"".join(mp3_frames(mp3(mode="CONSTANT"))[1:])
    tag = b"ID3\4\0\0" + bytes((0, 10, 0, 0)) + bytes(10 << 14)
    np.testing.assert_array_equal(both(tag + frames), both(frames))
    np.testing.assert_array_equal(both(tag + mp3()), both(mp3()))


# By PyAV ------------------------------------------------------------------------------------------------------------


def adts(samples: np.ndarray, rate: int = 44_100) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as output:
        stream = output.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def test_aac_has_no_stated_length(caplog):
    loud = np.tile(NOISE, 20)
    samples = np.concatenate([np.zeros_like(loud), loud]).astype(np.float32)
    decoded = both(adts(samples))
    assert len(decoded) / RATE == pytest.approx(len(samples) / 44_100, abs=0.1) and not caplog.records


def test_joined_aac_of_two_rates():
    decoded = both(adts(tone(1.0, 500.0, 44_100)) + adts(tone(1.0, 500.0, 32_000), 32_000))
    assert len(decoded) / RATE == pytest.approx(2.0, abs=0.15)
    assert np.argmax(np.abs(np.fft.rfft(decoded[-12_000:-2_000]))) * 1.6 == pytest.approx(500, abs=4)


def test_aac_that_was_cut_is_read_up_to_the_cut(caplog):
    decoded = both(adts(tone(2.0, 500.0, 44_100))[:-150])
    assert len(decoded) / RATE == pytest.approx(2.0, abs=0.15)
    (record,) = caplog.records
    assert record.getMessage().startswith("clip ends inside a frame, after 2.0")


@pytest.mark.parametrize("channels", [1, 2, 8, 9, 64])
def test_pyav_decodes_any_number_of_channels(channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (2_000, channels)).astype(np.float32)
    blocks = list(container_blocks(encoded(samples, subtype="FLOAT"), "clip", "a test"))
    assert {rate for rate, _ in blocks} == {RATE}
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), samples)
