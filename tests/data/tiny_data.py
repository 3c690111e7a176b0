"""Small generated datasets: tones with captions, a manifest, prepared records, a vocabulary."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config, source
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import Record, make_record, open_split
from slap_jax.data.tokenizer import Tokenizer, train_tokenizer

WORDS = ("low", "high", "soft", "loud", "short", "long", "tone", "buzz")


def tone(seconds: float, frequency: float = 440.0, rate: int = 16_000, amplitude: float = 0.5) -> np.ndarray:
    """Returns a sine, float32."""
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16_000, container: str = "WAV", subtype: str | None = None) -> bytes:
    """Returns an audio file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def tiny_captions(index: int) -> list[str]:
    """Returns two captions that differ between neighbouring clips."""
    first, second = WORDS[index % 8], WORDS[(index * 3 + 1) % 8]
    return [f"a {first} {second} number {index}", f"clip {index} is {second} and {first}"]


def tiny_record(index: int, seconds: float, name: str = "tiny") -> Record:
    """Returns a clip whose samples encode its index: sample n of clip i is 100 i + n mod 97."""
    samples = (100 * index + np.arange(round(seconds * 16_000)) % 97).astype(np.int16)
    return make_record(f"clip-{index}", samples, tiny_captions(index), labels=(f"parity={index % 2}",), source=name)


def durations(count: int, seed: int = 0, longest: float = 3.0) -> np.ndarray:
    """Returns log-normal durations of 0.1 s to `longest`, the last of them the longest."""
    seconds = np.clip(np.random.default_rng(seed).lognormal(-0.2, 0.7, count), 0.1, longest).round(3)
    seconds[-1] = longest
    return seconds


def tiny_dataset(directory: Path, count: int = 24, test_count: int = 6, name: str = "tiny") -> Path:
    """Prepares the splits `train` and `test`."""
    train = [tiny_record(i, seconds, name) for i, seconds in enumerate(durations(count))]
    test = [tiny_record(count + i, seconds, name) for i, seconds in enumerate(durations(test_count, seed=1))]
    splits = {"train": (count, train), "test": (test_count, test)}
    prepare_records(splits, directory, {"tiny": [name, count, test_count]}, log=lambda line: None)
    return directory


def tiny_tokenizer(directory: Path, count: int = 40) -> Tokenizer:
    """Trains a vocabulary on the captions of `tiny_dataset`."""
    captions = [caption for index in range(count) for caption in tiny_captions(index)]
    return train_tokenizer(captions, directory / "tokenizer.model", 80)


def tiny_config(path: Path, tokenizer: Tokenizer, **data: Any) -> ConfigDict:
    """Returns a config of rows of 2.56 s over one prepared dataset."""
    config = default_config()
    config.data.train.tiny = source(str(path), "train")
    config.data.tokenizer = tokenizer.path
    config.data.update(rows=8, columns=16, slots=4, text_tokens=96, max_seconds=2.56, max_caption_tokens=32)
    config.data.update(virtual_shards=4, packing_bins=3, decode_threads=2, prefetch=1)
    config.data.augment.update(lead_in_seconds=0.0, gain_db=0.0)  # tests compare rows with the stored samples
    config.data.update(data)
    return config


def write_manifest(directory: Path, lines: Sequence[Any], name: str = "manifest.jsonl") -> Path:
    """Writes a JSON lines manifest; strings are written verbatim, anything else as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def write_tone(path: Path, seconds: float = 0.25, **settings: Any) -> str:
    """Writes a WAV file and returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(tone(seconds, **settings)))
    return path.name


def damage_audio(directory: Path, split: str, clip_id: str) -> None:
    """Overwrites the end of a stored clip's FLAC with other bytes, as a bad disk would."""
    file = next(directory.glob(f"*/*/*-{split}.array_record-*"))
    audio = next(record.audio for record in open_split(directory, split) if record.id == clip_id)
    half = len(audio) // 2
    reader = ArrayRecordReader(str(file))
    stored = [data.replace(audio, audio[:half] + b"?" * (len(audio) - half)) for data in reader.read_all()]
    reader.close()
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for data in stored:
        writer.write(data)
    writer.close()
