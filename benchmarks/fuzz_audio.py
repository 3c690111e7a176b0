"""Decodes damaged audio files of 14 formats and compares what is decoded with FFmpeg.

Each file is a small recording with one seeded fault: bits are flipped in its header or anywhere, a size is replaced,
the end is cut off, bytes are inserted, zeroed or removed, it is joined with another file, or it gets tags or padding.
Worker processes decode the files. A worker that crashes, takes longer than the time limit or needs more than the memory
limit is a violation. So is any exception but `AudioError`, different samples in one piece and in blocks, or samples
that neither FFmpeg (by PyAV) returns for the same bytes nor the undamaged recording has, within the tolerance of the
codec.

Run: python benchmarks/fuzz_audio.py --files 2000 > fuzz_audio.json
The table is printed to stderr. Exits with 1 if there is a violation.
"""

import argparse
import collections
import dataclasses
import io
import json
import multiprocessing
import resource
import struct
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

import av
import numpy as np
import soundfile
import soxr
from machine import machine

COUNT = 48_000  # samples of a recording
MEMORY_LIMIT = 1 << 30  # bytes, above what an idle worker has
TIME_LIMIT = 20.0  # seconds a file; the longest takes far less
# Format -> soundfile's names, or FFmpeg's.
SOUND_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav_float": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
CONTAINERS = {"m4a": ("ipod", "aac"), "aac": ("adts", "aac"), "mkv": ("matroska", "aac")}
FORMATS = (*SOUND_FORMATS, *CONTAINERS)
LOSSLESS = frozenset(("wav", "wav_float", "rf64", "w64", "aiff", "caf", "au", "flac"))


# Files --------------------------------------------------------------------------------------------------------------


def recording(seed: int, channels: int) -> np.ndarray:
    """Returns noise of a changing level and two tones, float32 [n, channels]: no two parts of it are alike."""
    generator = np.random.default_rng(seed)
    position = np.arange(COUNT)
    level = np.interp(position, np.linspace(0, COUNT, 9), generator.uniform(0.02, 0.3, 9))
    tones: Any = sum(np.sin(2 * np.pi * frequency * position) for frequency in generator.uniform(0.005, 0.1, 2))
    noise = generator.standard_normal((COUNT, channels))
    return (level[:, None] * (0.4 * tones[:, None] + 0.3 * noise)).clip(-1, 1).astype(np.float32)


