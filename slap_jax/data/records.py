"""Records: one clip in storage, and random access to the splits that `slap prepare` wrote.

Prepared data are a TFDS dataset in `array_record` format with one schema. TFDS itself is not imported here, because
that takes longer than everything else that a reader loads: the metadata come from `dataset_info.json`, and the shards
are read by `array_record`.
"""

import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from jaxtyping import Float, Int16

from slap_jax.data.audio import SAMPLE_RATE, decode_flac, encode_flac, to_int16
from slap_jax.data.example_proto import Example
from slap_jax.errors import UserError, require_path

DATASET = "slap_clips"  # name of datasets prepared from a collection without a name
SCHEMA_VERSION = "1.0.0"  # changes when older records can no longer be read

DATASET_INFO = "dataset_info.json"
SUMMARY = "slap_records.json"
INDEX = "index"
STAGING = ".staging"  # folder of unfinished preparations
ALL = "all"  # stands for every split
_MERGE = "+"

_FORMAT = "array_record"
_ONE_VALUE = ("id", "audio", "duration_s", "source", "caption_source", "licence")  # features that every record has
# TFDS's default, for datasets that state no template.
_FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MAX_OPEN_FILES = 65_536


class RecordsError(UserError, ValueError):
    """Prepared data or one of its splits is missing or damaged; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One clip as stored: its audio, its texts and where it comes from.

    Attributes:
        id: unique within `source`.
        audio: FLAC, 16 kHz, mono, 16 bits.
        duration_s: seconds.
        captions: best first; empty if the clip has only labels.
        labels: "key=value", or plain words.
        regions: (onset s, offset s, caption) of parts of the clip.
        source: the collection that the clip comes from.
        caption_source: who or what wrote the captions.
        licence: licence of the audio.
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
        waveform: 16 kHz mono, int16, or float with full scale 1.0.
        captions: best first.
        **fields: the other attributes of `Record`, except `audio` and `duration_s`.
    """
    samples = waveform if waveform.dtype == np.int16 else to_int16(waveform)
    return Record(
        id=id, audio=encode_flac(samples), duration_s=len(samples) / SAMPLE_RATE, captions=tuple(captions), **fields
    )


