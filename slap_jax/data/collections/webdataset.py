"""WebDataset tars in LAION's layout: `<key>.flac` (or another audio file) with `<key>.json`, `<key>.txt`, or both.

Files named by a pattern: braces as the shell has them ("{000..099}", "{a,b}"), and wildcards ("*").

The files inside a tar, found by its headers alone.
"""

import dataclasses
import glob
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import ArchiveMember, Entry, Rejection
from slap_jax.data.collections.fields import (
    LONGEST_TEXT,
    PLAIN_FIELDS,
    CollectionError,
    RejectedClip,
    caption_columns,
    caption_lines,
    caption_texts,
    label_columns,
    label_texts,
    make_entry,
    parse_object,
    some_clips,
    split_name,
    split_of_shard,
    text_field,
)
from slap_jax.data.collections.folders import walk_files
from slap_jax.errors import UserError

_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MEMBER_SUFFIXES = frozenset((*AUDIO_SUFFIXES, ".json", ".txt"))


@dataclasses.dataclass
class _Sample:
    """The members of one key, as far as they were found.

    Attributes:
        key: the members' path up to the first dot of the file's name.
        audio: the audio member.
        texts: ".json" and ".txt" -> their contents.
        repeated: name of a member that comes second where only one may be, or "".
    """

    key: str
    audio: ArchiveMember | None = None
    texts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    repeated: str = ""

    def is_whole(self) -> bool:
        return self.audio is not None and bool(self.texts)


def is_tar(name: str) -> bool:
    """Tells by the name whether a file is a tar, compressed or not."""
    return name.lower().endswith((".tar", *_COMPRESSED_SUFFIXES))


class WebDataset:
    """The samples of a set of tars.

    Attributes:
        name: `source` of the clips.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        name: str = "",
        *,
        split: str = "",
        caption_columns: Sequence[str] = (),
        label_columns: Sequence[str] = (),
    ):
        """Reads nothing but the first bytes of each tar.

        Args:
            source: a tar, a folder with tars at any depth, or a pattern like "shards/{000..099}.tar" or "*/*.tar".
            name: of the collection; that of the tars' folder by default.
            split: of all clips; by default told by the names of folders and tars.
            caption_columns: keys of the JSON that hold captions, best first; by default told by their names.
            label_columns: keys of the JSON that hold labels; likewise.

        Raises:
            CollectionError: a tar is missing, compressed or cannot be read.
        """
        self._source = source
        self._archives: list[PurePosixPath | Rejection]
        pattern = os.fspath(source)
        if is_pattern(pattern) and not Path(pattern).exists():
            self.root = folder_of_pattern(pattern)
            self._archives = [PurePosixPath(file.relative_to(self.root)) for file in files_of_pattern(pattern)]
        elif Path(source).is_dir():
            self.root = Path(source)
            self._archives = [
                found for found in walk_files(self.root) if isinstance(found, Rejection) or is_tar(found.name)
            ]
        else:
            self.root = Path(source).parent
            self._archives = [PurePosixPath(Path(source).name)]
        for archive in self._archives:
            if isinstance(archive, PurePosixPath):
                _check(self.root / archive)
        self.name = name or self.root.resolve().name
        self._split = split
        self._captions, self._labels = caption_columns, label_columns

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the samples tar by tar; a tar that is damaged is one rejection after its good samples.

        Raises:
            CollectionError: there are none.
        """
        return some_clips(self._entries(), self._source)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for archive in self._archives:
            if isinstance(archive, Rejection):
                yield archive
                continue
            try:
                with (self.root / archive).open("rb") as file:
                    for sample in _samples(self.root / archive, file):
                        yield self._entry(sample, archive)
            except ArchiveError as error:
                detail = f"{self.root / archive}: {error}; copy it again"
                yield Rejection(str(archive), "", "damaged_archive", detail)

    def _entry(self, sample: _Sample, archive: PurePosixPath) -> Entry | Rejection:
        # Keys are often numbers that start anew in each tar.
        id = f"{archive.with_suffix('')}/{sample.key}"
        where = f"{archive}/{sample.key}"
        try:
            if sample.repeated:
                raise RejectedClip(
                    "duplicate_key", f"the key has two members {sample.repeated}; a key ends at its name's first dot"
                )
            if sample.audio is None:
                raise RejectedClip("missing_audio", "there is a .json or .txt, but no audio of the key in the tar")
            fields = self._fields(sample)
            split = self._split or split_name(text_field(fields, "split")) or split_of_shard(archive)
            return make_entry(
                {**fields, "split": split}, sample.audio, id=id, split=split, source=self.name, where=where
            )
        except RejectedClip as rejected:
            return rejected.at(where, id)

    def _fields(self, sample: _Sample) -> dict[str, Any]:
        """Brings the JSON's keys to those of manifests."""
        if not sample.texts:
            raise RejectedClip("missing_caption", "there is audio, but neither .json nor .txt of the key in the tar")
        found: dict[str, Any] = {}
        if ".json" in sample.texts:
            found = parse_object(sample.texts[".json"], f"{sample.key}.json")
        fields = {name: found[name] for name in (*PLAIN_FIELDS, "split") if name in found}
        original = found.get("original_data")
        if isinstance(original, dict) and isinstance(original.get("license"), str):
            fields.setdefault("license", original["license"])
        captions = self._captions or caption_columns(found)
        if any(name in found for name in captions):
            fields["captions"] = caption_texts(captions, found)
        if not fields.get("captions") and ".txt" in sample.texts:
            fields["captions"] = caption_lines(sample.texts[".txt"], f"{sample.key}.txt")
        fields["labels"] = [
            label for name in self._labels or label_columns(found) for label in label_texts(name, found.get(name))
        ]
        return fields


