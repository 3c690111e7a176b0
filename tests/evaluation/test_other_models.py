"""Evaluation of a model of another family: the same measures on the same clips, and results that tables accept."""

import json

import numpy as np
import pytest

from slap_jax.cli import main
from slap_jax.config.rules import ConfigError
from slap_jax.data.records import open_split
from slap_jax.evaluation import other_models
from slap_jax.evaluation.comparison import compare, read_results
from slap_jax.evaluation.evaluate import write_results
from slap_jax.evaluation.other_models import OtherModelScorer, open_scorer
from slap_jax.evaluation.task import captioning_task, load_tasks
from slap_jax.other_models.dual_encoder import DualEncoder
from tests.other_models.fake_encoder import FakeEncoder


class Oracle(FakeEncoder):
    """Knows the captions of the clips it hears: retrieval is perfect unless clips or texts are mixed up."""

    sample_rate, embed_dim, max_tokens, family = 16_000, 64, 8, "ClapModel"
    max_seconds = 30.0

    def __init__(self, records):
        super().__init__()
        self.clip_of = {len(record.waveform()): number for number, record in enumerate(records)}
        self.clip_of |= {caption: number for number, record in enumerate(records) for caption in record.captions}

    def audio_vectors(self, waveforms):
        return np.eye(self.embed_dim)[[self.clip_of[len(waveform)] for waveform in waveforms]]

    def text_vectors(self, texts):
        return np.eye(self.embed_dim)[[self.clip_of[text] for text in texts]]


@pytest.fixture(scope="module")
def scenes(train_data):
    return train_data / "scenes"


@pytest.fixture
def scorer(scenes):
    records = list(open_split(scenes, "test"))
    assert len({len(record.waveform()) for record in records}) == len(records)
    return OtherModelScorer(DualEncoder(Oracle(records)), "clap:laion/oracle")


def test_retrieval_and_its_record(scorer, scenes):
    sources = {"scenes": _source(scenes)}
    tasks = load_tasks(sources, scorer.vocabulary, scorer.max_tokens)
    results = scorer.score(tasks, setting="zero-shot")
    entry = results["retrieval"]["scenes"]
    assert entry["t2a_r1"] == entry["a2t_r1"] == 1.0
    captions = [caption for record in open_split(scenes, "test") for caption in record.captions]
    assert entry["n_captions_cut"] == sum(len(caption.split()) > 8 for caption in captions)
    assert entry["text"] == {"changes": "none", "cut_at_tokens": 8}
    assert results["model"] == {
        "path": "clap:laion/oracle",
        "name": "ClapModel oracle",
        "model_id": "fake00000002",
        "sample_rate": 16_000,
        "trained_on": None,
        "setting": "zero-shot",
    }


def test_what_the_model_cannot_do_is_left_out_with_a_reason(scorer, scenes):
    (task,) = load_tasks({"scenes": _source(scenes)}, scorer.vocabulary, scorer.max_tokens)
    tasks, reasons = scorer.filter_supported([task, captioning_task(task.data)])
    assert [one.kinds for one in tasks] == [("retrieval",)]
    assert list(reasons) == ["scenes, captioning"]


def test_the_command_and_its_table(scorer, scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(other_models, "is_other_model", lambda model: True)
    monkeypatch.setattr(other_models, "load_other_model", lambda model: scorer._other)
    output = tmp_path / "results.json"
    arguments = ["clap:laion/oracle", "--data", f"scenes={scenes}:test", "--output", str(output)]
    assert main(["evaluate", *arguments]) == 0
    assert json.loads(output.read_text())["retrieval"]["scenes"]["t2a_r1"] == 1.0
    assert main(["table", str(output)]) == 0
    assert "ClapModel oracle (fake00000002)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has no step 3"):
        open_scorer("clap:laion/oracle", step=3)


def test_a_table_mentions_that_prepared_data_lack_the_highest_frequencies(scorer, scenes, tmp_path):
    scorer._other.encoder.sample_rate = 48_000
    results = {"model": scorer._about(None), "retrieval": {"scenes": {"t2a_r1": 0.5, "n_clips": 8}}}
    write_results(results, tmp_path / "a.json")
    ((line, *_),) = [section.lines for section in compare(read_results([tmp_path / "a.json"]))]
    assert line.notes == ["prepared data hold 16 kHz; the model was made for 48 kHz"]


def _source(path):
    from slap_jax.config.defaults import source

    return source(str(path), "test")