def encode_record(record: Record) -> bytes:
    """Serialises a record as the `tf.train.Example` that TFDS would write; equal records give equal bytes."""
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
        fields[name].bytes_list.SetInParent()  # TFDS expects empty lists too
        fields[name].bytes_list.value.extend(value.encode() for value in values)
    for name, values in numbers.items():
        fields[name].float_list.SetInParent()
        fields[name].float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def decode_record(data: bytes) -> Record:
    """Inverts `encode_record`, twenty times as fast as the TFDS feature decoder.

    Raises:
        RecordsError: the bytes are not a record of `slap prepare`.
    """
    try:
        fields = Example.FromString(data).features.feature
    except DecodeError as error:
        raise RecordsError(str(error)) from None
    missing = [name for name in _ONE_VALUE if name not in fields]
    if missing:
        raise RecordsError(f"it has no {', '.join(missing)}, so `slap prepare` did not write it")

    def texts(name: str) -> tuple[str, ...]:
        return tuple(value.decode() for value in fields[name].bytes_list.value)

    onsets, offsets = (fields[f"regions/{name}"].float_list.value for name in ("onset_s", "offset_s"))
    return Record(
        id=texts("id")[0],
        audio=fields["audio"].bytes_list.value[0],
        duration_s=fields["duration_s"].float_list.value[0],
        captions=texts("captions"),
        labels=texts("labels"),
        regions=tuple(zip(onsets, offsets, texts("regions/caption"), strict=True)),
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


def parse_dir_split(text: str) -> tuple[str, str]:
    """Splits "DIR:SPLIT", the form in which the command line names prepared data, at its last colon.

    Returns:
        The directory and the split, which is "" if none is named. A colon that is followed by a slash belongs to the
        directory, because no split contains a slash.

    Raises:
        UrlError: the directory is a URL.
    """
    require_path(text)
    directory, colon, split = text.rpartition(":")
    return (directory, split) if colon and "/" not in split else (text, "")


class Records(Sequence[Record]):
    """Random access to the records of a split, in the order of the collection. Safe to read from several threads.

    Attributes:
        path: directory of the dataset.
        split: name, or several joined by "+".
        fingerprint: short hash of the contents of the split.
    """

    def __init__(self, path: str, split: str, data_source: Sequence[bytes] | ArrayRecordDataSource, fingerprint: str):
        self.path = path
        self.split = split
        self.fingerprint = fingerprint
        self._data_source = data_source

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: Any) -> Any:
        """Reads one record; a slice returns a list of records."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = int(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)} in split {self.split!r} of {self.path}")
        try:
            return decode_record(self._data_source[position])
        except (RuntimeError, ValueError) as error:  # of array_record, of `decode_record`
            raise RecordsError(
                f"record {position} of split {self.split!r} of {self.path} cannot be read ({error}); copy the data "
                "again, or prepare them again"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A whole shard; the attributes are those that `ArrayRecordDataSource` expects."""

    filename: str
    take: int
    examples_in_shard: int
    skip: int = 0


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split as `dataset_info.json` states it."""

    shards: list[_Shard]
    num_bytes: int


def open_split(path: str | os.PathLike[str], split: str) -> Records:
    """Opens a split of prepared data. Reads the metadata and the sizes of the shards, but no record.

    Args:
        path: the output directory of `slap prepare`, or the directory inside it that holds `dataset_info.json`.
        split: a name of the manifest's `split` field, several, like "val+test", or "all".

    Raises:
        RecordsError: there are no prepared data, the split does not exist or is empty, or shards are missing or have
            another size than when they were written.
    """
    directory = dataset_directory(path)
    splits, names = _read_splits(directory), split_names(path, split)
    for name in names:
        _check_shards(directory, name, splits[name])
    shards: list[Any] = [shard for name in names for shard in splits[name].shards if shard.take]
    merged = _MERGE.join(names)
    if not shards:
        raise RecordsError(f"split {merged!r} of {path} has no clips; prepare it again, or name another split")
    _allow_open_files(len(shards))
    return Records(os.fspath(path), merged, ArrayRecordDataSource(shards), _fingerprint(directory, names))


def split_names(path: str | os.PathLike[str], split: str) -> list[str]:
    """Returns the splits named by "val+test"; "all" names every split.

    Raises:
        RecordsError: there are no prepared data, a split does not exist, or is named twice.
    """
    known = split_sizes(path)
    if split == ALL:
        return list(known)
    names = [name.strip() for name in split.split(_MERGE)]
    for name in names:
        if name not in known:
            advice = 'name one of them, or join several like "val+test"'
            if list(known) == ["train"]:
                advice = f"write train, val and test with `slap prepare SOURCE {path} --split 80/10/10`"
            raise RecordsError(f"{path} has no split {name!r}; it has {', '.join(known)}: {advice}")
    if len(set(names)) < len(names):
        raise RecordsError(f"split {split!r} names a split twice; name each once")
    return names


def split_sizes(path: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the number of clips of each split of prepared data."""
    splits = _read_splits(dataset_directory(path))
    return {name: sum(shard.take for shard in split.shards) for name, split in splits.items()}


def dataset_directory(path: str | os.PathLike[str]) -> Path:
    """Finds the directory of `dataset_info.json` at `path` or up to two levels below it (`<name>/<version>`).

    Raises:
        RecordsError: there is none, or more than one.
        UrlError: `path` is a URL.
    """
    root = Path(require_path(os.fspath(path)))
    if (root / DATASET_INFO).is_file():
        return root
    files = [file for pattern in ("*", "*/*") for file in sorted(root.glob(f"{pattern}/{DATASET_INFO}"))]
    hidden = [any(part.startswith(".") for part in file.relative_to(root).parts) for file in files]
    directories = [file.parent for file, is_hidden in zip(files, hidden, strict=True) if not is_hidden]
    if not directories:
        raise RecordsError(f"{path} {_instead_of_data(root)}")
    if len(directories) > 1:
        raise RecordsError(f"{path} holds several datasets; name one of: {', '.join(map(str, directories))}")
    return directories[0]


def _instead_of_data(root: Path) -> str:
    """Says what is at a path without prepared data, and what to do."""
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        return f"{state}; expected prepared data: write them with `slap prepare SOURCE {root}`"
    names = {child.name for child in root.iterdir()}
    if STAGING in names:
        return f"holds an unfinished preparation; repeat `slap prepare SOURCE {root}` to finish it"
    if not names:
        return f"is empty; expected prepared data: write them with `slap prepare SOURCE {root}`"
    # Often the sounds themselves, next to which no records belong.
    return f"holds no prepared data; if it holds audio or a manifest, give the OUTPUT of `slap prepare {root} OUTPUT`"


