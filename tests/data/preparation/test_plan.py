import dataclasses
import gc
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from slap_jax.data.collections.entries import ArchiveMember, AudioFile, Entry, Rejection, TableCell
from slap_jax.data.preparation import plan as plan_module
from slap_jax.data.preparation.plan import REJECTED, make_plan, read_block
from tests.data.tiny_data import tiny_dataset


@dataclasses.dataclass
class Listed:
    """A collection that lists the given entries."""

    items: list
    name: str = "listed"

    def entries(self):
        yield from self.items


def entry(index, split="train", **fields):
    return Entry(f"clip-{index}", AudioFile(Path(f"/none/{index}.wav")), ("a tone",), split, source="lab", **fields)


def entries(count, split="train", start=0):
    return [entry(start + index, split) for index in range(count)]


def test_consecutive_clips_of_a_split_form_its_blocks(tmp_path):
    mixed = [clip for pair in zip(entries(7), entries(7, "test", 50), strict=True) for clip in pair]
    plan = make_plan(Listed(mixed), tmp_path, clips_per_block=3)
    assert {split: [block.clips for block in blocks] for split, blocks in plan.blocks.items()} == {
        "train": [3, 3, 1],
        "test": [3, 3, 1],
    }
    shards = plan.shards(tmp_path, "lab")
    assert [shard.file for shard in shards[:3]] == [f"lab-train.array_record-0000{n}-of-00003" for n in range(3)]
    assert [clip for shard in shards[:3] for block in shard.blocks for clip in read_block(block)] == entries(7)
    assert len({shard.digest for shard in shards}) == 6 and plan.clips == 14


def test_every_kind_of_entry_comes_back(tmp_path):
    regions, path = ((0.0, 0.125, "a bark"), (0.5, 1.0, "")), Path("/data/ä\udcff.tar")
    listed = [
        entry(0, labels=("label=dog",), regions=regions, caption_source="people", licence="CC0", duration_s=1.5),
        dataclasses.replace(entry(1), audio=ArchiveMember(path, "a/b.flac", 512, 99), captions=(), where="a:1"),
        dataclasses.replace(entry(2), audio=TableCell(Path("t.parquet"), "audio", 7), captions=("\u2028", "\n")),
    ]
    (shard,) = make_plan(Listed(listed), tmp_path).shards(tmp_path, "lab")
    assert [clip for block in shard.blocks for clip in read_block(block)] == listed


def test_texts_that_no_record_can_store_are_rejections(tmp_path):
    bad = [dataclasses.replace(entry(1), id="caf\udce9"), dataclasses.replace(entry(2), captions=("half \ud83d",))]
    plan = make_plan(Listed([entry(0), *bad, entry(3)]), tmp_path)
    assert plan.clips == 2 and plan.rejected == {"bad_name": 1, "bad_text": 1}


def test_a_split_of_many_blocks_has_shards_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "_MOST_SHARDS", 4)
    plan = make_plan(Listed(entries(13) + entries(3, "test", 50)), tmp_path, clips_per_block=1)
    shards = plan.shards(tmp_path, "lab")
    assert [shard.clips for shard in shards] == [8, 5, 1, 1, 1]
    assert [clip.id for block in shards[1].blocks for clip in read_block(block)] == [f"clip-{n}" for n in range(8, 13)]


def test_ids_are_unique_within_a_source(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "_ENTRIES_AT_A_TIME", 2)
    elsewhere = dataclasses.replace(entry(0), source="other")
    listed = [entry(0), Rejection("m:2", "x", "bad_json", ""), entry(1), elsewhere, entry(0), entry(1, "test")]
    plan = make_plan(Listed(listed), tmp_path)
    assert plan.clips == 3 and plan.rejected == {"bad_json": 1, "duplicate_id": 2}
    lines = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [
        ("x", "bad_json"),
        ("clip-0", "duplicate_id"),
        ("clip-1", "duplicate_id"),
    ]
    assert "an earlier clip of source 'lab' has the id 'clip-0'" in lines[1]["detail"]


def test_excluded_clips_are_recognised_by_id(tmp_path):
    data = tiny_dataset(tmp_path / "data", count=3, test_count=2)
    listed = [dataclasses.replace(clip, source="tiny") for clip in entries(6)]
    plan = make_plan(Listed(listed), None, exclude=[f"{data}:test"])
    assert plan.rejected == {"excluded_evaluation": 2} and plan.clips == 4  # clip-3 and clip-4
    assert plan.digest != make_plan(Listed(listed), None).digest


def test_listing_only_writes_nothing_and_has_the_same_digest(tmp_path):
    listed = Listed([*entries(5), Rejection("m:6", "", "bad_json", "")])
    written = make_plan(listed, tmp_path / "plan", clips_per_block=2)
    assert make_plan(listed, None, clips_per_block=2).digest == written.digest
    assert {path.name for path in (tmp_path / "plan" / "train").iterdir()} == {f"{n:06d}.jsonl" for n in range(3)}


@pytest.mark.parametrize("change", ["time", "size", "caption", "order", "rejection", "block", "archive"])
def test_the_digest_depends_on_everything_that_changes_the_records(tmp_path, change):
    files = [tmp_path / f"{index}.wav" for index in range(2)]
    for file in files:
        file.write_bytes(b"12")
    listed: list = [dataclasses.replace(entry(index), audio=AudioFile(file)) for index, file in enumerate(files)]
    listed.append(dataclasses.replace(entry(2), audio=ArchiveMember(tmp_path / "a.tar", "x", 0, 1)))
    before = make_plan(Listed(listed), None)
    clips_per_block = 1 if change == "block" else 1_024
    if change == "time":
        os.utime(files[1], ns=(1, 1))
    elif change == "size":
        status = files[0].stat()
        files[0].write_bytes(b"123")
        os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "caption":
        listed[0] = dataclasses.replace(listed[0], captions=("another",))
    elif change == "order":
        listed = [listed[1], listed[0], listed[2]]
    elif change == "rejection":
        listed.append(Rejection("m:9", "", "bad_json", ""))
    elif change == "archive":
        (tmp_path / "a.tar").write_bytes(b"1")
    assert make_plan(Listed(listed), None, clips_per_block=clips_per_block).digest != before.digest


@dataclasses.dataclass
class Long:
    """A collection that generates its entries lazily."""

    count: int
    name: str = "long"

    def entries(self):
        first = dataclasses.replace(entry(0), audio=ArchiveMember(Path("/none.tar"), "a.wav", 0, 1))
        for index in range(self.count):
            yield dataclasses.replace(first, id=f"clip-{index}")


def test_memory_grows_by_few_bytes_a_clip(monkeypatch):
    monkeypatch.setattr(plan_module, "_ENTRIES_AT_A_TIME", 64)

    def peak(count):
        gc.collect()
        tracemalloc.start()
        make_plan(Long(count), None, clips_per_block=64)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1_000)  # fills caches
    assert peak(6_000) - peak(2_000) < 100 * 4_000  # bytes; an entry takes several hundred
