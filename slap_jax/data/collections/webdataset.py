"""WebDataset tars in LAION's layout: `<key>.flac` (or another audio file) with `<key>.json`, `<key>.txt`, or both.

The `webdataset` package streams whole tars. Here a tar is listed from its headers and texts alone, and each clip keeps
the offset of its audio, so that any worker can read it.
"""

import dataclasses
import functools
import glob
import itertools
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.columns import caption_columns, label_columns, manifest_fields
from slap_jax.data.collections.entries import ArchiveMember, Entry, Rejection
from slap_jax.data.collections.fields import (
    LONGEST_TEXT,
    CollectionError,
    RejectedClip,
    caption_lines,
    collection_name,
    make_entry,
    parse_object,
    require_clips,
    split_name,
    split_of_shard,
    text_field,
)
from slap_jax.data.collections.folders import clip_files
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer
from slap_jax.data.collections.lost_clips import LostClips

_MEMBER_SUFFIXES = frozenset((*AUDIO_SUFFIXES, ".json", ".txt"))
_BLOCK = 512
_READ_AHEAD = 2_048 * _BLOCK
# The end of a tar is padded with zeros to a record, of 10 KiB and rarely up to 1 MiB. More of them are a download that
# reserved the space and did not fill it.
_MOST_PADDING = 4 << 20

SIZES_FILE = "sizes.json"  # of LAION: name of each tar in a folder -> its number of clips

_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPECIAL = re.compile(r"[{*?\[]")
_MOST_FILES = 1_000_000


class _DamagedTarError(Exception):
    """A tar that is damaged or truncated."""


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
        """Reads the first bytes of each tar.

        Args:
            source: a tar, a folder with tars at any depth, or a pattern like "shards/{000..099}.tar" or "*/*.tar".
            name: name of the collection; by default that of the folder of the tars and the folder above.
            split: split of all clips; by default taken from the names of folders and tars.
            caption_columns: keys of the JSON that hold captions, best first; by default recognised by name.
            label_columns: keys of the JSON that hold labels; by default recognised by name.

        Raises:
            CollectionError: a tar is missing, compressed, unreadable or a Git LFS pointer.
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
                file for file in clip_files(self.root) if isinstance(file, Rejection) or is_tar(file.name)
            ]
        else:
            self.root = Path(source).parent
            self._archives = [PurePosixPath(Path(source).name)]
        _check_readable([self.root / archive for archive in self._archives if isinstance(archive, PurePosixPath)])
        self.name = name or collection_name(self.root)
        self._split = split
        self._captions, self._labels = caption_columns, label_columns

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the samples tar by tar; rejections for the missing clips of damaged tars come last.

        Raises:
            CollectionError: there are none, or it is unknown how many clips a damaged tar should hold.
        """
        return require_clips(self._entries(), self._source)

    def _entries(self) -> Iterator[Entry | Rejection]:
        lost = LostClips()
        stated_sizes = functools.lru_cache(maxsize=1)(_stated_sizes)
        for archive in self._archives:
            if isinstance(archive, Rejection):
                yield archive
                continue
            path, clips, damage = self.root / archive, 0, ""
            stated = stated_sizes(path.parent).get(path.name)
            try:
                with path.open("rb") as file:
                    for sample in _samples(path, file):
                        yield self._entry(sample, archive)
                        clips += sample.clips
            except _DamagedTarError as error:
                damage = str(error)
            if not damage and clips < (stated or 0):
                damage = f"it holds fewer clips than {SIZES_FILE} states"
            if damage:
                problem = RejectedClip("damaged_archive", f"{path}: {damage}; copy it again")
                lost.add_damaged(str(archive), problem, clips, stated)
            else:
                lost.add_intact(clips)
        yield from lost.rejections()

    def _entry(self, sample: "_Sample", archive: PurePosixPath) -> Entry | Rejection:
        # Keys are often numbers that start at 0 in each tar.
        id = f"{archive.with_suffix('')}/{sample.key}"
        where = f"{archive}/{sample.key}"
        try:
            if sample.repeated:
                detail = f"the key has two members {sample.repeated}; a key ends at its name's first dot"
                raise RejectedClip("duplicate_key", detail, sample.clips)
            if sample.audio is None:
                other = f"; {sample.other} has no suffix of audio" if sample.other else ""
                detail = f"there is a .json or .txt, but no audio of the key in the tar{other}"
                raise RejectedClip("missing_audio", detail)
            fields = self._fields(sample)
            split = self._split or split_name(text_field(fields, "split")) or split_of_shard(archive)
            fields = {**fields, "split": split}
            return make_entry(fields, sample.audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, id)

    def _fields(self, sample: "_Sample") -> dict[str, Any]:
        """Converts the keys of the JSON to those of a manifest."""
        if not sample.texts:
            raise RejectedClip("missing_caption", "there is audio, but neither .json nor .txt of the key in the tar")
        values: dict[str, Any] = {}
        if ".json" in sample.texts:
            values = parse_object(sample.texts[".json"], f"{sample.key}.json")
        fields = manifest_fields(
            values, self._captions or caption_columns(values), self._labels or label_columns(values)
        )
        if "split" in values:
            fields["split"] = values["split"]
        original = values.get("original_data")
        if isinstance(original, dict) and isinstance(original.get("license"), str):
            fields.setdefault("license", original["license"])
        if not fields.get("captions") and ".txt" in sample.texts:
            fields["captions"] = caption_lines(sample.texts[".txt"], f"{sample.key}.txt")
        return fields


