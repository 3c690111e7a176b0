import dataclasses
import json

import grain
import numpy as np
import pytest

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import AudioError
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clips import ClipPlanner
from slap_jax.data.batches.rows import PackedRows, RowAssembler, RowPacker, open_sources
from slap_jax.data.batches.stream import ClipReference
from slap_jax.data.packing import Clip, pack_rows
from tests.data.tiny_data import tiny_captions, tiny_config

COLUMNS, TEXT, SLOTS = 40, 60, 8


def sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    generator = np.random.default_rng(seed)
    columns = np.clip(generator.lognormal(1.5, 0.8, count), 1, COLUMNS).astype(int)
    return list(zip(columns.tolist(), generator.integers(2, 14, count).tolist(), strict=True))


def packed(count: int, bins: int, seed: int = 0) -> tuple[list, RowPacker]:
    packer: RowPacker[int] = RowPacker(COLUMNS, TEXT, SLOTS, bins)
    rows = []
    for item, (columns, tokens) in enumerate(sizes(count, seed)):
        row = packer.add(item, columns, tokens)
        if row is not None:
            rows.append(row)
    return rows, packer


def test_every_item_is_in_one_row_and_no_row_overflows():
    rows, packer = packed(2_000, bins=6)
    everything = [*rows, *packer.open_rows]
    assert sorted(placed.item for row in everything for placed in row) == list(range(2_000))
    for row in everything:
        assert sum(placed.columns for placed in row) <= COLUMNS
        assert sum(placed.tokens for placed in row) <= TEXT
        assert len(row) <= SLOTS
    assert len(packer.open_rows) == 6


def test_a_row_is_emitted_only_when_no_open_row_has_room_for_the_next_item():
    packer: RowPacker[str] = RowPacker(10, 100, 4, bins=2)
    assert packer.add("a", 6, 1) is None
    assert packer.add("b", 5, 1) is None  # not next to a: 11 columns
    assert packer.add("c", 4, 1) is None  # into the fullest row that holds it, which is a's
    row = packer.add("d", 6, 1)  # b's row has 5 columns left
    assert row is not None and [placed.item for placed in row] == ["a", "c"]
    assert [[placed.item for placed in row] for row in packer.open_rows] == [["b"], ["d"]]