def read_dataset_info(directory: Path) -> dict[str, Any]:
    """Reads `dataset_info.json` (the JSON form of TFDS's `DatasetInfo`) in a directory of `dataset_directory`.

    Raises:
        RecordsError: the file is not the description of a dataset.
    """
    return _read_json(directory / DATASET_INFO, "name")


def split_summaries(directory: Path) -> dict[str, Any]:
    """Returns what `slap prepare` noted about each split; {} if another builder wrote the data.

    Raises:
        RecordsError: the file is damaged.
    """
    return records_summary(directory).get("splits", {})


def records_summary(directory: Path) -> dict[str, Any]:
    """Returns all that `slap prepare` noted about a dataset; {} if another builder wrote the data.

    Raises:
        RecordsError: the file is damaged.
    """
    file = directory / SUMMARY
    return _read_json(file, "splits") if file.is_file() else {}


def shard_name(dataset: str, split: str, number: int, count: int, template: str = _FILE_TEMPLATE) -> str:
    """Returns the file name of a shard, as TFDS expects it."""
    index, shards = f"{number:05d}", f"{count:05d}"
    return template.format(
        DATASET=dataset,
        SPLIT=split,
        FILEFORMAT=_FORMAT,
        SHARD_INDEX=index,
        NUM_SHARDS=shards,
        SHARD_X_OF_Y=f"{index}-of-{shards}",
    )


def _read_splits(directory: Path) -> dict[str, _Split]:
    info = read_dataset_info(directory)
    formats = [info.get("fileFormat", "unknown"), *info.get("alternativeFileFormats", ())]
    if _FORMAT not in formats:
        raise RecordsError(
            f"{directory} is a TFDS dataset in {' and '.join(formats)} format; expected {_FORMAT}: write it with "
            f"`slap prepare`, or by `download_and_prepare(file_format={_FORMAT!r})`"
        )
    splits = {}
    try:
        for split in info.get("splits", ()):
            name, lengths = split["name"], [int(length) for length in split.get("shardLengths", ())]
            template = split.get("filepathTemplate") or _FILE_TEMPLATE
            files = [shard_name(info["name"], name, number, len(lengths), template) for number in range(len(lengths))]
            shards = [_Shard(str(directory / file), n, n) for file, n in zip(files, lengths, strict=True)]
            splits[name] = _Split(shards, int(split.get("numBytes", 0)))
    except (LookupError, TypeError, ValueError) as error:
        raise RecordsError(
            f"{directory / DATASET_INFO} does not describe splits as TFDS does ({error!r}); copy the data again, or "
            "prepare them again"
        ) from None
    return splits


def _read_json(file: Path, key: str) -> dict[str, Any]:
    """Reads a JSON object that has a key."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordsError(f"{file} is not valid JSON ({error}); copy the data again, or prepare them again") from None
    if not isinstance(content, dict) or key not in content:
        raise RecordsError(f"{file} has no {key!r}, so it is damaged; copy the data again, or prepare them again")
    return content


def _check_shards(directory: Path, name: str, split: _Split) -> None:
    """Raises if a shard is missing, or if the total size of the shards has changed since they were written."""
    size = 0
    for shard in split.shards:
        try:
            size += os.path.getsize(shard.filename)
        except FileNotFoundError:
            raise RecordsError(
                f"{shard.filename} is missing, one of {len(split.shards)} shards of split {name!r}; copy the data "
                "again, or prepare them again"
            ) from None
    # Datasets without an index were written by other builders, which state the bytes of the records, not of the files.
    if (directory / INDEX).is_dir() and size != split.num_bytes:
        raise RecordsError(
            f"the shards of split {name!r} in {directory} hold {size} bytes; {split.num_bytes} were written: a file is "
            "truncated or was replaced; copy the data again, or prepare them again"
        )


def _allow_open_files(shards: int) -> None:
    """Raises the process's limit of open files as far as its user may, because every shard read from stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and shards > soft // 4:
        limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def _fingerprint(directory: Path, splits: Sequence[str]) -> str:
    """Hashes the digests of the splits' contents; of data that other builders wrote, the files' names and sizes."""
    digest = hashlib.blake2b(digest_size=8)
    summaries = split_summaries(directory)
    for split in splits:
        if split in summaries:
            digest.update(summaries[split]["digest"].encode())
            continue
        for file in sorted(directory.glob(f"*-{split}.array_record-*")):
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
