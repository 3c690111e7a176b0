import json
from itertools import pairwise

import grain
import pytest

from slap_jax.config import ConfigError
from slap_jax.data.batches.virtual_shards import VirtualShards, host_shards


def rows_of(shard: int) -> grain.IterDataset:
    """Endless rows that tell their shard and number."""
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


def test_shards_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="not a multiple of the 3 hosts"):
        host_shards(8, 0, 3)


def test_every_shard_belongs_to_one_host():
    parts = [host_shards(8, index, 4) for index in range(4)]
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert parts[0].start == 0 and parts[-1].stop == 8
