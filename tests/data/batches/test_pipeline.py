import collections
import dataclasses
import json
import time
from itertools import islice

import numpy as np
import pytest

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import source
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.prefetch import Prefetch
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import Records, open_split
from tests.data.tiny_data import (
    tiny_captions,
    tiny_config,
    tiny_dataset,
    tiny_record,
)

FIELDS = [field.name for field in dataclasses.fields(PackedBatch)]


def joined(batches) -> dict[str, np.ndarray]:
    return {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in FIELDS}


def same(first, second) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in FIELDS)


def hosts(config, tokenizer, count):
    return [TrainBatches(config, tokenizer, index, count) for index in range(count)]


def global_batches(hosts, count):
    return [joined([next(host) for host in hosts]) for _ in range(count)]


def close(hosts):
    for host in hosts:
        host.close()


def clips_of(batch):
    """Yields (key, samples of whole columns, token ids) of every clip of a joined batch."""
    for row, slot in zip(*np.nonzero(batch["clip_valid"]), strict=True):
        columns = batch["audio_segment_ids"][row] == slot + 1
        samples = batch["waveform"][row].reshape(len(columns), -1)[columns].reshape(-1)
        tokens = batch["text_tokens"][row][batch["text_segment_ids"][row] == slot + 1]
        yield int(batch["clip_key"][row, slot]), samples, tokens.tolist()