def is_tar(name: str) -> bool:
    """Whether a file name is that of a tar, compressed or not."""
    return name.lower().endswith((".tar", *_COMPRESSED_SUFFIXES))


def is_pattern(name: str) -> bool:
    """Whether a name has braces or wildcards."""
    return _SPECIAL.search(name) is not None


def files_of_pattern(pattern: str) -> list[Path]:
    """Returns the files that match a pattern: braces in their order, wildcards sorted.

    Args:
        pattern: pattern with braces as in the shell ("{000..099}", "{a,b}") and wildcards ("*").

    Raises:
        CollectionError: a file that braces name is missing, nothing matches a wildcard, or there are far too many.
    """
    names = list(itertools.islice(expand_braces(pattern), _MOST_FILES + 1))
    if len(names) > _MOST_FILES:
        raise CollectionError(f"{pattern} names more than {_MOST_FILES} files; name their folder instead")
    present: list[Path] = []
    missing: list[str] = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        files = [Path(file) for file in matches if os.path.isfile(file)]
        present.extend(files)
        if not files:
            missing.append(name)
    if missing:
        raise CollectionError(
            f"{pattern} names files of which {len(missing)} are missing, the first of them {missing[0]}; "
            "correct the pattern, or copy them"
        )
    return present


def folder_of_pattern(pattern: str) -> Path:
    """Returns the folder that holds all files of a pattern: the part before its first special character."""
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


@dataclasses.dataclass
class _Sample:
    """The members of one key that have been read so far.

    Attributes:
        key: path of the members up to the first dot of the file name.
        audio: the audio member.
        texts: ".json" and ".txt" -> their contents.
        repeated: name of a second member where only one is allowed, or "".
        other: name of a member that is neither audio nor text, or "".
        audio_members: suffix of audio -> number of members.
    """

    key: str
    audio: ArchiveMember | None = None
    texts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    repeated: str = ""
    other: str = ""
    audio_members: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def clips(self) -> int:
        """Number of clips with this key: names with a dot inside may give several clips the same key."""
        return max(1, *self.audio_members.values()) if self.audio_members else 1

    def is_complete(self) -> bool:
        return self.audio is not None and bool(self.texts)