def encode(name: str, samples: np.ndarray) -> bytes:
    """Returns an intact file of the format."""
    buffer = io.BytesIO()
    rate = 48_000 if name == "opus" else 24_000  # FFmpeg decodes Opus at no other
    if name in SOUND_FORMATS:
        container, subtype = SOUND_FORMATS[name]
        soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
        return buffer.getvalue()
    container, codec = CONTAINERS[name]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A file with a fault.

    Attributes:
        format: key of `FORMATS`.
        fault: what was done to it.
        data: its bytes.
        whole: the intact files that it consists of; what is decoded may come from them even if FFmpeg stops before.
    """

    format: str
    fault: str
    data: bytes
    whole: tuple[bytes, ...]


FAULTS = ("header bits", "header bytes", "size", "cut", "bits", "insert", "remove", "zeros", "join", "tags", "pad")


def damaged(index: int, seed: int = 0) -> Damaged:
    """Returns file `index` of the benchmark."""
    generator = np.random.default_rng((seed, index))
    name = FORMATS[index % len(FORMATS)]
    fault = FAULTS[index // len(FORMATS) % len(FAULTS)]
    whole = encode(name, recording(index, int(generator.integers(1, 3))))
    data, wholes = bytearray(whole), (whole,)
    head = min(200, len(data))
    at = int(generator.integers(0, len(data)))
    match fault:
        case "header bits" | "bits":
            for _ in range(int(generator.integers(1, 6))):
                place = int(generator.integers(0, head if fault == "header bits" else len(data)))
                data[place] ^= 1 << int(generator.integers(0, 8))
        case "header bytes":
            place = int(generator.integers(0, head - 4))
            data[place : place + 4] = generator.bytes(4)
        case "size":
            _replace_size(data, generator)
        case "cut":
            del data[at:]
        case "insert":
            data[at:at] = generator.bytes(int(generator.integers(1, 3_000)))
        case "remove":
            del data[at : at + int(generator.integers(1, 3_000))]
        case "zeros":
            length = min(int(generator.integers(1, 3_000)), len(data) - at)
            data[at : at + length] = bytes(length)
        case "join":
            other = encode(name, recording(index + 1_000_000, int(generator.integers(1, 3))))
            data, wholes = data + other, (whole, other)
        case "tags":
            data = bytearray(b"ID3\4\0\0\0\0\2\0" + generator.bytes(256)) + data + b"TAG" + bytes(125)
        case "pad":
            data += bytes(int(generator.integers(1, 5_000)))
    return Damaged(name, fault, bytes(data), wholes)


def _replace_size(data: bytearray, generator: np.random.Generator) -> None:
    """Replaces one of the numbers in the header, in 4 or 8 bytes of either order, that could be a size or a count."""
    width = int(generator.choice([4, 8]))
    values = [0, 1, (1 << 8 * width) - 1, (1 << (8 * width - 1)) - 1, len(data), len(data) // 2, len(data) * 3, 1 << 31]
    plausible = [
        (place, order)
        for place in range(min(200, len(data)) - width)
        for order in ("<", ">")
        if len(data) // 4 <= struct.unpack_from(f"{order}{'I' if width == 4 else 'Q'}", data, place)[0] <= len(data) * 2
    ] or [(int(generator.integers(0, min(60, len(data) - width))), "<")]
    place, order = plausible[int(generator.integers(0, len(plausible)))]
    value = values[int(generator.integers(0, len(values)))]
    struct.pack_into(f"{order}{'I' if width == 4 else 'Q'}", data, place, value)


# Decoding -----------------------------------------------------------------------------------------------------------


def ffmpeg_samples(data: bytes) -> tuple[int, np.ndarray] | None:
    """Decodes all that FFmpeg finds, mean of the channels; packets that it cannot decode are left out."""
    pieces: list[np.ndarray] = []
    rate = 0
    try:
        container: Any
        with av.open(io.BytesIO(data)) as container:
            resampler, kind = av.AudioResampler(format="flt"), None
            for packet in container.demux(container.streams.audio[0]):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:  # type: ignore[attr-defined]
                    continue
                for frame in frames:
                    if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        resampler = av.AudioResampler(format="flt")
                    for converted in resampler.resample(frame):
                        mono = converted.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1)
                        rate = rate or frame.sample_rate
                        pieces.append(
                            mono if frame.sample_rate == rate else soxr.resample(mono, frame.sample_rate, rate)
                        )
    except Exception:  # FFmpeg refuses it
        pass
    return (rate, np.concatenate(pieces)) if pieces else None


def outcome(item: Damaged) -> dict[str, Any]:
    """Decodes a file in one piece and in blocks, and compares it with FFmpeg."""
    from slap_jax.data.audio import audio_blocks, decode_audio, stream_audio
    from slap_jax.data.decoding.errors import AudioError

    try:
        rate, blocks = audio_blocks(item.data, "file")
        own = np.concatenate(list(blocks))
        same = np.array_equal(decode_audio(item.data, rate), np.concatenate(list(stream_audio(item.data, rate))))
    except AudioError as error:
        if "memory" in str(error) or "malloc" in str(error):
            return {"outcome": "violation: more memory than the limit", "detail": str(error)[:200]}
        return {"outcome": f"refused: {error.reason}", "detail": str(error)[:200]}
    if not same:
        return {"outcome": "violation: blocks differ from one piece"}
    if not np.isfinite(own).all():
        return {"outcome": "violation: not finite"}
    wholes = [ffmpeg_samples(data) for data in item.whole]
    references = {"FFmpeg": ffmpeg_samples(item.data)}
    intact = [samples for _, samples in filter(None, wholes)]
    if intact:
        # Where FFmpeg refuses the file, a damaged rate is not compared.
        own_rate = wholes[0][0] if wholes[0] and references["FFmpeg"] else rate
        references["the intact file"] = own_rate, np.concatenate(intact)
    faults = []
    for name, reference in references.items():
        if reference is None:
            continue
        share = different_share(own, rate, *reference, lossless=item.format in LOSSLESS)
        missing = len(reference[1]) / reference[0] - len(own) / rate
        if share <= TOLERATED[item.fault] and missing <= SHORTER_SECONDS:
            return {"outcome": f"equals {name}"}
        faults.append(f"{share:.3f} differs from {name}, {missing:.2f} s are missing")
    kind = "other or too few samples" if faults else "decoded what FFmpeg refuses"
    detail = "; ".join([f"{len(own)} samples at {rate} Hz", *faults])
    return {"outcome": f"violation: {kind}", "detail": detail}


# Share of the blocks of 20 ms that may differ: decoders conceal damage, and trim the padding of encoders, differently.
TOLERATED = {
    **dict.fromkeys(FAULTS, 0.06),
    **dict.fromkeys(("bits", "insert", "remove", "zeros"), 0.25),
}
SHORTER_SECONDS = 0.15  # than what FFmpeg decodes, with the padding of encoders and damaged frames, which it may keep


def different_share(own: np.ndarray, rate: int, other_rate: int, other: np.ndarray, lossless: bool) -> float:
    """Returns the share of the blocks of 20 ms of `own` that `other` does not have at about the same place.

    Args:
        own: samples [n].
        rate: their rate in Hz.
        other_rate: rate of `other` in Hz.
        other: samples [m].
        lossless: whether samples must be equal.
    """
    if abs(other_rate - rate) > 1:  # AIFF states fractions of it
        other = soxr.resample(other, other_rate, rate)
    size = max(1, rate // 50)
    count = len(own) // size
    if count == 0 or len(other) == 0:
        return float(count > 0)
    own_blocks = own[: count * size].reshape(count, size)
    reach = abs(len(other) - len(own)) + (0 if lossless else 4 * size)  # the padding of encoders
    different = 0
    shift = 0
    for index, block in enumerate(own_blocks):
        energy = float(np.square(block).sum())
        if energy < size * 1e-8:
            continue
        close = other[max(0, index * size + shift) : max(0, (index + 1) * size + shift)]
        if _alike(block, close, energy, lossless):
            continue
        start = max(0, index * size - reach)
        window = other[start : (index + 1) * size + reach]
        place = _best_place(block, window)
        close = window[place : place + size] if place >= 0 else close
        if _alike(block, close, energy, lossless):
            shift = start + place - index * size
        else:
            different += 1
    return different / count


def _alike(block: np.ndarray, other: np.ndarray, energy: float, lossless: bool) -> bool:
    if len(other) < len(block):
        return False
    error = float(np.square(block - other).sum())
    return error < (1e-9 if lossless else 0.02) * energy + len(block) * 1e-10


def _best_place(block: np.ndarray, window: np.ndarray) -> int:
    """Returns where the window is closest to the block, or -1."""
    if len(window) < len(block):
        return -1
    size = 1 << (len(window) + len(block) - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(block, size)), size)
    energy = np.concatenate([[0.0], np.cumsum(np.square(window, dtype=np.float64))])
    places = len(window) - len(block) + 1
    return int(np.argmin(energy[len(block) :] - energy[:places] - 2 * correlation[:places]))


# Workers ------------------------------------------------------------------------------------------------------------


def _memory() -> int:
    """Returns the address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def work(pipe: Connection, seed: int) -> None:
    """Receives indices of files and sends their outcomes, within the memory limit."""
    import slap_jax.data.audio  # noqa: F401  (so that the limit counts only what the files need)

    outcome(damaged(0))
    outcome(damaged(len(FORMATS) - 1))
    limit = _memory() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send("ready")
    while (index := pipe.recv()) is not None:
        item = damaged(index, seed)
        try:
            result = outcome(item)
        except MemoryError:
            result = {"outcome": "violation: more memory than the limit"}
        except Exception as error:  # what the benchmark looks for
            result = {"outcome": f"violation: {type(error).__name__}", "detail": str(error)[:200]}
        pipe.send({"file": index, "format": item.format, "fault": item.fault, **result})


