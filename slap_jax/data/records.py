"""Records: what one clip is in storage, and random access to the splits that `slap prepare` wrote."""

import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int16
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from slap_jax.data.audio import SAMPLE_RATE, decode_flac, encode_flac, to_int16
from slap_jax.errors import UserError, require_path

# Name of data sets that have none of their own.
DATASET = "slap_clips"
# Changes when records of an older version could no longer be read.
SCHEMA_VERSION = "1.0.0"

DATASET_INFO = "dataset_info.json"
SUMMARY = "slap_records.json"
INDEX = "index"
ALL = "all"
_MERGE = "+"
_MOST_OPEN_FILES = 65_536


class RecordsError(UserError, ValueError):
    """Prepared data that is missing or has no such split; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One clip as stored: audio, what is said about it, and where it comes from.

    Attributes:
        id: unique within `source`.
        audio: FLAC, 16 kHz, mono, 16 bits.
        duration_s: seconds.
        captions: best first; none where there are only labels.
        labels: "key=value", or plain words.
        regions: (onset s, offset s, caption) of parts of the clip.
        source: the collection that the clip comes from.
        caption_source: who or what wrote the captions.
        licence: of the audio.
    """

    id: str
    audio: bytes = dataclasses.field(repr=False)
    duration_s: float
    captions: tuple[str, ...]
    labels: tuple[str, ...] = ()
    regions: tuple[tuple[float, float, str], ...] = ()
    source: str = ""
    caption_source: str = ""
    licence: str = ""

    @property
    def key(self) -> int:
        """Stable int32 of the recording; see `clip_key`."""
        return clip_key(self.source, self.id)

    def waveform(self) -> Int16[np.ndarray, " n"]:
        """Decodes the audio, 16 kHz mono.

        Raises:
            AudioError: the stored bytes are damaged.
        """
        return decode_flac(self.audio, f"record {self.source}/{self.id}")


def make_record(
    id: str, waveform: Int16[np.ndarray, " n"] | Float[np.ndarray, " n"], captions: Sequence[str], **fields: Any
) -> Record:
    """Builds a record from samples.

    Args:
        id: unique within the source.
        waveform: 16 kHz mono, int16 or float of full scale 1.0.
        captions: best first.
        **fields: the other attributes of `Record`, except `audio` and `duration_s`.
    """
    samples = waveform if waveform.dtype == np.int16 else to_int16(waveform)
    return Record(
        id=id, audio=encode_flac(samples), duration_s=len(samples) / SAMPLE_RATE, captions=tuple(captions), **fields
    )


def encode_record(record: Record) -> bytes:
    """Serialises a record as the `tf.train.Example` that TFDS makes of the one schema; equal records, equal bytes."""
    texts = {
        "id": (record.id,),
        "captions": record.captions,
        "labels": record.labels,
        "regions/caption": tuple(caption for _, _, caption in record.regions),
        "source": (record.source,),
        "caption_source": (record.caption_source,),
        "licence": (record.licence,),
    }
    numbers = {
        "duration_s": (record.duration_s,),
        "regions/onset_s": tuple(onset for onset, _, _ in record.regions),
        "regions/offset_s": tuple(offset for _, offset, _ in record.regions),
    }
    example = Example()
    fields = example.features.feature
    fields["audio"].bytes_list.value.append(record.audio)
    for name, values in texts.items():
        fields[name].bytes_list.SetInParent()  # an empty list is written too
        fields[name].bytes_list.value.extend(value.encode() for value in values)
    for name, values in numbers.items():
        fields[name].float_list.SetInParent()
        fields[name].float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def decode_record(data: bytes) -> Record:
    """Inverts `encode_record`, twenty times as fast as the TFDS feature decoder."""
    fields = Example.FromString(data).features.feature

    def texts(name: str) -> tuple[str, ...]:
        return tuple(value.decode() for value in fields[name].bytes_list.value)

    return Record(
        id=texts("id")[0],
        audio=fields["audio"].bytes_list.value[0],
        duration_s=fields["duration_s"].float_list.value[0],
        captions=texts("captions"),
        labels=texts("labels"),
        regions=tuple(
            zip(
                fields["regions/onset_s"].float_list.value,
                fields["regions/offset_s"].float_list.value,
                texts("regions/caption"),
                strict=True,
            )
        ),
        source=texts("source")[0],
        caption_source=texts("caption_source")[0],
        licence=texts("licence")[0],
    )