def _samples(path: Path, archive: BinaryIO) -> Iterator[_Sample]:
    """Gathers members by key.

    A sample is given when the next key starts, as the format has it. One that is not whole by then waits for the tar's
    end, so that tars whose members are in another order are read too.
    """
    waiting: dict[str, _Sample] = {}
    current: _Sample | None = None
    problem: ArchiveError | None = None
    try:
        for member in tar_members(archive):
            key, suffix = _key_and_suffix(member.name)
            if suffix not in _MEMBER_SUFFIXES:
                continue
            if current is None or current.key != key:
                if current is not None and current.is_whole():
                    yield waiting.pop(current.key)
                current = waiting.setdefault(key, _Sample(key))
            is_audio = suffix in AUDIO_SUFFIXES
            if current.audio is not None if is_audio else suffix in current.texts:
                current.repeated = member.name
            elif is_audio:
                current.audio = ArchiveMember(path, member.name, member.offset_data, member.size)
            else:
                archive.seek(member.offset_data)
                current.texts[suffix] = archive.read(min(member.size, LONGEST_TEXT + 1))
    except ArchiveError as error:
        problem = error
    for sample in waiting.values():
        # Where the tar is broken off, the rest of its last sample is simply not there.
        if problem is None or sample is not current or sample.is_whole():
            yield sample
    if problem is not None:
        raise problem


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Cuts a member's path at the first dot of the file's name; of hidden files nothing is wanted.

    With text alone, because `pathlib` keeps every name that it has seen in memory (Python 3.12).
    """
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, rest = file.partition(".")
    return f"{folder}{slash}{key}", f".{rest.rpartition('.')[2].lower()}" if key else ""


def _check(path: Path) -> None:
    if not path.is_file():
        raise CollectionError(f"{path} is missing; expected a tar")
    try:
        program = compression(path)
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error.strerror}); correct its permissions") from error
    if program:
        raise CollectionError(
            f"{path} is compressed with {program}, so no member can be read by itself; unpack it first: "
            f"`{program} -d {path}` (audio gains nothing from it)"
        )


_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPECIAL = re.compile(r"[{*?\[]")
_MOST_FILES = 1_000_000


def is_pattern(name: str) -> bool:
    """Tells whether a name has braces or wildcards."""
    return _SPECIAL.search(name) is not None


def files_of_pattern(pattern: str) -> list[Path]:
    """Returns the files that a pattern names: braces in their order, wildcards sorted.

    Raises:
        CollectionError: a file that braces name is missing, nothing matches a wildcard, or there are far too many.
    """
    names = list(itertools.islice(expand_braces(pattern), _MOST_FILES + 1))
    if len(names) > _MOST_FILES:
        raise CollectionError(f"{pattern} names more than {_MOST_FILES} files; name their folder instead")
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        files = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        present = [Path(file) for file in files if os.path.isfile(file)]
        found.extend(present)
        if not present:
            missing.append(name)
    if missing:
        raise CollectionError(
            f"{pattern} names files of which {len(missing)} are missing, the first of them {missing[0]}; "
            "correct the pattern, or copy them"
        )
    return found


def folder_of_pattern(pattern: str) -> Path:
    """Returns the folder that all files of a pattern are in: what comes before its first special character."""
    special = _SPECIAL.search(pattern)
    return Path(pattern[: special.start()] + "x").parent if special else Path(pattern).parent


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands "a{1..3}b" and "a{x,y}b"; the numbers of a range keep their leading zeros."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    for choice in _choices(braces[1]):
        yield from expand_braces(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = numbers[1], numbers[2]
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield str(number).zfill(width)


_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ArchiveError(UserError, ValueError):
    """A tar that is damaged or broken off."""


def compression(path: Path) -> str:
    """Returns the program that a file was compressed with, "" if it was not."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((program for magic, program in _COMPRESSED.items() if start.startswith(magic)), "")


def tar_members(archive: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Lists the regular files of an uncompressed tar whose bytes are all there.

    Args:
        archive: open at its start; its position may be moved while the members are listed.

    Raises:
        ArchiveError: after the good members, the archive is damaged or broken off.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    offset = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            while True:
                archive.seek(offset)
                # Iteration over the tar would keep all headers in memory, and end without a word where one is damaged.
                member = tarfile.TarInfo.fromtarfile(tar)
                offset = tar.offset
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise ArchiveError(f"it is broken off inside {member.name}, after {size} bytes")
                yield member
    except tarfile.TarError as error:
        archive.seek(offset)
        if archive.read(_BLOCK) != bytes(_BLOCK):  # which ends a tar that is not broken off
            raise ArchiveError(f"it is damaged or broken off ({error})") from error