def test_batch_has_the_shapes_and_every_clip_is_a_clip_of_the_data(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    train = TrainBatches(config, tokenizer)
    batch = next(train)
    assert batch.waveform.shape == (8, 16 * 2_560) and batch.waveform.dtype == np.int16
    assert batch.text_tokens.shape == (8, 96) and batch.clip_key.shape == (8, 4)
    by_key = {record.key: record for record in open_split(dataset, "train")}
    seen = 0
    for key, samples, tokens in clips_of(joined([batch])):
        whole = by_key[key].waveform()
        kept = min(len(whole), round(2.56 * 16_000))
        number = int(by_key[key].id.removeprefix("clip-"))
        start = int(samples[0]) - 100 * number
        assert np.array_equal(samples[:kept], 100 * number + (start + np.arange(kept)) % 97)
        assert not samples[kept:].any()
        assert tokenizer.decode(tokens) in tiny_captions(number)
        seen += 1
    assert seen == batch.clip_valid.sum() > 8
    assert (batch.audio_segment_ids > 0).mean() > 0.7
    train.close()


def test_order_does_not_depend_on_the_number_of_hosts(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    one, two, four = (hosts(config, tokenizer, count) for count in (1, 2, 4))
    for _ in range(6):
        expected, *others = (joined([next(host) for host in group]) for group in (one, two, four))
        assert all(same(expected, other) for other in others)
    close([*one, *two, *four])


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_state_of_two_hosts_restores_on_one_and_four(dataset, tokenizer, steps):
    config = tiny_config(dataset, tokenizer)
    pair = hosts(config, tokenizer, 2)
    global_batches(pair, steps)
    states = [host.get_state() for host in pair]
    merged = json.loads(json.dumps({**states[0], "states": {**states[0]["states"], **states[1]["states"]}}))
    assert set(states[0]["states"]) == {"0", "1"} and len(json.dumps(merged)) < 4_000
    expected = global_batches(pair, 5)
    close(pair)
    for count in (1, 4):
        restored = hosts(config, tokenizer, count)
        for host in restored:
            host.set_state(merged)
        assert all(same(a, b) for a, b in zip(expected, global_batches(restored, 5), strict=True))
        close(restored)


def test_state_can_be_set_on_an_iterator_that_has_run(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    train = TrainBatches(config, tokenizer)
    first = global_batches([train], 3)
    train.set_state(TrainBatches(config, tokenizer).get_state())
    assert all(same(a, b) for a, b in zip(first, global_batches([train], 3), strict=True))
    train.close()


def test_threads_do_not_change_the_order(dataset, tokenizer):
    few, many = (
        TrainBatches(tiny_config(dataset, tokenizer, decode_threads=threads, read_threads=reading), tokenizer)
        for threads, reading in ((1, 0), (9, 5))
    )
    assert all(same(a, b) for a, b in zip(global_batches([few], 4), global_batches([many], 4), strict=True))
    close([few, many])


def test_prefetch_resumes_after_the_last_returned_batch(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    train = TrainBatches(config, tokenizer)
    with Prefetch(train, lambda batch: batch, depth=2) as prefetch:
        list(islice(prefetch, 3))
        state = prefetch.state
        expected = joined([next(prefetch)])
    train.close()
    resumed = TrainBatches(config, tokenizer)
    resumed.set_state(state)
    assert same(joined([next(resumed)]), expected)
    resumed.close()


def test_seed_changes_the_order(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    other = config.copy_and_resolve_references()
    other.seed = 1
    first, second = TrainBatches(config, tokenizer), TrainBatches(other, tokenizer)
    assert not same(joined([next(first)]), joined([next(second)]))
    close([first, second])


def epochs(config, tokenizer, batches):
    train = TrainBatches(config, tokenizer)
    clips = [clip for batch in global_batches([train], batches) for clip in clips_of(batch)]
    train.close()
    return clips


def test_every_clip_comes_equally_often_with_each_of_its_captions(dataset, tokenizer):
    clips = epochs(tiny_config(dataset, tokenizer), tokenizer, 60)
    counts = collections.Counter(key for key, _, _ in clips)
    assert len(counts) == 24
    # Whole epochs, except for clips in rows that are still open.
    assert max(counts.values()) - min(counts.values()) <= 0.25 * len(clips) / 24
    captions = collections.defaultdict(set)
    for key, _, tokens in clips:
        captions[key].add(tokenizer.decode(tokens))
    assert all(len(texts) == 2 for texts in captions.values())


def test_long_clips_are_cropped_at_changing_places(dataset, tokenizer):
    longest = max(open_split(dataset, "train"), key=lambda record: record.duration_s)
    assert longest.duration_s > 2.56
    clips = epochs(tiny_config(dataset, tokenizer), tokenizer, 40)
    starts = {int(samples[0]) for key, samples, _ in clips if key == longest.key}
    lengths = {len(samples) for key, samples, _ in clips if key == longest.key}
    assert len(starts) > 5 and lengths == {16 * 2_560}


def test_mixture_follows_the_weights_in_every_shard(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer)
    tiny_dataset(tmp_path / "second", name="second")
    config.data.train.tiny.weight = 1.0
    config.data.train.second = source(str(tmp_path / "second"), "train", weight=3.0)
    train = TrainBatches(config, tokenizer)
    second = {record.key for record in open_split(tmp_path / "second", "train")}
    counts = np.zeros((4, 2))
    for _ in range(40):
        batch = next(train)
        for shard in range(4):
            rows = slice(2 * shard, 2 * shard + 2)
            keys = batch.clip_key[rows][batch.clip_valid[rows]]
            counts[shard] += len(keys), sum(int(key) in second for key in keys)
    np.testing.assert_allclose(counts[:, 1] / counts[:, 0], 0.75, atol=0.05)
    train.close()


def test_a_data_set_smaller_than_the_shards_works(tokenizer, tmp_path):
    prepare_records({"train": (1, [tiny_record(0, 0.5)])}, tmp_path, {}, log=lambda line: None)
    config = tiny_config(tmp_path, tokenizer, virtual_shards=8)
    clips = epochs(config, tokenizer, 3)
    assert {key for key, _, _ in clips} == {tiny_record(0, 0.5).key} and len(clips) == 3 * 8 * 4


def test_captions_are_cut_to_the_limit(dataset, tokenizer):
    clips = epochs(tiny_config(dataset, tokenizer, max_caption_tokens=5), tokenizer, 2)
    assert max(len(tokens) for _, _, tokens in clips) == 5
    assert all(tokens[0] == 1 and tokens[-1] == 2 for _, _, tokens in clips)


def test_restoring_reads_the_clips_of_open_rows_only_when_their_row_is_given(dataset, tokenizer):
    train = TrainBatches(tiny_config(dataset, tokenizer), tokenizer)
    global_batches([train], 9)
    state = json.loads(json.dumps(train.get_state()))
    waiting = [clip for shard in state["states"].values() for row in shard["open"] for clip in row]
    assert waiting and all(len(clip) == 3 for clip in waiting)
    expected = global_batches([train], 4)
    train.close()
    resumed = TrainBatches(tiny_config(dataset, tokenizer), tokenizer)
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert all(same(a, b) for a, b in zip(expected, global_batches([resumed], 4), strict=True))
    resumed.close()


def test_a_distant_position_is_reached_at_once(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    near, far = (TrainBatches(config, tokenizer) for _ in range(2))
    # Position p of shard v of D is position v + p D of the source: whole epochs of 24 clips make p a multiple of 6.
    state = near.get_state()
    far.set_state({**state, "states": {v: {**s, "position": 6 * 10**12} for v, s in state["states"].items()}})
    keys = next(far).clip_key
    assert set(keys[keys != 0].tolist()) <= {record.key for record in open_split(dataset, "train")}
    close([near, far])


def test_epochs_are_counted_for_each_source_and_on_each_number_of_hosts(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer)
    tiny_dataset(tmp_path / "second", count=12, name="second")
    config.data.train.second = source(str(tmp_path / "second"), "train", weight=1.0)
    (one,), pair = hosts(config, tokenizer, 1), hosts(config, tokenizer, 2)
    assert one.epochs() == {"tiny": 0.0, "second": 0.0}
    clips = sum(batch["clip_valid"].sum() for batch in global_batches([one], 30))
    global_batches(pair, 30)
    epochs = one.epochs()
    waiting = sum(len(row) for shard in one.get_state()["states"].values() for row in shard["open"])
    assert 24 * epochs["tiny"] + 12 * epochs["second"] == pytest.approx(clips + waiting)
    assert epochs["second"] == pytest.approx(2 * epochs["tiny"], rel=0.02)
    halves = [host.epochs() for host in pair]
    assert np.mean([half["tiny"] for half in halves]) == pytest.approx(epochs["tiny"])
    close([one, *pair])


def test_the_batch_names_the_source_of_each_clip(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer)
    tiny_dataset(tmp_path / "second", name="second")
    config.data.train.second = source(str(tmp_path / "second"), "train")
    train = TrainBatches(config, tokenizer)
    batch = next(train)
    second = {record.key for record in open_split(tmp_path / "second", "train")}
    names = list(config.data.train)
    assert sorted(names) == names
    for row, slot in zip(*np.nonzero(batch.clip_valid), strict=True):
        is_second = int(batch.clip_key[row, slot]) in second
        assert names[batch.clip_source[row, slot]] == ("second" if is_second else "tiny")
    train.close()


def test_temperature_1_draws_every_clip_equally_often(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer, temperature=1.0)
    tiny_dataset(tmp_path / "second", count=6, name="second")
    config.data.train.second = source(str(tmp_path / "second"), "train")
    assert TrainBatches(config, tokenizer).fractions == pytest.approx({"tiny": 0.8, "second": 0.2})
    config.data.temperature = 2.0
    assert TrainBatches(config, tokenizer).fractions == pytest.approx({"tiny": 2 / 3, "second": 1 / 3})


def test_a_slow_device_stops_the_reading_and_memory_stays_bounded(dataset, tokenizer, monkeypatch):
    reads = []
    read = Records.__getitem__

    def counted(records, index):
        reads.append(index)
        return read(records, index)

    monkeypatch.setattr(Records, "__getitem__", counted)
    config = tiny_config(dataset, tokenizer, read_threads=4)
    with Prefetch(TrainBatches(config, tokenizer), lambda batch: batch, depth=1) as prefetch:
        clips = int(next(prefetch).clip_valid.sum())
        before = -1
        while before != len(reads):  # reading ahead stops, because no batch is taken
            before = len(reads)
            time.sleep(0.5)
        # At most: the batch given, one ready, one being placed, one planned, the open rows, and 16 records a thread.
        most = 4 * config.data.rows * config.data.slots + 4 * config.data.packing_bins * config.data.slots + 4 * 16 * 2
        assert clips < len(reads) <= most
        next(prefetch)
        time.sleep(0.5)
        assert len(reads) > before
