import json
from itertools import pairwise

import grain
import numpy as np
import pytest

from slap_jax.config.rules import ConfigError
from slap_jax.data.batches.stream import ClipReference, VirtualShards, clip_references, host_shards, mixing_weights


def references(clips, fractions, count, shard=0, num_shards=1, seed=0) -> list[ClipReference]:
    stream = clip_references(clips, fractions, seed, shard, num_shards)
    return list(stream.slice(slice(0, count)))


def test_an_epoch_covers_every_record_once_over_all_shards_and_epochs_differ():
    parts = [references({"a": 12}, [1.0], 6, shard, 4) for shard in range(4)]
    by_position = {reference.position: reference.record for part in parts for reference in part}
    epochs = [[by_position[position] for position in range(first, first + 12)] for first in (0, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


def test_a_position_has_the_same_record_for_every_number_of_shards():
    few = {r.position: r.record for shard in range(2) for r in references({"a": 7}, [1.0], 12, shard, 2)}
    many = {r.position: r.record for shard in range(8) for r in references({"a": 7}, [1.0], 3, shard, 8)}
    assert few == many and set(few) == set(range(24))


def test_fractions_hold_in_every_part_of_the_stream():
    stream = references({"a": 10, "b": 1_000}, [0.75, 0.25], 400)
    for first in range(0, 400, 40):
        assert sum(reference.source == 1 for reference in stream[first : first + 40]) == pytest.approx(10, abs=1)
    positions = [reference.position for reference in stream if reference.source == 0]
    assert positions == list(range(300))  # the small source starts its next epoch independently


def test_the_shuffle_depends_on_the_source_and_the_seed():
    first = [r.record for r in references({"a": 50}, [1.0], 50)]
    assert first != [r.record for r in references({"b": 50}, [1.0], 50)]
    assert first != [r.record for r in references({"a": 50}, [1.0], 50, seed=1)]
    assert first == [r.record for r in references({"a": 50}, [1.0], 50)]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(None, [0.5, 0.5]), (1.0, [0.8, 0.2]), (2.0, [2 / 3, 1 / 3]), (1e9, [0.5, 0.5])],
)
def test_temperature_interpolates_between_sizes_and_weights(temperature, expected):
    assert mixing_weights([1.0, 1.0], [400, 100], temperature) == pytest.approx(expected, rel=1e-6)
    assert mixing_weights([3.0, 1.0], [100, 100], temperature) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("clips", [1_000_000, 109_000_000])
def test_the_shuffle_is_global_and_decorrelates_neighbours(clips):
    stream = references({"a": clips}, [1.0], 6_000, shard=3, num_shards=8)
    records = np.array([reference.record for reference in stream])
    assert len(np.unique(records)) == len(records)
    counts, _ = np.histogram(records, 100, (0, clips))
    assert np.sum((counts - 60) ** 2 / 60) < 160  # chi-squared of 99 degrees of freedom: 1 in 10,000 is above
    for distance in (1, 2, 4, 8):
        assert abs(np.corrcoef(records[:-distance], records[distance:])[0, 1]) < 0.06


def rows_of(shard: int) -> grain.IterDataset:
    """Endless rows (shard, index)."""
    return grain.MapDataset.range(1_000_000).map(lambda index: (shard, index)).to_iter_dataset(grain.ReadOptions(0, 0))


def hosts(count: int, rows_per_shard: int, num_shards: int = 8) -> list[VirtualShards]:
    return [VirtualShards(rows_of, host_shards(num_shards, index, count), rows_per_shard) for index in range(count)]


def take(all_hosts: list[VirtualShards]) -> list[tuple[int, int]]:
    return [row for host in all_hosts for row in next(host)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_hosts_together_give_the_same_rows_in_the_same_order(count):
    all_hosts = hosts(count, 3)
    for start in (0, 3):
        assert take(all_hosts) == [(shard, start + row) for shard in range(8) for row in range(3)]


def test_states_move_between_host_counts():
    pair = hosts(2, 5)
    take(pair)
    state = json.loads(json.dumps({**pair[0].get_state(), **pair[1].get_state()}))
    assert sorted(state, key=int) == [str(shard) for shard in range(8)]
    expected = take(pair)
    for count in (1, 4, 8):
        others = hosts(count, 5)
        [host.set_state(state) for host in others]
        assert take(others) == expected


def test_a_state_can_be_set_on_shards_that_have_run():
    (host,) = hosts(1, 4)
    state = host.get_state()
    assert state["0"] == {"next_index": 0}
    next(host)
    assert host.get_state()["7"] == {"next_index": 4}
    host.set_state(state)
    assert next(host)[0] == (0, 0)


def test_closed_shards_keep_their_state():
    (host,) = hosts(1, 4)
    next(host)
    host.close()
    assert host.get_state()["7"] == {"next_index": 4}


def test_hosts_that_do_not_divide_the_shards_are_refused():
    with pytest.raises(ConfigError, match="not a multiple of the 3 hosts"):
        host_shards(8, 0, 3)


def test_every_shard_belongs_to_one_host():
    parts = [host_shards(8, index, 4) for index in range(4)]
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert parts[0].start == 0 and parts[-1].stop == 8
