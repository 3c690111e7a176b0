import collections
import json
import shutil

import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.data.inspect.measure import measure_mixture
from slap_jax.data.inspect.summary import counts, lengths, quantiles, summarise, summary_lines
from slap_jax.data.records import INDEX, dataset_directory, open_split
from tests.data.tiny_data import tiny_config, tiny_dataset

AUDIO = default_config().audio


@pytest.fixture(scope="module")
def summary(dataset, tokenizer):
    return summarise(measure_mixture(tiny_config(dataset, tokenizer, max_caption_tokens=7), tokenizer), AUDIO)


def test_summary_is_json_and_says_what_was_measured(summary, dataset):
    assert json.loads(json.dumps(summary)) == summary
    source = summary["sources"]["tiny"]
    assert (source["clips"], source["measured"], source["split"]) == (24, 24, "train")
    records = list(open_split(dataset, "train"))
    assert source["hours"] == pytest.approx(sum(record.duration_s for record in records) / 3_600, abs=1e-4)
    assert not source["hours_are_estimated"]
    assert sum(source["duration_s"]["histogram"]["counts"]) == sum(source["loudness_dbfs"]["histogram"]["counts"]) == 24
    assert source["duration_s"]["quantiles"]["100%"] == pytest.approx(3.0, rel=5e-3)
    assert source["columns_of_longest"] == np.ceil(max(record.duration_s for record in records) / 0.16)
    assert source["captions_per_clip"] == {"2": 24}
    assert source["sources"] == {"tiny": 24} and source["licences"] == {"": 24}
    assert source["labels"] == {"distinct": 2, "most_frequent": {"parity=0": 12, "parity=1": 12}}


def test_captions_are_counted_in_words_and_tokens(summary, dataset, tokenizer):
    source = summary["sources"]["tiny"]
    captions = [caption for record in open_split(dataset, "train") for caption in record.captions]
    words = collections.Counter(len(caption.split()) for caption in captions)
    assert dict(zip(source["caption_words"]["values"], source["caption_words"]["counts"], strict=True)) == words
    tokens = [len(tokenizer.encode(caption, 10_000)) for caption in captions]
    assert source["caption_tokens"]["quantiles"]["50%"] == pytest.approx(np.median(tokens))
    assert source["captions_cut"] == {
        "max_caption_tokens": 7,
        "share": pytest.approx(np.mean(np.array(tokens) > 7), abs=1e-4),
    }
    assert 0 < source["captions_cut"]["share"] < 1


def test_without_a_tokenizer_there_are_no_tokens(dataset, tokenizer):
    summary = summarise(measure_mixture(tiny_config(dataset, tokenizer), None), AUDIO)
    assert "caption_tokens" not in summary["sources"]["tiny"]
    assert summary["packing"]["text_fill"] is None and summary["packing"]["enough"]["text_tokens"] is None
    assert any("text not counted (--tokenizer FILE counts it)" in line for line in summary_lines(summary))


def test_hours_are_estimated_if_some_durations_are_unknown(dataset, tokenizer, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shutil.rmtree(dataset_directory(copy) / INDEX, ignore_errors=True)
    statistics = measure_mixture(tiny_config(copy, tokenizer), clips=6)
    source = summarise(statistics, AUDIO)["sources"]["tiny"]
    mean = np.mean([clip.record.duration_s for clip in statistics.sources["tiny"].measured])
    assert source["hours_are_estimated"] and source["hours"] == pytest.approx(24 * mean / 3_600, abs=1e-4)
    assert source["duration_s"]["clips"] == 6


def test_small_pieces():
    assert quantiles(np.arange(101.0))["95%"] == 95.0
    assert lengths([3, 1, 3]) == {"quantiles": quantiles(np.array([1.0, 3, 3])), "values": [1, 3], "counts": [1, 2]}
    assert lengths([]) == {"quantiles": {}, "values": [], "counts": []}
    assert list(counts(["b", "a", "a", "c"]).items()) == [("a", 2), ("b", 1), ("c", 1)]


def test_lines_say_what_to_set_and_what_limits_the_rows(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer, slots=1, max_seconds=1.0)
    config.data.train.other = tiny_config(tiny_dataset(tmp_path / "other", 6, 2, "other"), tokenizer).data.train.tiny
    summary = summarise(measure_mixture(config, tokenizer), AUDIO)
    lines = summary_lines(summary)
    assert f"config.audio.update(mean={summary['mean']:.2f}, std={summary['std']:.2f})" in "\n".join(lines)
    assert any(line.startswith(f"tiny: {dataset}, split train: 24 clips, ") for line in lines)
    assert any(line.startswith("other: ") and "6 clips" in line and "50 % of the mixture" in line for line in lines)
    assert f"limited by slots: with slots={summary['packing']['enough']['slots']}" in lines[-1]