def run(files: int, seed: int = 0, log: Any = lambda line: None) -> list[dict[str, Any]]:
    """Returns the outcome of each file."""
    context = multiprocessing.get_context("spawn")
    results: list[dict[str, Any]] = []
    process, pipe = None, None
    for index in range(files):
        if process is None or pipe is None:
            pipe, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, seed), daemon=True)
            process.start()
            theirs.close()
            pipe.recv()
        pipe.send(index)
        try:
            result = pipe.recv() if pipe.poll(TIME_LIMIT) else "violation: longer than the time limit"
        except EOFError:
            process.join()
            result = f"violation: crash ({process.exitcode})"
        if isinstance(result, str):
            process.kill()
            process = None
            item = damaged(index, seed)
            result = {"file": index, "format": item.format, "fault": item.fault, "outcome": result}
        if result["outcome"].startswith("violation"):
            log(f"{result}")
        results.append(result)
    if process is not None and pipe is not None:
        pipe.send(None)
        process.join()
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Returns the numbers of outcomes of each format."""
    kinds = ("equals FFmpeg", "equals the intact file", "refused", "violation")
    lines = [f"{'format':<10}" + "".join(f"{kind:>24}" for kind in kinds)]
    for name in (*FORMATS, "all"):
        outcomes = [result["outcome"] for result in results if name in (result["format"], "all")]
        lines.append(f"{name:<10}" + "".join(f"{sum(o.startswith(kind) for o in outcomes):>24}" for kind in kinds))
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2_000, help="number of damaged files (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (default: 0)")
    arguments = parser.parse_args()
    began = time.perf_counter()
    results = run(arguments.files, arguments.seed, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(results), file=sys.stderr)
    refused = collections.Counter(
        (result["format"], result["fault"]) for result in results if result["outcome"].startswith("refused")
    )
    violations = [result for result in results if result["outcome"].startswith("violation")]
    summary = {
        "files": len(results),
        "seconds": round(time.perf_counter() - began, 1),
        "outcomes": dict(collections.Counter(result["outcome"] for result in results).most_common()),
        "refused": {f"{name}, {fault}": count for (name, fault), count in sorted(refused.items())},
        "violations": violations,
        "machine": machine("av", "soundfile", "soxr", "numpy"),
    }
    print(json.dumps(summary, indent=2))
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