@pytest.mark.parametrize(("columns", "tokens"), [(1, 1), (20, 2), (7, 20)])
def test_every_row_is_emitted_eventually_if_all_are_equally_full(columns, tokens):
    packer: RowPacker[int] = RowPacker(COLUMNS, TEXT, SLOTS, bins=6)
    per_row = min(COLUMNS // columns, TEXT // tokens, SLOTS)
    for item in range(600):
        packer.add(item, columns, tokens)
        waiting = [placed.item for row in packer.open_rows for placed in row]
        assert item - min(waiting) < 2 * 6 * per_row


@pytest.mark.parametrize(("columns", "tokens"), [(1, 9), (1, 1)])
def test_rows_full_of_text_or_of_clips_are_emitted_too(columns, tokens):
    packer: RowPacker[int] = RowPacker(100, 20, 3, bins=2)
    rows = [row for item in range(40) if (row := packer.add(item, columns, tokens)) is not None]
    per_row = min(20 // tokens, 3)
    assert len(rows) >= 40 // per_row - 2 and all(len(row) == per_row for row in rows)


def test_an_item_larger_than_a_row_is_an_error():
    packer: RowPacker[int] = RowPacker(COLUMNS, TEXT, SLOTS, 2)
    with pytest.raises(ValueError, match="takes 41 columns and 2 text tokens; a row has 40 and 60"):
        packer.add(0, 41, 2)
    with pytest.raises(ValueError, match="61 text tokens"):
        packer.add(0, 1, 61)


def test_rows_are_fuller_than_with_grains_first_fit():
    count, bins, room = 6_000, 16, 512
    generator = np.random.default_rng(0)
    columns = np.clip(generator.lognormal(np.log(7), 0.7, count), 0.5, 30) / 0.16
    lengths = np.ceil(columns).astype(int).tolist()
    packer: RowPacker[int] = RowPacker(room, 1_024, 32, bins)
    ours = [row for item, size in enumerate(lengths) if (row := packer.add(item, size, 14)) is not None]
    fill = np.mean([sum(placed.columns for placed in row) for row in ours]) / room
    elements = grain.MapDataset.source([{"x": np.zeros(size, np.int8)} for size in lengths]).to_iter_dataset()
    theirs = grain.experimental.FirstFitPackIterDataset(
        elements, length_struct={"x": room}, num_packing_bins=bins, max_sequences_per_bin=32
    )
    grain_fill = np.mean([(row["x_segment_ids"] > 0).mean() for row in theirs])
    assert fill > grain_fill + 0.005 and fill > 0.993


def rows_dataset(bins: int = 3) -> PackedRows:
    lengths = sizes(50, seed=3)
    return PackedRows(
        grain.MapDataset.range(50).seed(1).shuffle().repeat(),
        size_of=lambda clip: lengths[clip],
        source_of=lambda clip: clip % 2,
        sources=2,
        packer=lambda: RowPacker(COLUMNS, TEXT, SLOTS, bins),
        reading=grain.ReadOptions(num_threads=2, prefetch_buffer_size=4),
    )


@pytest.mark.parametrize("rows", [0, 1, 23])
def test_the_dataset_resumes_exactly(rows):
    iterator = iter(rows_dataset())
    for _ in range(rows):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(9)]
    restored = iter(rows_dataset())
    restored.set_state(state)
    assert restored.get_state() == state
    assert [next(restored) for _ in range(9)] == expected
    assert restored.get_state() == iterator.get_state()
    iterator.close()
    restored.close()


def test_the_clips_taken_are_counted_by_source():
    iterator = iter(rows_dataset())
    given = [clip for _ in range(12) for clip in next(iterator)]
    state = iterator.get_state()
    waiting = sum(len(row) for row in state["open"])
    assert sum(state["taken"]) == state["position"] == len(given) + waiting
    assert state["taken"][0] == pytest.approx(state["position"] / 2, abs=15)
    iterator.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_assembled_rows_equal_packed_decoded_clips(dataset, tokenizer, threads):
    config = tiny_config(dataset, tokenizer, decode_threads=threads, slots=8)
    sources = open_sources(config)
    planner = ClipPlanner(config, tokenizer, sources)
    rows = [[planner(ClipReference(0, position, position % 24)) for position in row] for row in ((3, 4), (6,), ())]
    assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
    batch = assemble(rows)
    per_column = samples_per_column(config.audio)
    for row, clips in enumerate(rows):
        decoded = [
            Clip(clip.record.waveform()[clip.start :][: clip.samples], clip.tokens, clip.record.key) for clip in clips
        ]
        expected, _ = pack_rows(decoded, 16, 8, 96, per_column, rows=1)
        for field in dataclasses.fields(PackedBatch):
            actual = getattr(batch, field.name)[row]
            np.testing.assert_array_equal(actual, getattr(expected, field.name)[0], err_msg=field.name)


def test_a_plan_depends_on_the_position_only(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    sources = open_sources(config)
    first, again = (ClipPlanner(config, tokenizer, sources) for _ in range(2))
    longest = 23  # 3 s, more than max_seconds=2.56
    plans = [first(ClipReference(0, position, longest)) for position in range(20)]
    assert plans == [again(ClipReference(0, position, longest)) for position in reversed(range(20))][::-1]
    assert len({plan.start for plan in plans}) > 5 and {plan.samples for plan in plans} == {round(2.56 * 16_000)}
    assert {tokenizer.decode(plan.tokens) for plan in plans} == set(tiny_captions(longest))
    other = config.copy_and_resolve_references()
    other.seed = 1
    assert plans != [
        ClipPlanner(other, tokenizer, sources)(ClipReference(0, position, longest)) for position in range(20)
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_damaged_audio_names_its_record(dataset, tokenizer, threads):
    config = tiny_config(dataset, tokenizer, decode_threads=threads)
    sources = open_sources(config)
    plan = ClipPlanner(config, tokenizer, sources)(ClipReference(0, 0, 7))
    broken = dataclasses.replace(plan, record=dataclasses.replace(plan.record, audio=plan.record.audio[:60]))
    assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
    with pytest.raises(AudioError, match="record tiny/clip-7 holds damaged audio"):
        assemble([[plan], [plan, broken]])
