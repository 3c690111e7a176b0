import json
from itertools import pairwise

import grain
import numpy as np
import pytest

from slap_jax.config import ConfigError
from slap_jax.data.virtual_shards import VirtualShards


def rows_of(shard: int) -> grain.IterDataset:
    """Endless rows that tell their shard and number."""

    def row(index: int) -> dict[str, np.ndarray]:
        return {"row": np.array([shard, index])}

    return grain.MapDataset.range(1_000_000).map(row).to_iter_dataset(grain.ReadOptions(0, 0))


def take(shards: VirtualShards, rows: int) -> list[tuple[int, int]]:
    return [tuple(row["row"].tolist()) for row in shards.take(rows)]


def hosts(count: int, num_shards: int = 8) -> list[VirtualShards]:
    return [VirtualShards(rows_of, num_shards, index, count, read_ahead=2) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_hosts_together_give_the_same_rows_in_the_same_order(count):
    for start in (0, 3):
        expected = [(shard, start + row) for shard in range(8) for row in range(3)]
        all_hosts = hosts(count)
        if start:
            [take(host, 3) for host in all_hosts]
        assert [row for host in all_hosts for row in take(host, 3)] == expected
        [host.close() for host in all_hosts]


def test_states_move_between_host_counts():
    pair = hosts(2)
    [take(host, 5) for host in pair]
    state = json.loads(json.dumps({**pair[0].get_state(), **pair[1].get_state()}))
    assert sorted(state, key=int) == [str(shard) for shard in range(8)]
    expected = [row for host in pair for row in take(host, 2)]
    for count in (1, 4, 8):
        others = hosts(count)
        [host.set_state(state) for host in others]
        assert [row for host in others for row in take(host, 2)] == expected
        [host.close() for host in others]
    [host.close() for host in pair]


def test_state_ignores_what_was_read_ahead():
    (host,) = hosts(1)
    state = host.get_state()
    assert state["0"] == {"next_index": 0}
    take(host, 4)
    assert host.get_state()["7"] == {"next_index": 4}
    host.set_state(state)
    assert take(host, 1)[0] == (0, 0)
    host.close()


def test_closing_loses_no_row():
    (host,) = hosts(1)
    take(host, 4)
    host.close()
    assert host.get_state()["7"] == {"next_index": 4}
    assert take(host, 1) == [(shard, 4) for shard in range(8)]
    host.close()


def test_shards_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="not a multiple of the 3 hosts"):
        VirtualShards(rows_of, 8, 0, 3, 2)


def test_every_shard_belongs_to_one_host():
    parts = [host.shards for host in hosts(4)]
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert parts[0].start == 0 and parts[-1].stop == 8