def _samples(path: Path, archive: BinaryIO) -> Iterator[_Sample]:
    """Groups members by key.

    A complete sample is yielded when the next key starts, as in the format. An incomplete one waits for the end of the
    tar, so that tars with their members in another order are read too.
    """
    waiting: dict[str, _Sample] = {}
    current: _Sample | None = None
    problem: _DamagedTarError | None = None
    other_key, other = "", ""
    try:
        for member in _members(archive):
            key, suffix = _key_and_suffix(member.name)
            if suffix not in _MEMBER_SUFFIXES:
                other_key, other = key, member.name
                continue
            if current is None or current.key != key:
                if current is not None and current.is_complete():
                    yield waiting.pop(current.key)
                current = waiting.setdefault(key, _Sample(key))
            if key == other_key:
                current.other = other
            is_audio = suffix in AUDIO_SUFFIXES
            if is_audio:
                current.audio_members[suffix] = current.audio_members.get(suffix, 0) + 1
            if current.audio is not None if is_audio else suffix in current.texts:
                current.repeated = member.name
            elif is_audio:
                current.audio = ArchiveMember(path, member.name, member.offset_data, member.size)
            else:
                archive.seek(member.offset_data)
                current.texts[suffix] = archive.read(min(member.size, LONGEST_TEXT + 1))
    except _DamagedTarError as error:
        problem = error
    for sample in waiting.values():
        # The last sample of a truncated tar is not a faulty sample: the rest of it is just missing.
        if problem is None or sample is not current or sample.is_complete():
            yield sample
    if problem is not None:
        raise problem


def _members(archive: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Lists the regular files of an uncompressed tar whose bytes are all present.

    Args:
        archive: open at its start; the caller may move its position between members.

    Raises:
        _DamagedTarError: after the intact members, the archive is damaged or truncated.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    offset = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            while True:
                archive.seek(offset)
                if archive.read(_BLOCK) == bytes(_BLOCK):  # the end of a tar; `cat a.tar b.tar` has more after it
                    next_header = _skip_zeros(archive, offset)
                    if next_header is None:
                        if size - offset > _MOST_PADDING:
                            raise _DamagedTarError(f"it is incomplete: its last {size - offset:,} bytes are zeros")
                        return
                    offset = next_header
                archive.seek(offset)
                # Iterating over the tar would keep all headers in memory and end silently at a damaged one.
                member = tarfile.TarInfo.fromtarfile(tar)
                offset = tar.offset
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise _DamagedTarError(f"it is truncated inside {member.name}, after {size} bytes")
                yield member
    except tarfile.TarError as error:
        raise _DamagedTarError(f"it is damaged or truncated ({error})") from error


def _skip_zeros(archive: BinaryIO, offset: int) -> int | None:
    """Returns the position of the next block that is not zeros, None if there is none."""
    archive.seek(offset)
    while data := archive.read(_READ_AHEAD):
        stripped = data.lstrip(b"\0")
        if stripped:
            position = offset + len(data) - len(stripped)
            return position - position % _BLOCK
        offset += len(data)
    return None


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Splits the path of a member at the first dot of its file name; hidden files have no suffix.

    Works on text, because `pathlib` keeps every name that it has seen in memory (Python 3.12).
    """
    folder, slash, file = name.removeprefix("./").rpartition("/")
    # A Mac may have stored the name of one member in another Unicode form than that of the next.
    key, _, rest = unicodedata.normalize("NFC", file).partition(".")
    return f"{folder}{slash}{key}", f".{rest.rpartition('.')[2].lower()}" if key else ""


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


def _stated_sizes(folder: Path) -> dict[str, int]:
    """Returns name -> number of clips of the tars in a folder, from the file that LAION's tools write."""
    try:
        sizes = json.loads((folder / SIZES_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: size for name, size in sizes.items() if isinstance(size, int)} if isinstance(sizes, dict) else {}


def _check_readable(paths: Sequence[Path]) -> None:
    pointers: list[tuple[Path, bytes]] = []
    for path in paths:
        if not path.is_file():
            raise CollectionError(f"{path} is missing; expected a tar")
        try:
            with path.open("rb") as file:
                start = file.read(_BLOCK)
        except OSError as error:
            raise CollectionError(f"{path} cannot be read ({error.strerror}); correct its permissions") from error
        program = next((program for magic, program in _MAGIC.items() if start.startswith(magic)), None)
        if program:
            raise CollectionError(
                f"{path} is compressed with {program}, so its members cannot be read one by one; unpack it first: "
                f"`{program} -d {path}` (compression does not make audio smaller)"
            )
        if is_pointer(start):
            pointers.append((path, start))
    if pointers:
        path, start = pointers[0]
        raise CollectionError(f"{path} {describe_pointer(start)} ({len(pointers)} of {len(paths)} tars are pointers)")
