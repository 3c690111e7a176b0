"""Every protocol of the suites, on tiny folders in the publishers' layouts; suites in the training loop."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from slap_jax.config.defaults import default_config, source
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.data.batches.leakage import LeakageError, check_leakage
from slap_jax.data.datasets.registry import DATASETS
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.evaluation.captioning import CaptionGenerator
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.suites import SETS, SUITES, load_suite, loop_tasks, suite_sets
from slap_jax.evaluation.task import ZeroShot
from slap_jax.evaluation.text_table import table
from slap_jax.train import main
from slap_jax.training.metrics import read_metrics
from tests.evaluation.hashing_embedder import HashingEmbedder
from tests.evaluation.published_folders import prepare_published
from tests.train_worker import config_of as config_of_run


@pytest.fixture(scope="module")
def data(published_data):
    return published_data


@pytest.fixture
def no_java(monkeypatch):
    """`test_captioning.py` tests Java, which takes seconds to start."""
    monkeypatch.setattr("slap_jax.evaluation.captioning.find_java", lambda: None)


@pytest.fixture(scope="module")
def results(data, tokenizer):
    tasks, missing = load_suite(suite_sets("all"), data, tokenizer, 24)
    assert missing == {}
    generator = CaptionGenerator(lambda waveforms: ["a dog barks"] * len(waveforms), {"beam": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slap_jax.evaluation.captioning.find_java", lambda: None)
        return evaluate(HashingEmbedder(), {}, tasks, resamples=20, generator=generator)


def test_every_row_has_a_result_with_its_protocol(results):
    assert json.loads(json.dumps(results)) == results
    for row in SETS:
        keys = [f"{row.name}_{c}_{f}" for c in ("linear", "knn") for f in ("global", "dense")]
        for key in keys if row.kind == "probe" else [row.name]:
            entry = results[row.kind][key]
            assert entry["split"] == row.split and entry["crop"] == "none" and len(entry["split_fingerprint"]) == 16
            assert entry["n_published"] == sum(DATASETS[row.dataset].expected[s].clips for s in row.split.split("+"))
            assert any(name.endswith("interval") for name in entry)
            assert row.kind == "probe" or entry["text"] == {"changes": "none", "cut_at_tokens": 24}
        if row.template:
            assert results[row.kind][row.name]["template"] == row.template
            assert results[row.kind][f"{row.name}_ensemble"]["template"] == row.ensemble


def test_missing_clips_are_reported(results):
    result = results["retrieval"]["audiocaps"]
    assert (result["n_clips"], result["set_size"], result["n_published"]) == (4, 4, 975)
    assert (result["n_captions"], result["n_distinct_captions"], result["captions_per_clip"]) == (20, 13, [5, 5])
    assert "note: audiocaps has 4 clips; 975 were published" in table(results)
    assert "note: vggsound has 2 classes; 309 were published" in table(results)
    result = {row.name: results[row.kind][row.name]["n_classes_published"] for row in suite_sets("zero_shot")}
    assert (result["esc50"], result["speech_commands"], result["nsynth"], result["audioset"]) == (50, 35, 11, 527)
    assert "n_classes_published" not in results["retrieval"]["audiocaps"]


def test_accuracy_is_the_mean_of_unequal_folds(results, data, tokenizer):
    result = results["zero_shot"]["urbansound8k"]
    assert len(result["fold_accuracies"]) == 10 and result["n"] == 15
    assert result["accuracy"] == pytest.approx(np.mean(list(result["fold_accuracies"].values())))
    embedder, right = HashingEmbedder(), {}
    prompts = [f"This is a sound of {name}." for name in ("dog bark", "siren")]
    classes = embedder.text({}, [tokenizer.encode(prompt, 24) for prompt in prompts])
    for clip in load_evaluation(data / "urbansound8k", "+".join(f"fold{n}" for n in range(1, 11))):
        predicted = int(np.argmax(embedder.audio({}, [clip.waveform]) @ classes.T))
        fold = next(label for label in clip.labels if label.startswith("fold="))
        right.setdefault(fold, []).append(f"label={('dog bark', 'siren')[predicted]}" in clip.labels)
    assert result["accuracy"] == pytest.approx(np.mean([np.mean(fold) for fold in right.values()]))
    assert result["pooled_accuracy"] == pytest.approx(np.mean([one for fold in right.values() for one in fold]))
    assert result["accuracy"] != result["pooled_accuracy"]
    assert list(results["zero_shot"]["esc50"]["fold_accuracies"]) == ["1", "2", "3", "4", "5"]


def test_both_splits_of_gtzan(results):
    assert results["zero_shot"]["gtzan"]["n"] == 2 and results["zero_shot"]["gtzan"]["n_published"] == 290
    assert results["zero_shot"]["gtzan_all"]["n"] == 6 and results["zero_shot"]["gtzan_all"]["n_published"] == 1_000


def test_classes_and_words_of_the_prompts(results, data, tokenizer):
    assert results["zero_shot"]["nsynth"]["classes"] == ["bass", "guitar", "synth lead"]
    assert results["zero_shot"]["nsynth"]["chance"] == pytest.approx(1 / 3)
    assert results["zero_shot"]["speech_commands"]["classes"] == ["yes", "zero"]
    tasks, _ = load_suite(suite_sets("zero_shot"), data, tokenizer, 24)
    measures = {task.name: task.measures[0] for task in tasks}
    prompts = {name: m.prompts(m.templates[0]) for name, m in measures.items() if isinstance(m, ZeroShot)}
    assert prompts.keys() == measures.keys()
    assert prompts["crema_d"] == ["angry person talking can be heard", "someone talking sadly can be heard"]
    assert prompts["ravdess"] == ["this person is feeling angry", "this person is feeling happy"]
    assert prompts["speech_commands"] == ["yes", "zero"]
    assert prompts["esc50"][2] == "This is a sound of sea waves."


def test_several_labels_are_scored_by_macro_map(results, data, tokenizer):
    result = results["zero_shot_multi_label"]["fsd50k"]
    assert result["classes"] == ["Bark", "Dog", "Rain"] and result["n"] == 6 and result["n_classes_scored"] == 3
    embedder = HashingEmbedder()
    classes = embedder.text({}, [tokenizer.encode(f"{name} can be heard", 24) for name in result["classes"]])
    clips = load_evaluation(data / "fsd50k", "eval")
    audio = embedder.audio({}, [clip.waveform for clip in clips])
    truth = np.array([[f"label={name}" in clip.labels for name in result["classes"]] for clip in clips])
    assert result["map"] == pytest.approx(average_precision_score(truth, audio @ classes.T, average="macro"), abs=1e-9)
    assert result["chance"] == pytest.approx(truth.mean())


def test_probes_use_folds_actors_or_the_test_split(results):
    esc50, crema_d = results["probe"]["esc50_linear_global"], results["probe"]["crema_d_knn_dense"]
    assert list(esc50["fold_accuracies"]) == ["1", "2", "3", "4", "5"] and esc50["test_part"] == "each in turn"
    assert list(crema_d["fold_accuracies"]) == ["0", "1", "2", "3", "4"] and crema_d["n"] == 12
    gtzan, fsd50k = results["probe"]["gtzan_linear_dense"], results["probe"]["fsd50k_linear_global"]
    assert (gtzan["n"], gtzan["n_train"], gtzan["test_part"]) == (2, 4, "test")
    assert (fsd50k["n"], fsd50k["n_train"]) == (6, 6) and 0 < fsd50k["map"] <= 1


def test_regions_are_classes_or_sentences(results):
    assert results["frames"]["audioset"]["by"] == "class" and results["frames"]["audioset"]["n_scored"] == 2
    assert results["frames"]["audioset"]["n_segments"] == 12  # 2.5 s each
    assert results["frames"]["tacos"]["by"] == "region" and results["frames"]["tacos"]["n_scored"] == 4


def test_captions_of_clips_with_references(results):
    result = results["captioning"]["audiocaps"]
    assert (result["n_clips"], result["n_captions"], result["n_distinct_written"]) == (4, 20, 1)
    assert result["tokeniser"] == "words" and result["decoding"] == {"beam": 1}
    assert result["not_computed"]["meteor"].startswith("needs Java")


def test_the_table_of_all_results(results):
    printed = table(results)
    for title in ("retrieval", "zero-shot", "zero-shot, mAP", "probe", "probe, mAP", "captioning", "text against time"):
        assert any(line.startswith(title) for line in printed.splitlines()), title
    assert "gtzan_ensemble, label" in printed


def test_unprepared_sets_are_listed_with_their_command(tmp_path, tokenizer):
    prepared = prepare_published(tmp_path / "published", tmp_path / "data", ("ravdess", "gtzan_filtered"))
    (prepared / "gtzan_filtered").rename(prepared / "gtzan")  # prepared, but another split
    tasks, missing = load_suite(suite_sets("zero_shot"), prepared, tokenizer, 24)
    assert [task.name for task in tasks] == ["ravdess"]
    assert len(missing) == 10
    assert missing["esc50, zero_shot"] == (
        f"{prepared}/esc50 does not exist; prepare it with "
        f"`slap prepare PUBLISHERS_FOLDER {prepared}/esc50 --dataset esc50`"
    )
    assert "has no split 'full'" in missing["gtzan_all, zero_shot"]
    assert missing["gtzan_all, zero_shot"].endswith("--dataset gtzan --option splits=full`")
    assert missing["gtzan, zero_shot"].endswith(f"{prepared}/gtzan_filtered --dataset gtzan --option splits=test`")


def test_suites():
    assert {name: len(suite_sets(name)) for name in SUITES} == {
        "paper": 10,
        "retrieval": 2,
        "zero_shot": 11,
        "captioning": 2,
        "probe": 10,
        "frames": 2,
        "all": 27,
    }
    with pytest.raises(ConfigError, match="there is no suite 'zeroshot'; choose one of paper, retrieval, zero_shot"):
        suite_sets("zeroshot")


def test_rows_are_distinguished_by_name_and_kind():
    assert len({(row.name, row.kind) for row in SETS}) == len(SETS)
    assert all(row.dataset in DATASETS for row in SETS)
    for row in SETS:
        assert set(row.split.split("+")) <= set(DATASETS[row.dataset].expected), row.name
        assert row.test_part in ("", *row.split.split("+"))


def config_of(suite, data):
    config = default_config()
    config.train.suite, config.train.suite_data = suite, str(data)
    return config


def test_every_kind_is_measured_and_missing_sets_are_logged(tmp_path, data, tokenizer, caplog):
    for name in ("audiocaps", "esc50", "audioset"):
        (tmp_path / name).symlink_to(data / name)
    tasks, sources = loop_tasks(config_of("all", tmp_path), tokenizer)
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


@pytest.mark.process
def test_a_run_evaluates_its_suite(data, train_data, tmp_path, no_java):
    for name in ("audiocaps", "esc50", "audioset"):
        (tmp_path / name).symlink_to(data / name)
    config = config_of_run(str(train_data), 4)
    config.objectives.distillation.weight = 0.0  # less to compile
    config.train.update(evaluate_every=2, suite="all", suite_data=str(tmp_path))
    assert main(config, tmp_path / "run") == 0
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "retrieval/audiocaps/t2a_r1" in line]
    assert [line["step"] for line in lines] == [2, 4]  # the last step, too
    for metric in ("retrieval/audiocaps/t2a_r1", "zero_shot/esc50/accuracy", "probe/esc50_linear_dense/accuracy"):
        assert 0 <= lines[0][metric] <= 1, metric
    assert "captioning/audiocaps/cider_d" in lines[0] and "frames/audioset/auroc" in lines[0]


def test_without_a_suite_there_is_no_task(tokenizer):
    assert loop_tasks(default_config(), tokenizer) == ([], {})


def test_clips_of_the_suite_are_not_trained_on(data, tokenizer):
    _, sources = loop_tasks(config_of("zero_shot", data), tokenizer)
    with pytest.raises(LeakageError, match="suite esc50"):
        check_leakage({"esc50": (str(data / "esc50"), "fold1")}, sources)


def test_suite_errors(data, tokenizer):
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
