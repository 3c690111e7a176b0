import io
import sys

import av
import numpy as np
import pytest

from slap_jax.data.audio import AudioError, decode_audio, encode_flac
from tests.data.tiny_data import encoded, tone

RATE = 48_000
STEREO = np.stack([tone(0.5, 300.0, RATE), tone(0.5, 2_000.0, RATE, 0.2)])


def container(path, video=False, **options):
    """Writes sound as FFmpeg does; the suffix of the path names the format."""
    with av.open(str(path), "w", options=options) as output:
        sound = output.add_stream("aac", rate=RATE, layout="stereo")
        pictures = output.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p") if video else None
        frame = av.AudioFrame.from_ndarray(STEREO, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        if pictures is not None:
            for _ in range(6):
                output.mux(pictures.encode(av.VideoFrame(32, 32, "yuv420p")))
            output.mux(pictures.encode(None))
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def spectrum_peak(samples):
    return int(np.argmax(np.abs(np.fft.rfft(samples[:8_000])))) * 2


@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.mov", "a.mkv", "a.avi", "a.wrong"])
def test_sound_is_decoded_at_its_place_in_mono(tmp_path, name):
    path = container(tmp_path / ("a.mp4" if name == "a.wrong" else name)).rename(tmp_path / name)
    decoded = decode_audio(path)
    assert decoded.dtype == np.float32 and abs(len(decoded) - 8_000) < 1_200
    assert spectrum_peak(decoded) == 300
    np.testing.assert_array_equal(decode_audio(path.read_bytes()), decoded)
    if name in ("a.m4a", "a.mov"):  # the others do not always say how much silence the encoder put before the sound
        expected = STEREO.mean(axis=0)[::3]
        assert np.corrcoef(decoded[:8_000], expected)[0, 1] > 0.99


def test_the_sound_of_a_video(tmp_path):
    decoded = decode_audio(container(tmp_path / "a.mp4", video=True))
    assert spectrum_peak(decoded) == 300


def test_a_video_without_sound(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        pictures = output.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        output.mux(pictures.encode(av.VideoFrame(32, 32, "yuv420p")))
        output.mux(pictures.encode(None))
    with pytest.raises(AudioError, match=r"a\.mp4 has no audio track") as caught:
        decode_audio(tmp_path / "a.mp4")
    assert caught.value.reason == "empty_audio"


def test_broken_off_containers(tmp_path):
    path = container(tmp_path / "a.m4a", movflags="faststart")  # with its index first
    with av.open(str(path)) as opened:
        ends = [packet.pos + packet.size for packet in opened.demux(audio=0) if packet.pos is not None and packet.size]
    data = path.read_bytes()
    index_last = container(tmp_path / "b.m4a").read_bytes()
    for broken, reason in (
        (data[: ends[10]], "truncated_audio"),
        (data[: ends[10] + 20], "unreadable_audio"),
        (index_last[: len(index_last) // 2], "unreadable_audio"),
    ):
        with pytest.raises(AudioError, match=r"upload is (broken off|not readable)") as caught:
            decode_audio(broken, name="upload")
        assert caught.value.reason == reason
    assert len(decode_audio(data[: ends[-1]])) == len(decode_audio(path))


@pytest.mark.parametrize(
    "data",
    [
        b"ffconcat version 1.0\nfile a.wav\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.wav\n#EXT-X-ENDLIST\n",
        b"<!DOCTYPE html><html><body>404</body></html>" * 30,
        b"\x89PNG\r\n\x1a\n" + bytes(3_000),
        np.random.default_rng(0).bytes(30_000),
    ],
    ids=["concat", "playlist", "html", "picture", "noise"],
)
def test_files_that_are_no_sound_or_name_other_files_are_refused(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_bytes(encoded(tone(0.1)))
    (tmp_path / "x.m4a").write_bytes(data)
    for source in ("x.m4a", data):
        with pytest.raises(AudioError, match="not readable"):
            decode_audio(source)


def test_damaged_sound_files_are_not_patched_up():
    data = bytearray(encode_flac(np.random.default_rng(0).integers(-3_000, 3_000, 16_000).astype(np.int16)))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    for damaged in (bytes(data), encoded(tone(0.5))[:30], bytes(data[50:])):
        with pytest.raises(AudioError, match="not readable") as caught:
            decode_audio(damaged)
        assert caught.value.reason == "unreadable_audio"


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = container(tmp_path / "a.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r'a\.m4a is not readable.*pip install "slap-jax\[video\]"') as caught:
        decode_audio(path)
    assert caught.value.reason == "unreadable_audio"
    assert len(decode_audio(io.BytesIO(encoded(tone(0.1))))) == 1_600
