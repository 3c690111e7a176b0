"""Measures how far the embedding of a sound moves when something changes that should not matter.

The changes are those between two copies of one sound: level, silence before it, codec, sample rate, layout of the
channels, and a cut. The measure is the cosine between the embeddings of a sound before and after the change, over
several sounds. It needs nothing but `embed_audio`, so it works with models of any family.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from slap_jax.data.audio import RESAMPLE_QUALITY, AudioError, decode_audio
from slap_jax.inference.audio_input import SILENT_PEAK, Audio, stream_item

Sound = Float[np.ndarray, " n"]
Pair = tuple[Float[np.ndarray, " n *channels"], int]  # samples and their rate, as `embed_audio` takes them

EXPECTED = 0.9  # median cosine below which `slap doctor` warns

_KINDS = ("tone", "noise", "chirp", "pulses", "harmonics", "clicks")
_VARIANTS = 3
_SECONDS = (1.0, 3.0)
_LONGEST_SECONDS = 10.0  # of a recording, of which the beginning is used
_PEAK = 0.2  # 14 dB below full scale, so that 12 dB more do not clip

_LEVELS = (-20, -12, -6, 6, 12)
_LEAD_INS = (10, 50, 150, 400, 1_200)
_RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)


@dataclasses.dataclass(frozen=True)
class Change:
    """Something that should not matter.

    Attributes:
        group: "level", "lead-in", "codec", "rate", "channels" or "cut".
        name: What is changed, with its unit.
        apply: (samples, sample rate) -> what `embed_audio` takes.
        expected: Median cosine below which the change is worth a warning; None if it removes much of the sound.
    """

    group: str
    name: str
    apply: Callable[[Sound, int], Pair]
    expected: float | None = EXPECTED


@dataclasses.dataclass(frozen=True)
class Invariance:
    """Cosine between the embeddings of sounds before and after one change.

    Attributes:
        group: As in `Change`.
        name: As in `Change`.
        median: Over the sounds.
        least: Over the sounds.
        expected: As in `Change`.
    """

    group: str
    name: str
    median: float
    least: float
    expected: float | None


def changes(sample_rate: int) -> list[Change]:
    """Lists the changes to sounds of one sample rate, in Hz."""
    levels = [
        Change("level", f"{decibels:+d} dB", functools.partial(_gain, decibels), EXPECTED if decibels > -20 else None)
        for decibels in _LEVELS
    ]
    lead_ins = [Change("lead-in", f"{ms} ms of silence", functools.partial(_lead_in, ms)) for ms in _LEAD_INS]
    codecs = [
        Change("codec", "WAV, 16 bits", functools.partial(_encode, dict(format="WAV", subtype="PCM_16"))),
        Change("codec", "MP3, 64 kbit/s", _mp3),
        Change("codec", "Ogg Vorbis", functools.partial(_encode, dict(format="OGG", subtype="VORBIS"))),
        Change("codec", "Opus", _opus),
    ]
    rates = [
        # 8 kHz removes the upper half of the spectrum.
        Change("rate", f"{rate} Hz", functools.partial(_resample, rate), EXPECTED if rate >= 16_000 else None)
        for rate in _RATES
        if rate != sample_rate
    ]
    channels = [
        Change("channels", "two equal", lambda samples, rate: (np.stack([samples, samples], axis=1), rate)),
        Change("channels", "one of two silent", lambda samples, rate: (np.stack([samples, 0 * samples], axis=1), rate)),
    ]
    cuts = [Change("cut", f"first {percent} %", functools.partial(_first, percent), None) for percent in (50, 25)]
    return [*levels, *lead_ins, *codecs, *rates, *channels, *cuts]


def measure_invariance(
    embed_audio: Callable[[list[Pair]], Float[np.ndarray, "n E"]], sounds: Sequence[Sound], sample_rate: int
) -> list[Invariance]:
    """Measures every change over the sounds that it leaves audible.

    Args:
        embed_audio: Maps a list of pairs (samples, sample rate) to unit vectors.
        sounds: Mono float32 samples, none of them silent.
        sample_rate: Sample rate of the sounds, in Hz: that of the model, so that only the changes of rate resample.
    """
    reference = embed_audio([(samples, sample_rate) for samples in sounds])
    measured = []
    for change in changes(sample_rate):
        changed = [change.apply(samples, sample_rate) for samples in sounds]
        # A quiet sound, or one that begins with silence, may be silent afterwards; some models refuse silence.
        audible = [number for number, (samples, _) in enumerate(changed) if np.abs(samples).max() >= SILENT_PEAK]
        if not audible:
            continue
        vectors = embed_audio([changed[number] for number in audible])
        cosine = np.sum(reference[audible] * vectors, axis=1, dtype=np.float64)
        measured.append(
            Invariance(change.group, change.name, float(np.median(cosine)), float(cosine.min()), change.expected)
        )
    return measured


def invariance_table(measured: Sequence[Invariance]) -> Iterator[str]:
    """Formats the measurements as lines of a table."""
    yield f"{'a sound and itself after a change':<36}{'median':>10}{'least':>10}"
    for item in measured:
        mark = "" if item.expected is None or item.median >= item.expected else f"  below {item.expected:g}"
        yield f"{item.group:<12}{item.name:<24}{item.median:>10.4f}{item.least:>10.4f}{mark}"


def built_in_sounds(sample_rate: int) -> list[Sound]:
    """Returns 18 sounds of 1 to 3 s that never change: tones, noises, chirps, pulses, harmonics and clicks, dying away.

    Args:
        sample_rate: Sample rate, in Hz.

    Returns:
        Mono samples with a peak of 0.2.
    """
    return [
        _sound(kind, number, variant, sample_rate) for number, kind in enumerate(_KINDS) for variant in range(_VARIANTS)
    ]


def beginning(recording: Audio, sample_rate: int) -> Sound:
    """Reads the first 10 s of a recording.

    Args:
        recording: As for `embed_audio`.
        sample_rate: Sample rate of the result, in Hz.

    Raises:
        AudioError: The recording is unreadable, or its beginning is silent.
    """
    blocks, samples, needed = [], 0, round(_LONGEST_SECONDS * sample_rate)
    for block in stream_item(recording, sample_rate):
        blocks.append(block)
        samples += len(block)
        if samples >= needed:
            break
    sound = np.concatenate(blocks)[:needed]
    if float(np.abs(sound).max()) < SILENT_PEAK:
        raise AudioError(
            f"{recording if isinstance(recording, str) else 'the recording'} is silent for the first "
            f"{_LONGEST_SECONDS:g} s; leave it out",
            "silent_audio",
        )
    return sound


def _sound(kind: str, number: int, variant: int, rate: int) -> Sound:
    # The stream of RandomState is frozen; that of default_rng may change between NumPy versions.
    random = np.random.RandomState(10 * number + variant)
    time = np.arange(round(random.uniform(*_SECONDS) * rate)) / rate
    pitch = 200.0 * 2.0 ** (variant + random.uniform(0.0, 0.8))
    noise = random.standard_normal(len(time))
    waveform = {
        "tone": lambda: np.sin(2 * np.pi * pitch * time),
        "noise": lambda: np.convolve(noise, np.ones(1 + 6 * variant), mode="same"),  # white, then ever darker
        "chirp": lambda: np.sin(2 * np.pi * (pitch * time + (-1) ** variant * 0.3 * pitch * time**2)),
        "pulses": lambda: noise * (np.sin(2 * np.pi * (2.0 + 2.0 * variant) * time) > 0),
        "harmonics": lambda: sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 6)),
        "clicks": lambda: noise * np.exp(-60.0 * (time % (0.15 * (1 + variant)))),
    }[kind]()
    waveform = waveform * np.exp(-time * random.uniform(0.0, 1.5))
    edge = min(round(0.005 * rate), len(time) // 2)
    waveform[-edge:] *= np.linspace(1.0, 0.0, edge)
    return (_PEAK * waveform / np.max(np.abs(waveform))).astype(np.float32)


def _gain(decibels: int, samples: Sound, rate: int) -> Pair:
    return samples * np.float32(10.0 ** (decibels / 20.0)), rate


def _lead_in(milliseconds: int, samples: Sound, rate: int) -> Pair:
    return np.concatenate([np.zeros(rate * milliseconds // 1_000, np.float32), samples]), rate


def _first(percent: int, samples: Sound, rate: int) -> Pair:
    return samples[: max(1, len(samples) * percent // 100)], rate


def _resample(rate: int, samples: Sound, own_rate: int) -> Pair:
    return soxr.resample(samples, own_rate, rate, quality=RESAMPLE_QUALITY), rate


def _encode(settings: Mapping[str, Any], samples: Sound, rate: int) -> Pair:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **settings)
    return decode_audio(buffer.getvalue(), rate), rate


def _mp3(samples: Sound, rate: int) -> Pair:
    # libsndfile maps 0 to 1 to the bit rates of the standard: 160 to 8 kbit/s up to 24 kHz, 320 to 32 kbit/s above.
    level = 0.6 if rate <= 24_000 else 0.89
    settings = dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=level)
    return _encode(settings, samples, rate)


def _opus(samples: Sound, rate: int) -> Pair:
    if rate not in _OPUS_RATES:
        samples, rate = _resample(48_000, samples, rate)
    return _encode(dict(format="OGG", subtype="OPUS"), samples, rate)
