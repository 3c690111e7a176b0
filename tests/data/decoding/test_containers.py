"""Sound in containers is decoded, and a file of every suffix; other bytes and references are refused."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AUDIO_SUFFIXES, SOUND_SUFFIXES, AudioError, decode_audio, stream_audio
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
def test_sound_of_containers_is_aligned_and_mono(tmp_path, name):
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


def test_truncated_containers(tmp_path):
    path = container(tmp_path / "a.m4a", movflags="faststart")  # with its index first
    with av.open(str(path)) as opened:
        ends = [packet.pos + packet.size for packet in opened.demux(audio=0) if packet.pos is not None and packet.size]
    data = path.read_bytes()
    index_last = container(tmp_path / "b.m4a").read_bytes()
    for broken, reason in (
        (data[: ends[10]], "truncated_audio"),
        (data[: ends[10] + 20], "truncated_audio"),
        (index_last[: len(index_last) // 2], "unreadable_audio"),
    ):
        with pytest.raises(AudioError, match=r"upload is (truncated|not readable)") as caught:
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
def test_files_without_sound_or_with_references_are_refused(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_bytes(encoded(tone(0.1)))
    (tmp_path / "x.m4a").write_bytes(data)
    for source in ("x.m4a", data):
        with pytest.raises(AudioError, match="not readable"):
            decode_audio(source)


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_other_bytes_are_not_audio_whatever_the_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for data in (b"nothing", b"This is a text file.\n" * 100):
        path.write_bytes(data)
        with pytest.raises(AudioError, match=f"a{suffix} is not readable as audio") as caught:
            decode_audio(path)
        assert caught.value.reason == "unreadable_audio"


SOUND_FORMATS = {  # of suffixes that are not soundfile's name of the format
    **{"wave": "WAV", "bwf": "WAV", "aif": "AIFF", "aifc": "AIFF", "aiffc": "AIFF", "snd": "AU", "oga": "OGG"},
    **{"opus": "OGG", "sph": "NIST", "nist": "NIST", "mpga": "MP3", "8svx": "SVX"},
}
CONTAINERS = {  # suffix -> FFmpeg's format and codec
    **dict.fromkeys(("m4a", "m4b", "m4r"), ("ipod", "aac")),
    **dict.fromkeys(("mp4", "m4v", "f4a"), ("mp4", "aac")),
    **dict.fromkeys(("mov", "qt"), ("mov", "pcm_s16le")),
    **dict.fromkeys(("mkv", "mka"), ("matroska", "flac")),
    **dict.fromkeys(("webm", "weba"), ("webm", "libopus")),
    **dict.fromkeys(("wma", "asf", "wmv"), ("asf", "wmav2")),
    **dict.fromkeys(("avi", "divx"), ("avi", "mp3")),
    **dict.fromkeys(("mpg", "mpeg"), ("mpeg", "mp2")),
    **dict.fromkeys(("ts", "mts", "m2ts"), ("mpegts", "ac3")),
    **dict.fromkeys(("eac3", "ec3"), ("eac3", "eac3")),
    **{
        "aac": ("adts", "aac"),
        "f4v": ("f4v", "aac"),
        "flv": ("flv", "mp3"),
        "vob": ("vob", "ac3"),
        "mp2": ("mp2", "mp2"),
    },
    **{"3gp": ("3gp", "aac"), "3g2": ("3g2", "aac"), "ogv": ("ogv", "libopus"), "ogx": ("ogg", "flac")},
    **{"ac3": ("ac3", "ac3"), "wv": ("wv", "wavpack"), "tta": ("tta", "tta")},
}
AMR = Path(__file__).parents[2] / "golden" / "tone_of_300_hz.amr"  # not every build of FFmpeg has the encoder


def by_ffmpeg(path, kind, codec, rate=48_000):
    """Writes half a second of a tone of 300 Hz."""
    frame = av.AudioFrame.from_ndarray(tone(0.5, 300.0, rate)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    with av.open(str(path), "w", format=kind) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate, frame_size=context.frame_size or 1_024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_files_of_every_suffix_are_decoded(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix[1:] in CONTAINERS:
        by_ffmpeg(path, *CONTAINERS[suffix[1:]])
    elif suffix == ".amr":
        shutil.copy(AMR, path)
    else:
        kind = SOUND_FORMATS.get(suffix[1:], suffix[1:].upper())
        soundfile.write(
            path, tone(0.5, 300.0, 48_000), 48_000, format=kind, subtype="OPUS" if suffix == ".opus" else None
        )
    decoded = decode_audio(path)
    assert len(decoded) == pytest.approx(8_000, abs=1_000) and spectrum_peak(np.resize(decoded, 8_000)) == 300
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path))), decoded)
    assert suffix == suffix.lower() and AUDIO_SUFFIXES.count(suffix) == 1
    if suffix in SOUND_SUFFIXES and suffix != ".mp2":
        assert soundfile.info(path).samplerate == 48_000  # which the augmentation with noise files relies on