def full_id(source: str, clip_id: str) -> str:
    """Returns "source/id" with "%2F" for each "/" and "%25" for each "%" of the source.

    The escapes keep ("a", "b/c") and ("a/b", "c") apart. A source without either character is unchanged, so the hashes
    in data that older versions prepared stay valid for it.
    """
    return f"{source.replace('%', '%25').replace('/', '%2F')}/{clip_id}"


def clip_key(source: str, clip_id: str) -> int:
    """Returns a stable int32 of `full_id`: clips with equal keys are the same recording."""
    digest = hashlib.blake2b(full_id(source, clip_id).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)


def parse_label(label: str) -> tuple[str | None, str]:
    """Splits a label "key=value" at its first "=" into (key, value); a plain word has no key: (None, word)."""
    key, is_pair, value = label.partition("=")
    return (key, value) if is_pair else (None, label)


def label_values(labels: Iterable[str], key: str) -> list[str]:
    """Returns the distinct values of the labels "key=value" of one clip, in their order."""
    return list(dict.fromkeys(value for name, value in map(parse_label, labels) if name == key))


def label_keys(clips: Iterable[Iterable[str]]) -> list[str]:
    """Returns the distinct keys of the labels "key=value" of several clips, in alphabetical order."""
    return sorted({key for labels in clips for key, _ in map(parse_label, labels) if key is not None})


def parse_dir_split(text: str) -> tuple[str, str]:
    """Splits "DIR:SPLIT", the form in which the command line names prepared data, at its last colon.

    Returns:
        The directory, and the split ("" if none is named: the caller has a default, or raises). A colon that is
        followed by a slash belongs to the directory, because no split contains a slash.

    Raises:
        UrlError: the directory is a URL.
    """
    require_path(text)
    directory, colon, split = text.rpartition(":")
    return (directory, split) if colon and "/" not in split else (text, "")


