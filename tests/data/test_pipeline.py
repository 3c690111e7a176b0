import collections
import dataclasses
import json
from itertools import islice

import numpy as np
import pytest

from slap_jax.batch import PackedBatch
from slap_jax.config import ConfigError, source
from slap_jax.data.audio import AudioError
from slap_jax.data.pipeline import DataMismatchError, TrainBatches, load_clip, load_evaluation
from slap_jax.data.prefetch import Prefetch
from slap_jax.data.prepare import prepare_records
from slap_jax.data.records import RecordsError, open_split
from tests.data.tiny_data import tiny_captions, tiny_config, tiny_dataset, tiny_record, tiny_tokenizer

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
        columns = batch["audio_segments"][row] == slot + 1
        samples = batch["waveform"][row].reshape(len(columns), -1)[columns].reshape(-1)
        tokens = batch["text_tokens"][row][batch["text_segments"][row] == slot + 1]
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
    assert (batch.audio_segments > 0).mean() > 0.7
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
    assert set(states[0]["states"]) == {"0", "1"} and len(json.dumps(merged)) < 2_000
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
    few, many = (TrainBatches(tiny_config(dataset, tokenizer, decode_threads=threads), tokenizer) for threads in (1, 9))
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
    # Whole epochs, but for clips that wait in rows not given yet.
    assert max(counts.values()) - min(counts.values()) <= 0.25 * len(clips) / 24
    captions = collections.defaultdict(set)
    for key, _, tokens in clips:
        captions[key].add(tokenizer.decode(tokens))
    assert all(len(found) == 2 for found in captions.values())


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
    shares = np.zeros((4, 2))
    for _ in range(40):
        batch = next(train)
        for shard in range(4):
            rows = slice(2 * shard, 2 * shard + 2)
            keys = batch.clip_key[rows][batch.clip_valid[rows]]
            shares[shard] += len(keys), sum(int(key) in second for key in keys)
    np.testing.assert_allclose(shares[:, 1] / shares[:, 0], 0.75, atol=0.05)
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.data.update(rows=16), r"config\.data\.rows: 8 in the checkpoint, 16 now"),
        (lambda config: config.data.update(packing_bins=5), r"packing_bins: 3 in the checkpoint, 5 now"),
        (lambda config: config.update(seed=4), r"config\.seed: 0 in the checkpoint, 4 now"),
        (lambda config: config.data.train.tiny.update(split="test"), r"train\.tiny\.split: train in.*test now"),
        (lambda config: config.data.train.update(more=config.data.train.tiny), r"more\.weight: \(none\) in"),
    ],
)
def test_other_data_or_settings_are_refused_with_a_readable_difference(dataset, tokenizer, change, words):
    config = tiny_config(dataset, tokenizer)
    train = TrainBatches(config, tokenizer)
    next(train)
    state = train.get_state()
    train.close()
    change(config)
    changed = TrainBatches(config, tokenizer)
    with pytest.raises(DataMismatchError, match=words):
        changed.set_state(state)
    config.data.allow_mismatch = True
    changed.set_state(state)
    next(changed)
    changed.close()


def test_changed_contents_and_another_tokenizer_are_noticed(dataset, tokenizer, tmp_path):
    state = TrainBatches(tiny_config(dataset, tokenizer), tokenizer).get_state()
    grown = tiny_dataset(tmp_path / "grown", count=25)
    with pytest.raises(DataMismatchError, match=r"clips of tiny: 24 in the checkpoint, 25 now\n.*contents of tiny"):
        TrainBatches(tiny_config(grown, tokenizer), tokenizer).set_state(state)
    other = tiny_tokenizer(tmp_path, count=9)
    with pytest.raises(DataMismatchError, match="tokenizer"):
        TrainBatches(tiny_config(dataset, other), other).set_state(state)


def test_another_number_of_shards_is_refused_even_if_mismatch_is_allowed(dataset, tokenizer):
    state = TrainBatches(tiny_config(dataset, tokenizer), tokenizer).get_state()
    changed = TrainBatches(tiny_config(dataset, tokenizer, virtual_shards=2, allow_mismatch=True), tokenizer)
    with pytest.raises(DataMismatchError, match="is for 4 virtual shards"):
        changed.set_state(state)
    partial = {**state, "states": {"0": state["states"]["0"]}}
    with pytest.raises(DataMismatchError, match="holds 1"):
        TrainBatches(tiny_config(dataset, tokenizer), tokenizer).set_state(partial)


def test_missing_data_and_damaged_records_say_so(dataset, tokenizer, tmp_path):
    with pytest.raises(RecordsError, match="slap prepare"):
        TrainBatches(tiny_config(tmp_path / "nothing", tokenizer), tokenizer)
    damaged = dataclasses.replace(tiny_record(0, 0.5), audio=b"fLaC")
    prepare_records({"train": (1, [damaged])}, tmp_path / "damaged", {}, log=lambda line: None)
    train = TrainBatches(tiny_config(tmp_path / "damaged", tokenizer), tokenizer)
    with pytest.raises(AudioError, match=r"record tiny/clip-0 holds damaged audio"):
        next(train)
    train.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.data.update(rows=10), "rows is 10, not a multiple"),
        (lambda config: config.data.train.tiny.update(weight=0.0), r"train\.tiny\.weight is 0\.0"),
    ],
)
def test_impossible_settings_are_refused(dataset, tokenizer, change, words):
    config = tiny_config(dataset, tokenizer)
    change(config)
    with pytest.raises(ConfigError, match=words):
        TrainBatches(config, tokenizer)


def test_load_clip_draws_by_its_generator(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    record = tiny_record(5, 3.0)
    first, again, other = (
        load_clip(record, np.random.default_rng(seed), tokenizer, config.data, config.audio) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.waveform, again.waveform) and first.tokens == again.tokens
    assert len(other.waveform) == round(2.56 * 16_000) and not np.array_equal(first.waveform, other.waveform)


def test_evaluation_clips_are_whole_ordered_and_complete(dataset):
    clips = load_evaluation(dataset, "test+train")
    records = open_split(dataset, "test+train")
    assert [clip.id for clip in clips] == [record.id for record in records]
    assert clips.fingerprint == records.fingerprint and clips.split == "test+train"
    for clip, record in zip(clips, records, strict=True):
        assert np.array_equal(clip.waveform, record.waveform()) and clip.key == record.key
        assert clip.captions == record.captions and clip.labels == record.labels
    assert max(len(clip.waveform) for clip in clips) > 2.56 * 16_000
    assert len(load_evaluation(dataset, "train", limit=3)) == 3
