"""Every protocol of the suites, on folders laid out by the real builders and prepared as a user would."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from slap_jax.config.rules import ConfigError
from slap_jax.data.datasets.registry import DATASETS
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.evaluation.captioning import Captions
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.suites import SETS, SUITES, load_suite, suite_sets
from slap_jax.evaluation.text_table import table
from tests.evaluation.hashing_embedder import HashingEmbedder
from tests.evaluation.published_folders import prepare_published
from tests.inference.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("words") / "words.model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("suites")
    return prepare_published(root / "published", root / "data")


@pytest.fixture(scope="module")
def results(data, tokenizer):
    tasks, missing = load_suite(suite_sets("all"), data, tokenizer, 24)
    assert missing == {}
    captions = Captions(lambda waveforms: ["a dog barks"] * len(waveforms), {"beam": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slap_jax.evaluation.captioning.find_java", lambda: None)  # test_captioning.py waits for Java
        return evaluate(HashingEmbedder(), {}, tasks, resamples=20, captions=captions)


def test_every_row_has_a_result_that_says_how_it_was_measured(results):
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


def test_missing_clips_are_told(results):
    found = results["retrieval"]["audiocaps"]
    assert (found["n_clips"], found["set_size"], found["n_published"]) == (4, 4, 975)
    assert (found["n_captions"], found["n_distinct_captions"], found["captions_per_clip"]) == (20, 13, [5, 5])
    assert "note: audiocaps has 4 clips, not the 975 that were published" in table(results)
    assert "note: vggsound has 2 classes, not the 309 that were published" in table(results)
    found = {row.name: results[row.kind][row.name]["n_classes_published"] for row in suite_sets("zero_shot")}
    assert (found["esc50"], found["speech_commands"], found["nsynth"], found["audioset"]) == (50, 35, 11, 527)
    assert "n_classes_published" not in results["retrieval"]["audiocaps"]


def test_accuracy_is_the_mean_of_unequal_folds(results, data, tokenizer):
    found = results["zero_shot"]["urbansound8k"]
    assert len(found["fold_accuracies"]) == 10 and found["n"] == 15
    assert found["accuracy"] == pytest.approx(np.mean(list(found["fold_accuracies"].values())))
    embedder, right = HashingEmbedder(), {}
    prompts = [f"This is a sound of {name}." for name in ("dog bark", "siren")]
    classes = embedder.text({}, [tokenizer.encode(prompt, 24) for prompt in prompts])
    for clip in load_evaluation(data / "urbansound8k", "+".join(f"fold{n}" for n in range(1, 11))):
        predicted = int(np.argmax(embedder.audio({}, [clip.waveform]) @ classes.T))
        fold = next(label for label in clip.labels if label.startswith("fold="))
        right.setdefault(fold, []).append(f"label={('dog bark', 'siren')[predicted]}" in clip.labels)
    assert found["accuracy"] == pytest.approx(np.mean([np.mean(fold) for fold in right.values()]))
    assert found["pooled_accuracy"] == pytest.approx(np.mean([one for fold in right.values() for one in fold]))
    assert found["accuracy"] != found["pooled_accuracy"]
    assert list(results["zero_shot"]["esc50"]["fold_accuracies"]) == ["1", "2", "3", "4", "5"]


def test_both_splits_of_gtzan(results):
    assert results["zero_shot"]["gtzan"]["n"] == 2 and results["zero_shot"]["gtzan"]["n_published"] == 290
    assert results["zero_shot"]["gtzan_all"]["n"] == 6 and results["zero_shot"]["gtzan_all"]["n_published"] == 1_000


def test_classes_and_words_of_the_prompts(results, data, tokenizer):
    assert results["zero_shot"]["nsynth"]["classes"] == ["bass", "guitar", "synth lead"]
    assert results["zero_shot"]["nsynth"]["chance"] == pytest.approx(1 / 3)
    assert results["zero_shot"]["speech_commands"]["classes"] == ["yes", "zero"]
    tasks, _ = load_suite(suite_sets("zero_shot"), data, tokenizer, 24)
    prompts = {task.name: task.labels.prompts(task.labels.templates[0]) for task in tasks if task.labels}
    assert prompts["crema_d"] == ["angry person talking can be heard", "someone talking sadly can be heard"]
    assert prompts["ravdess"] == ["this person is feeling angry", "this person is feeling happy"]
    assert prompts["speech_commands"] == ["yes", "zero"]
    assert prompts["esc50"][2] == "This is a sound of sea waves."


def test_several_labels_are_scored_by_macro_map(results, data, tokenizer):
    found = results["zero_shot_multi_label"]["fsd50k"]
    assert found["classes"] == ["Bark", "Dog", "Rain"] and found["n"] == 6 and found["n_classes_scored"] == 3
    embedder = HashingEmbedder()
    classes = embedder.text({}, [tokenizer.encode(f"{name} can be heard", 24) for name in found["classes"]])
    clips = load_evaluation(data / "fsd50k", "eval")
    audio = embedder.audio({}, [clip.waveform for clip in clips])
    truth = np.array([[f"label={name}" in clip.labels for name in found["classes"]] for clip in clips])
    assert found["map"] == pytest.approx(average_precision_score(truth, audio @ classes.T, average="macro"), abs=1e-9)
    assert found["chance"] == pytest.approx(truth.mean())


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
    found = results["captioning"]["audiocaps"]
    assert (found["n_clips"], found["n_captions"], found["n_distinct_written"]) == (4, 20, 1)
    assert found["tokeniser"] == "words" and found["decoding"] == {"beam": 1}
    assert found["not_computed"]["meteor"].startswith("needs Java")


def test_the_table_of_all_results(results):
    printed = table(results)
    for title in ("retrieval", "zero-shot", "zero-shot, mAP", "probe", "probe, mAP", "captioning", "text against time"):
        assert any(line.startswith(title) for line in printed.splitlines()), title
    assert "gtzan_ensemble, label" in printed


def test_what_is_not_prepared_is_listed_with_its_command(tmp_path, tokenizer):
    prepared = prepare_published(tmp_path / "published", tmp_path / "data", ("ravdess", "gtzan_filtered"))
    (prepared / "gtzan_filtered").rename(prepared / "gtzan")  # prepared, but another split
    tasks, missing = load_suite(suite_sets("zero_shot"), prepared, tokenizer, 24)
    assert [task.name for task in tasks] == ["ravdess"]
    assert len(missing) == 10
    assert missing["esc50, zero_shot"] == (
        f"{prepared}/esc50 is not there; prepare it with "
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


def test_rows_are_told_apart_by_name_and_kind():
    assert len({(row.name, row.kind) for row in SETS}) == len(SETS)
    assert all(row.dataset in DATASETS for row in SETS)
    for row in SETS:
        assert set(row.split.split("+")) <= set(DATASETS[row.dataset].expected), row.name
        assert row.test_part in ("", *row.split.split("+"))
