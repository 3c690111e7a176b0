"""No clip is lost without being counted: 200 random collections against the number of clips put into them."""

import itertools

import pytest

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import CollectionError, RejectedClip
from slap_jax.data.collections.lost_clips import LostClips
from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.preparation.plan import make_plan
from slap_jax.data.preparation.prepare import prepare
from tests.data.listing import listed
from tests.data.random_collections import write_random_collection


@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 200, 25)], ids=lambda seeds: seeds[0])
def test_listed_and_rejected_clips_are_all_that_are_present(tmp_path, seeds):
    for seed in seeds:
        collection = write_random_collection(tmp_path / str(seed), seed)
        entries, rejections = listed(open_collection(collection.source, **collection.options))
        plan = make_plan(open_collection(collection.source, **collection.options), None)
        counted = len(entries) + sum(rejection.clips for rejection in rejections)
        assert counted == collection.present, (seed, collection, rejections)
        assert collection.good <= plan.clips <= len(entries), (seed, collection)
        assert plan.clips + sum(plan.rejected.values()) == collection.present, (seed, collection)


def test_prepared_and_rejected_clips_are_all_that_are_present(tmp_path):
    kinds = set()
    for seed in itertools.count():
        collection = write_random_collection(tmp_path / f"in {seed}", seed)
        kind = collection.options.get("kind", collection.source.suffix)
        if kind in kinds or not collection.good:
            continue
        kinds.add(kind)
        opened = open_collection(collection.source, **collection.options)
        output = tmp_path / f"out {seed}"
        prepared = prepare(opened, output, workers=1, max_rejected=collection.present, log=lambda line: None)
        assert sum(prepared.clips.values()) == collection.good, (seed, collection, prepared)
        assert sum(prepared.rejected.values()) == collection.present - collection.good, (seed, collection, prepared)
        if len(kinds) == 6:
            return


def damaged(counter, where, clips, expected=None, split=""):
    counter.add_damaged(where, RejectedClip("bad_table", where), clips, expected, split)


def test_what_is_missing_is_stated_shared_or_that_of_the_largest_file():
    counter = LostClips()
    counter.add_intact(10, "train")
    counter.add_intact(4, "test")
    damaged(counter, "a", 2, 5, "train")
    damaged(counter, "b", 1, None, "train")
    damaged(counter, "c", 0, None, "train")
    damaged(counter, "d", 3, None, "test")
    totals = {"train": 10 + 5 + 7}
    assert {each.where: each.clips for each in counter.rejections(lambda: totals)} == {"a": 3, "b": 3, "c": 3, "d": 7}
    assert {each.where: each.clips for each in counter.rejections()} == {"a": 3, "b": 9, "c": 10, "d": 7}


def test_a_damaged_file_loses_at_least_one_clip():
    counter = LostClips()
    counter.add_intact(3)
    damaged(counter, "a", 5)
    damaged(counter, "b", 5, 5)
    assert [each.clips for each in counter.rejections()] == [1, 1]


def test_an_unknown_number_is_an_error():
    counter = LostClips()
    damaged(counter, "x", 5)
    with pytest.raises(CollectionError, match="x; 5 clips of it were read, and how many are missing is unknown"):
        list(counter.rejections())


def test_a_rejection_is_one_clip_unless_it_says_more():
    assert Rejection("w", "i", "r", "d").clips == 1
    assert RejectedClip("r", "d", 3).at("w").clips == 3
    assert not isinstance(RejectedClip("r", "d").at("w"), Entry)
