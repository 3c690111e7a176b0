"""A suite in the training loop: every kind, what lacks is told, and nothing that is trained on."""

import pytest

from slap_jax.config.defaults import default_config, source
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.data.batches.leakage import LeakageError, check_leakage
from slap_jax.evaluation.suites import loop_tasks
from slap_jax.train import main
from slap_jax.training.metrics import read_metrics
from tests.evaluation.published_folders import prepare_published
from tests.inference.tiny import tiny_tokenizer
from tests.train_worker import config_of as config_of_run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("words") / "words.model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("loop")
    return prepare_published(root / "published", root / "data", ("audiocaps", "esc50", "audioset"))


def config_of(suite, data):
    config = default_config()
    config.train.suite, config.train.suite_data = suite, str(data)
    return config


def test_every_kind_is_measured_and_what_lacks_is_told(data, tokenizer, caplog):
    tasks, sources = loop_tasks(config_of("all", data), tokenizer)
    kinds = [(task.name, *task.kinds) for task in tasks]
    assert kinds == [
        ("audiocaps", "retrieval"),
        ("audiocaps", "captioning"),
        ("esc50", "zero_shot"),
        ("audioset", "zero_shot_multi_label"),
        ("esc50", "probe"),
        ("audioset", "probe"),
        ("audioset", "frames"),
    ]
    assert set(sources) == {f"suite {name}, {kind}" for name, kind in kinds}
    told = [record.getMessage() for record in caplog.records if "suite all" in record.getMessage()]
    assert any("clotho, retrieval is not evaluated" in line and "slap prepare" in line for line in told)


def test_a_run_without_a_decoder_writes_no_captions(data, tokenizer, caplog):
    config = config_of("captioning", data)
    config.objectives.captioning.weight = 0.0
    with pytest.raises(ConfigError, match=r"none of its sets \(audiocaps, clotho\) can be evaluated"):
        loop_tasks(config, tokenizer)
    assert "audiocaps, captioning is not evaluated: the model has no caption decoder" in caplog.text


def test_a_run_evaluates_its_suite(data, train_data, tmp_path):
    config = config_of_run(str(train_data), 4)
    config.objectives.distillation.weight = 0.0  # less to compile
    config.train.update(evaluate_every=2, suite="all", suite_data=str(data))
    assert main(config, tmp_path / "run") == 0
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "retrieval/audiocaps/t2a_r1" in line]
    assert [line["step"] for line in lines] == [2]
    for metric in ("retrieval/audiocaps/t2a_r1", "zero_shot/esc50/accuracy", "probe/esc50_linear_dense/accuracy"):
        assert 0 <= lines[0][metric] <= 1, metric
    assert "captioning/audiocaps/cider_d" in lines[0] and "frames/audioset/auroc" in lines[0]


def test_no_suite_is_no_task(tokenizer):
    assert loop_tasks(default_config(), tokenizer) == ([], {})


def test_clips_of_the_suite_are_not_trained_on(data, tokenizer):
    _, sources = loop_tasks(config_of("zero_shot", data), tokenizer)
    with pytest.raises(LeakageError, match="suite esc50"):
        check_leakage({"esc50": (str(data / "esc50"), "fold1")}, sources)


def test_mistakes(data, tokenizer):
    with pytest.raises(ConfigError, match=r"there is no suite 'hearing'; choose one of paper, retrieval"):
        loop_tasks(config_of("hearing", data), tokenizer)
    with pytest.raises(ConfigError, match=r"none of its sets \(audioset, tacos\) can .* not prepared in .*'nowhere'"):
        loop_tasks(config_of("frames", "nowhere"), tokenizer)
    config = config_of("retrieval", data)
    config.data.evaluation.audiocaps = source("mine", "test")
    with pytest.raises(
        ConfigError, match=r"config.data.evaluation.audiocaps has the name of a set of suite 'retrieval'"
    ):
        loop_tasks(config, tokenizer)
    config = default_config()
    config.data.train.clips, config.data.tokenizer = source("clips", "train"), "words.model"
    config.train.suite = "paper"
    with pytest.raises(ConfigError, match=r"config.train.suite is 'paper' and suite_data is ''; set both"):
        validate(config)
