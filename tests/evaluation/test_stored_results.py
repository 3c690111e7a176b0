"""Evaluating another set of a run keeps the results that the run has."""

import json

import pytest

from slap_jax.evaluation.stored_results import merge_results


def results(model_id="a", step=5, seed=0, setting=None, missing=None, **kinds):
    """Results of the given kinds: kind -> {set: (score, fingerprint)}."""
    about = {"step": step, "model_id": model_id} | ({"setting": setting} if setting else {})
    scores = {
        kind: {name: {"score": score, "split_fingerprint": clips} for name, (score, clips) in sets.items()}
        for kind, sets in kinds.items()
    }
    return {**scores, **({"missing": missing} if missing else {}), "bootstrap": {"seed": seed}, "model": about}


@pytest.fixture
def path(tmp_path):
    stored = results(
        retrieval={"mine": (0.1, "x"), "old": (0.2, "y")},
        zero_shot={"mine": (0.3, "x")},
        missing={"lost, retrieval": "gone", "new, frames": "gone"},
    )
    (tmp_path / "evaluation.json").write_text(json.dumps(stored))
    return tmp_path / "evaluation.json"


def test_other_sets_and_other_measures_of_the_same_clips_are_kept(path):
    merged, note = merge_results(results(retrieval={"mine": (0.9, "x"), "new": (0.5, "z")}, zero_shot={}), path)
    assert {name: entry["score"] for name, entry in merged["retrieval"].items()} == {
        "mine": 0.9,
        "new": 0.5,
        "old": 0.2,
    }
    assert merged["zero_shot"]["mine"]["score"] == 0.3 and note == ""
    assert merged["missing"] == {"lost, retrieval": "gone"}  # the set `new` is there now


def test_results_of_other_clips_with_the_same_name_are_replaced_and_named(path):
    merged, note = merge_results(results(retrieval={"mine": (0.9, "other")}), path)
    assert merged["retrieval"].keys() == {"mine", "old"} and "zero_shot" not in merged
    assert "results of other clips named mine" in note


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"model_id": "b", "step": 9}, "another checkpoint, step 5"),
        ({"setting": "zero-shot"}, "another setting, derived from the sources"),
        ({"seed": 1}, "another bootstrap, {'seed': 0}"),
    ],
)
def test_results_that_were_measured_otherwise_are_replaced_and_named(path, changed, difference):
    new = results(retrieval={"new": (0.5, "z")}, **changed)
    merged, note = merge_results(new, path)
    assert merged == new and difference in note and str(path) in note and "replaced" in note


@pytest.mark.parametrize(("text", "reason"), [("{", "was damaged"), ("[]", "did not hold results")])
def test_a_file_without_results_is_replaced_and_named(path, text, reason):
    path.write_text(text)
    new = results(retrieval={"new": (0.5, "z")})
    merged, note = merge_results(new, path)
    assert merged == new and reason in note


def test_the_first_results_are_unchanged(tmp_path):
    new = results(retrieval={"new": (0.5, "z")})
    assert merge_results(new, tmp_path / "evaluation.json") == (new, "")
