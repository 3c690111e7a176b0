import dataclasses

import numpy as np
import pytest

from slap_jax.batch import PackedBatch
from slap_jax.config import samples_per_column
from slap_jax.data.audio import AudioError
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clip_planning import ClipPlanner
from slap_jax.data.batches.mixture import ClipReference
from slap_jax.data.batches.row_assembly import RowAssembler
from slap_jax.data.batches.shard_rows import open_sources
from slap_jax.data.packing import Clip, pack_rows
from tests.data.tiny_data import tiny_captions, tiny_config


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_those_of_the_decoded_clips(dataset, tokenizer, threads):
    config = tiny_config(dataset, tokenizer, decode_threads=threads, slots=8)
    sources = open_sources(config)
    planner = ClipPlanner(config, tokenizer, sources)
    rows = [[planner(ClipReference(0, place, place % 24)) for place in row] for row in ((3, 4), (6,), ())]
    assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
    batch = assemble(rows)
    assemble.close()
    per_column = samples_per_column(config.audio)
    for row, clips in enumerate(rows):
        decoded = [
            Clip(clip.record.waveform()[clip.start :][: clip.samples], clip.tokens, clip.record.key) for clip in clips
        ]
        expected, _ = pack_rows(decoded, 16, 8, 96, per_column, rows=1)
        for field in dataclasses.fields(PackedBatch):
            found = getattr(batch, field.name)[row]
            np.testing.assert_array_equal(found, getattr(expected, field.name)[0], err_msg=field.name)


def test_a_plan_depends_on_the_place_alone(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer)
    sources = open_sources(config)
    first, again = (ClipPlanner(config, tokenizer, sources) for _ in range(2))
    longest = 23  # 3 s, more than max_seconds=2.56
    plans = [first(ClipReference(0, place, longest)) for place in range(20)]
    assert plans == [again(ClipReference(0, place, longest)) for place in reversed(range(20))][::-1]
    assert len({plan.start for plan in plans}) > 5 and {plan.samples for plan in plans} == {round(2.56 * 16_000)}
    assert {tokenizer.decode(plan.tokens) for plan in plans} == set(tiny_captions(longest))
    other = config.copy_and_resolve_references()
    other.seed = 1
    assert plans != [ClipPlanner(other, tokenizer, sources)(ClipReference(0, place, longest)) for place in range(20)]


@pytest.mark.parametrize("threads", [1, 3])
def test_damaged_audio_names_its_record(dataset, tokenizer, threads):
    config = tiny_config(dataset, tokenizer, decode_threads=threads)
    sources = open_sources(config)
    plan = ClipPlanner(config, tokenizer, sources)(ClipReference(0, 0, 7))
    broken = dataclasses.replace(plan, record=dataclasses.replace(plan.record, audio=plan.record.audio[:60]))
    assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
    with pytest.raises(AudioError, match="record tiny/clip-7 holds damaged audio"):
        assemble([[plan], [plan, broken]])
    assemble.close()
