"""Assigns clips to shards: lists a collection once and writes the input of each shard to files.

A block is a file of consecutive entries of a split, one JSON object per line. A shard is made from one block, or from
several if the split would otherwise have too many shards. The digest of a shard covers everything that it depends on,
which identifies finished shards after an interruption or a change of the collection.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from slap_jax.data.audio import RESAMPLE_QUALITY, SAMPLE_RATE
from slap_jax.data.collections.entries import (
    AudioFile,
    Collection,
    Entry,
    Rejection,
    entry_from_json,
    entry_to_json,
    file_of,
    reject_unstorable,
)
from slap_jax.data.collections.published import PublishedDataset
from slap_jax.data.index import hash_id
from slap_jax.data.preparation.duplicates import EXCLUDED_EVALUATION, ExcludedClips, HashSet, excluded_clips
from slap_jax.data.preparation.splits import SplitShares
from slap_jax.data.records import SCHEMA_VERSION, shard_name

CLIPS_PER_SHARD = 1_024
REJECTED = "rejected.jsonl"

# Changes when decoding gives other samples for the same files, so that shards of earlier versions are made again.
_DECODING = 2  # 2: files are decoded to their end, whatever their headers state

_MOST_SHARDS = 10_000
_ENTRIES_AT_A_TIME = 8_192


@dataclasses.dataclass(frozen=True)
class Block:
    """A file of entries.

    Attributes:
        digest: digest of the entries, the sizes and modification times of their audio files, and the decoding settings.
        clips: number of entries.
    """

    digest: str
    clips: int


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """The inputs of one shard, valid on any machine that sees the same files.

    Attributes:
        split: name.
        blocks: files of the entries.
        clips: number of entries.
        exclude: "PATH:SPLIT" of prepared data whose clips are left out.
        digest: digest of everything that the shard depends on.
        file: name of the shard.
    """

    split: str
    blocks: tuple[Path, ...]
    clips: int
    exclude: tuple[str, ...]
    digest: str
    file: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A listed collection.

    Attributes:
        blocks: split -> its blocks; splits in the order of their first clips.
        exclude: "PATH:SPLIT" of prepared data whose clips are left out.
        rejected: reason -> number of clips rejected during the listing.
        rejections_digest: digest of these rejections.
    """

    blocks: dict[str, list[Block]]
    exclude: tuple[str, ...]
    rejected: Counter[str]
    rejections_digest: str

    @property
    def clips(self) -> int:
        """Number of clips to decode."""
        return sum(block.clips for blocks in self.blocks.values() for block in blocks)

    @property
    def listed(self) -> int:
        """Number of all clips: those to decode, and those rejected or excluded during the listing."""
        return self.clips + sum(self.rejected.values())

    @property
    def digest(self) -> str:
        """Digest of everything that the dataset depends on."""
        digests = {split: [block.digest for block in blocks] for split, blocks in self.blocks.items()}
        return _digest(json.dumps([digests, self.rejections_digest]).encode())

    def shards(self, folder: Path, dataset: str) -> list[ShardPlan]:
        """Returns the shards, split by split.

        Args:
            folder: the folder that `make_plan` wrote to.
            dataset: name of the dataset, the prefix of its files.
        """
        return [shard for split in self.blocks for shard in self._shards_of(folder, dataset, split)]

    def _shards_of(self, folder: Path, dataset: str, split: str) -> Iterator[ShardPlan]:
        blocks = self.blocks[split]
        joined = 1
        while -(-len(blocks) // joined) >= _MOST_SHARDS:
            joined *= 2
        count = -(-len(blocks) // joined)
        for number in range(count):
            own = range(number * joined, min((number + 1) * joined, len(blocks)))
            yield ShardPlan(
                split=split,
                blocks=tuple(_block_file(folder, split, block) for block in own),
                clips=sum(blocks[block].clips for block in own),
                exclude=self.exclude,
                digest=_digest("".join(blocks[block].digest for block in own).encode()),
                file=shard_name(dataset, split, number, count),
            )


def make_plan(
    collection: Collection | PublishedDataset,
    folder: Path | None,
    *,
    clips_per_block: int = CLIPS_PER_SHARD,
    exclude: Sequence[str] = (),
    shares: SplitShares | None = None,
    ids: HashSet | None = None,
    on_clips: Callable[[int], object] = lambda count: None,
) -> Plan:
    """Lists a collection in one pass, holding 8 bytes per id and one block per split in memory.

    Args:
        collection: collection to list. Repeated ids within a source and excluded ids become rejections.
        folder: receives blocks and rejections; None only computes the digests.
        clips_per_block: largest number of entries in a block.
        exclude: "PATH:SPLIT" of prepared data whose clips are left out.
        shares: divide a collection that names no splits; None leaves it as it is.
        ids: receives the `hash_id` of every listed clip.
        on_clips: called with the number of newly listed clips.

    Returns:
        The blocks with their digests, and counts of the rejections.

    Raises:
        SplitError: `shares` are given, and the collection names splits.
    """
    lines: dict[str, list[bytes]] = {}  # of the unfinished blocks
    blocks: dict[str, list[Block]] = {}
    rejected: Counter[str] = Counter()
    rejections_digest = hashlib.blake2b(digest_size=16)
    excluded = excluded_clips(exclude)
    settings = json.dumps([SCHEMA_VERSION, SAMPLE_RATE, RESAMPLE_QUALITY, _DECODING, excluded.digest]).encode()
    archive_version = functools.lru_cache(maxsize=8)(_version)  # neighbouring entries share an archive

    def finish_block(split: str) -> None:
        data = b"".join(lines[split])
        if folder is not None:
            file = _block_file(folder, split, len(blocks[split]))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        blocks[split].append(Block(_digest(settings + data), len(lines[split])))
        lines[split] = []

    listed = checked_clips(collection, excluded, shares=shares, ids=ids, on_clips=on_clips)
    first = list(itertools.islice(listed, 1))  # an unreadable collection raises before anything is written
    with _rejections_file(folder) as write_rejection:
        for item in itertools.chain(first, listed):
            if isinstance(item, Rejection):
                line = rejection_line(item)
                write_rejection(line)
                rejections_digest.update(line)
                rejected[item.reason] += item.clips
                continue
            blocks.setdefault(item.split, [])
            version = _version if isinstance(item.audio, AudioFile) else archive_version
            line = entry_to_json(item, version=version(file_of(item.audio)))
            lines.setdefault(item.split, []).append(f"{line}\n".encode())
            if len(lines[item.split]) == clips_per_block:
                finish_block(item.split)
    for split in blocks:
        if lines[split]:
            finish_block(split)
    return Plan(blocks, tuple(exclude), rejected, rejections_digest.hexdigest())


def read_block(file: Path) -> Iterator[Entry]:
    """Reads the entries that `make_plan` wrote."""
    with file.open("rb") as stream:
        for line in stream:
            yield entry_from_json(line)


def rejection_line(rejection: Rejection) -> bytes:
    """Returns a rejection as a line of JSON."""
    return (json.dumps(dataclasses.asdict(rejection), ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _rejections_file(folder: Path | None) -> Iterator[Callable[[bytes], object]]:
    if folder is None:
        yield len  # discards the lines
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / REJECTED).open("wb") as file:
            yield file.write


def checked_clips(
    collection: Collection | PublishedDataset,
    excluded: ExcludedClips,
    *,
    shares: SplitShares | None = None,
    ids: HashSet | None = None,
    on_clips: Callable[[int], object] = lambda count: None,
) -> Iterator[Entry | Rejection]:
    """Lists a collection as it is prepared: entries that cannot be stored, repeat an id or are excluded are rejections.

    Args:
        collection: collection to list.
        excluded: clips to leave out.
        shares: divide a collection that names no splits; None leaves it as it is.
        ids: receives the `hash_id` of every listed clip.
        on_clips: called with the number of newly listed clips.

    Raises:
        SplitError: `shares` are given, and the collection names splits.
    """
    seen = HashSet() if ids is None else ids
    listed = collection.entries() if shares is None else shares.assign(collection.entries())
    while items := reject_unstorable(list(itertools.islice(listed, _ENTRIES_AT_A_TIME))):
        hashes = [hash_id(item.source, item.id) for item in items if isinstance(item, Entry)]
        is_new = iter(seen.add(np.array(hashes, np.uint64)))
        for item in items:
            if isinstance(item, Rejection):
                yield item
            elif not next(is_new):
                detail = (
                    f"an earlier clip of source {item.source!r} has the id {item.id!r}; make ids unique within a "
                    "source, or if this is another caption of that clip, write all captions in one row: captions, or "
                    "caption_1, caption_2 ... in a CSV file"
                )
                yield Rejection(item.where, item.id, "duplicate_id", detail)
            elif excluded.has_id(item.source, item.id):
                yield Rejection(item.where, item.id, EXCLUDED_EVALUATION, "the id belongs to an excluded clip")
            else:
                yield item
        on_clips(len(items))


def _version(file: Path) -> tuple[int, int] | None:
    """Returns size and modification time of a file; None if it is missing, which decoding reports."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError for a name with a null byte
        return None
    return status.st_size, status.st_mtime_ns


def _block_file(folder: Path, split: str, number: int) -> Path:
    return folder / split / f"{number:06d}.jsonl"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