class Records(Sequence[Record]):
    """Random access to the records of a split, in the order of the manifest. Safe to read from several threads.

    Attributes:
        path: directory of the data set.
        split: name, or several joined by "+".
        fingerprint: short hash of what the split holds.
    """

    def __init__(self, path: str, split: str, data_source: Any, fingerprint: str):
        self.path = path
        self.split = split
        self.fingerprint = fingerprint
        self._data_source = data_source

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: Any) -> Any:
        """Reads one record; a slice gives a list of records."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = int(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)} in split {self.split!r} of {self.path}")
        try:
            data = self._data_source[position]
        except RuntimeError as error:
            raise RecordsError(
                f"record {position} of split {self.split!r} of {self.path} cannot be read ({error}); copy the data "
                "again, or prepare them again"
            ) from error
        return decode_record(data)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


def open_split(path: str | os.PathLike[str], split: str) -> Records:
    """Opens a split of prepared data; reads only the index.

    Args:
        path: the directory given to `slap prepare` as output, or the one inside that holds `dataset_info.json`.
        split: a name of the manifest's `split` field, several, like "val+test", or "all".

    Raises:
        RecordsError: no prepared data there, no such split, or shards that are missing or have another size.
    """
    directory = dataset_directory(path)
    names = split_names(path, split)
    builder = tfds.builder_from_directory(os.fspath(directory))
    for name in names:
        _check_shards(directory, name, builder.info.splits[name])
    _allow_open_files(sum(len(builder.info.splits[name].shard_lengths) for name in names))
    merged = _MERGE.join(names)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(merged, deserialize_method=raw)  # pyright: ignore[reportCallIssue]
    return Records(os.fspath(path), merged, source, _fingerprint(directory, names))


def _check_shards(directory: Path, split: str, info: Any) -> None:
    """Raises if a shard is missing, or if the shards together are not as long as they were when they were written."""
    found = 0
    for name in info.filenames:
        try:
            found += (directory / name).stat().st_size
        except FileNotFoundError:
            raise RecordsError(
                f"{directory / name} is missing, one of {len(info.shard_lengths)} shards of split {split!r}; copy the "
                "data again, or prepare them again"
            ) from None
    written = int(info.num_bytes)
    # Data sets without an index were written by other builders, which state the bytes of the records, not of the files.
    if (directory / INDEX).is_dir() and found != written:
        raise RecordsError(
            f"the shards of split {split!r} in {directory} hold {found} bytes; {written} were written: a file is cut "
            "off or was exchanged; copy the data again, or prepare them again"
        )


def split_names(path: str | os.PathLike[str], split: str) -> list[str]:
    """Returns the names in "val+test", each of them a split of prepared data; "all" names every split.

    Raises:
        RecordsError: no prepared data there, no such split, or one that is named twice.
    """
    sizes = split_sizes(path)
    if split == ALL:
        return list(sizes)
    names = [name.strip() for name in split.split(_MERGE)]
    for name in names:
        if name not in sizes:
            raise RecordsError(
                f"{path} has no split {name!r}; it has {', '.join(sizes)}: name one of them, "
                'or join several like "val+test"'
            )
    if len(set(names)) < len(names):
        raise RecordsError(f"split {split!r} names a split twice; name each once")
    return names


def split_sizes(path: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the number of clips of each split of prepared data."""
    info = tfds.builder_from_directory(os.fspath(dataset_directory(path))).info
    return {name: split.num_examples for name, split in info.splits.items()}


def dataset_directory(path: str | os.PathLike[str]) -> Path:
    """Finds the directory of `dataset_info.json` at `path` or up to two levels below it (`<name>/<version>`).

    Raises:
        RecordsError: none, or more than one.
        UrlError: `path` is a URL.
    """
    root = Path(require_path(os.fspath(path)))
    if (root / DATASET_INFO).is_file():
        return root
    found = [file.parent for pattern in ("*/", "*/*/") for file in sorted(root.glob(pattern + DATASET_INFO))]
    found = [
        directory for directory in found if not any(part.startswith(".") for part in directory.relative_to(root).parts)
    ]
    if not found:
        state = "holds no prepared data" if root.exists() else "does not exist"
        raise RecordsError(f"{path} {state}; write it with `slap prepare MANIFEST {path}`")
    if len(found) > 1:
        raise RecordsError(f"{path} holds several data sets; name one of: {', '.join(map(str, found))}")
    return found[0]


def _allow_open_files(shards: int) -> None:
    """Raises the process's limit of open files as far as its user may, because every shard read from stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and shards > soft // 4:
        most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def shard_name(dataset: str, split: str, number: int, count: int) -> str:
    """Returns the file name of a shard, as TFDS expects it."""
    return f"{dataset}-{split}.array_record-{number:05d}-of-{count:05d}"


def _fingerprint(directory: Path, splits: Sequence[str]) -> str:
    """Hashes the digests of the splits' contents; of data that other builders wrote, the files' names and sizes."""
    digest = hashlib.blake2b(digest_size=8)
    summary = directory / SUMMARY
    contents = json.loads(summary.read_text())["splits"] if summary.is_file() else {}
    for split in splits:
        if split in contents:
            digest.update(contents[split]["digest"].encode())
            continue
        for file in sorted(directory.glob(f"*-{split}.array_record-*")):
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
