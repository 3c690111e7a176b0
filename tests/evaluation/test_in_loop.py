"""Scores of a classification head equal scikit-learn's, on clips with several classes, unknown ones, and none."""

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from slap_jax.checkpoints.model_dir import export
from slap_jax.config.defaults import source
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import Record, make_record, open_split
from slap_jax.evaluation.in_loop import HeadEvaluation, score_table
from slap_jax.finetune.config import finetune_config
from slap_jax.inference.classifier import Classifier, FinetuneError
from slap_jax.inference.embedder import Embedder
from slap_jax.training.init_from import replace_params
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import create_state
from tests.inference.tiny import noise, tiny_config

pytestmark = pytest.mark.compile

TAGS = ("bell", "dog", "rain")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve clips with one to three tags each; `test` also has one without a tag and one with a unique tag."""
    generator = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("tags") / "tags"
    splits = {}
    for split, seed in (("train", 0), ("test", 50)):
        records = []
        for index in range(12):
            tags = [tag for tag in TAGS if generator.random() < 0.5] or ["dog"]
            labels = tuple(f"tag={tag}" for tag in tags)
            records.append(make_record(f"{split}-{index}", noise(seed + index, 0.3), [], labels=labels, source="tags"))
        if split == "test":
            records.append(make_record("none", noise(90, 0.3), [], labels=("kind=x",), source="tags"))
            records.append(make_record("new", noise(91, 0.3), [], labels=("tag=horn", "tag=rain"), source="tags"))
        splits[split] = (len(records), records)
    prepare_records(splits, directory, {"tags": 1}, log=lambda line: None)
    return directory


@pytest.fixture(scope="module")
def trained(run_params, tokenizer, data, tmp_path_factory):
    """A config for several classes, and parameters with a head that is not zero."""
    base = export(run_params, tiny_config(), tokenizer.path, tmp_path_factory.mktemp("base") / "export")
    config = finetune_config(
        str(base), "classification", {"tags": source(str(data), "train")}, multi_label=True, max_seconds=0.64
    )
    params = {"model": run_params["model"]}
    generator = np.random.default_rng(1)
    width = config.model.audio_encoder.width
    output = {"kernel": generator.normal(size=(width, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    head = {"norm": {"scale": np.ones(width, np.float32)}, "output": output}
    return config, {**params, "objectives": {"classification": {"head": head}}}


def test_macro_map_equals_scikit_learn(trained, data):
    config, params = trained
    embedder = Embedder(config)
    sets = {"test": source(str(data), "test")}
    scores = HeadEvaluation(config, embedder, sets)(params, resamples=50)["test"]
    records = [record for record in open_split(data, "test") if any("tag=" in label for label in record.labels)]
    result = Classifier(config, embedder)(params, [record.waveform() for record in records])
    assert np.all((result > 0) & (result < 1)) and np.abs(result.sum(axis=1) - 1).max() > 0.1  # sigmoids
    truth = np.array([[f"tag={tag}" in record.labels for tag in TAGS] for record in records])
    expected = np.mean([average_precision_score(truth[:, y], result[:, y]) for y in range(3)])
    assert scores["map"] == pytest.approx(expected, abs=1e-9)
    assert scores["n"] == 13 and scores["n_unknown"] == 1 and scores["classes"] == list(TAGS)
    low, high = scores["interval"]
    assert low <= scores["map"] <= high
    table = score_table({"classification": {"test": scores}})
    assert f"{scores['map']:.3f}" in table and "test, tag" in table


def test_with_one_class_per_clip_unknown_classes_are_wrong(trained, tmp_path):
    config, params = trained
    config = config.copy_and_resolve_references()
    config.objectives.classification.multi_label = False
    labels = (("tag=dog",), ("tag=rain",), ("tag=horn",), ())
    records = [make_record(f"{i}", noise(i, 0.3), [], labels=one) for i, one in enumerate(labels)]
    prepare_records({"test": (4, records)}, tmp_path / "one", {"one": 1}, log=lambda line: None)
    embedder = Embedder(config)
    scores = HeadEvaluation(config, embedder, {"one": source(str(tmp_path / "one"), "test")})(params)["one"]
    best = Classifier(config, embedder)(params, [record.waveform() for record in records]).argmax(axis=1)
    right = [TAGS[best[0]] == "dog", TAGS[best[1]] == "rain", False]
    assert scores["accuracy"] == pytest.approx(np.mean(right)) and scores["n"] == 3 and scores["n_unknown"] == 1
    assert scores["chance"] == pytest.approx(1 / 3) and scores["majority"] == pytest.approx(1 / 3)


def test_several_classes_are_an_error_if_the_model_has_one_per_clip(trained, data):
    config = trained[0].copy_and_resolve_references()
    config.objectives.classification.multi_label = False
    with pytest.raises(FinetuneError, match=r"has \d values of the label 'tag', and the model was trained for one"):
        HeadEvaluation(config, Embedder(config), {"test": source(str(data), "test")})


def test_no_clip_is_decoded_before_the_first_step(trained, data, monkeypatch):
    """Labels are read without audio: on VGGSound's test split that would be 15,000 clips, on every host."""
    config, params = trained
    decoded, waveform = [], Record.waveform

    def counted(record):
        decoded.append(record.id)
        return waveform(record)

    monkeypatch.setattr(Record, "waveform", counted)
    evaluation = HeadEvaluation(config, Embedder(config), {"test": source(str(data), "test")})
    assert decoded == []
    evaluation(params, resamples=5)
    assert len(decoded) == 13


def test_a_head_of_other_classes_starts_from_zero(trained):
    config, params = trained
    config = config.copy_and_resolve_references()
    config.objectives.classification.classes = ("a", "b")
    state = jax.jit(lambda: create_state(config, create_optimizer(config.optimizer, 1)))()
    replaced = replace_params(state, params, "config.init_from=there").params
    head = replaced["objectives"]["classification"]["head"]
    assert head["output"]["kernel"].shape == (32, 2) and not np.any(head["output"]["kernel"])
    embedding = "audio_encoder", "patch_embedding", "kernel"
    result, expected = replaced["model"], params["model"]
    for key in embedding:
        result, expected = result[key], expected[key]
    np.testing.assert_array_equal(result, expected)
