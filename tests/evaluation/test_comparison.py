"""`slap table`: our results next to published ones, and every reason why those may not be comparable."""

import json
import re

import pytest

from slap_jax.evaluation import comparison
from slap_jax.evaluation.comparison import (
    FINE_TUNED,
    IN_TRAINING,
    KINDS,
    UNKNOWN,
    ZERO_SHOT,
    ComparisonError,
    Published,
    compare,
    figures,
    missing_sets,
    read_results,
    setting,
)
from slap_jax.evaluation.suites import SETS
from slap_jax.report.comparison_page import html, markdown

MODEL = {"path": "runs/mine", "step": 7, "model_id": "0123456789ab", "trained_on": ["wavcaps"], "setting": ZERO_SHOT}
ABOUT = {"split_fingerprint": "f", "crop": "none", "text": {"changes": "none", "cut_at_tokens": 24}}


def classified(accuracy, n, n_published, template):
    about = {"set_size": n, "n_published": n_published, "template": template, "n": n, **ABOUT}
    return {"accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.1], **about}


def results(**changes):
    zero_shot = {
        "esc50": classified(0.5, 2_000, 2_000, "This is a sound of {}."),
        "esc50_ensemble": classified(0.6, 2_000, 2_000, "ensemble"),
        "vggsound": classified(0.2, 12_722, 15_496, "This is a sound of {}."),
        "gtzan": classified(0.4, 290, 290, "{} music can be heard"),
    }
    return {"retrieval": {}, "zero_shot": zero_shot, "model": MODEL, **changes}


def lines_of(result, title):
    (section,) = [section for section in compare({"mine.json": result}) if section.title.startswith(f"{title},")]
    ours = [line for line in section.lines if line.ours]
    return ours, {(line.model, line.setting): line for line in section.lines if not line.ours}


def test_our_line_states_its_protocol():
    (fixed, ensemble), _ = lines_of(results(), "esc50")
    assert fixed.model == "mine step 7 (0123456789ab)" and fixed.clips == 2_000 and fixed.setting == ZERO_SHOT
    assert fixed.values == {"accuracy": 50.0} and fixed.intervals["accuracy"] == pytest.approx((40.0, 60.0))
    assert (fixed.how, ensemble.how) == ("This is a sound of {}.", "ensemble") and fixed.notes == []
    (vggsound,), _ = lines_of(results(), "vggsound")
    assert vggsound.notes == ["12,722 of the 15,496 published clips"]


def test_a_median_rank_is_not_a_percentage():
    ranks = {"t2a_r1": 0.3, "t2a_r1_interval": [0.2, 0.4], "t2a_medr": 4.0, "t2a_medr_interval": [3.0, 6.0]}
    entry = {**ranks, "n_clips": 975, "n_captions": 4_875, "set_size": 975, "n_published": 975, **ABOUT}
    (ours,), _ = lines_of(results(retrieval={"audiocaps": entry}), "audiocaps")
    assert ours.values["t2a_r1"] == 30.0 and ours.intervals["t2a_r1"] == pytest.approx((20.0, 40.0))
    assert ours.values["t2a_medr"] == 4.0 and ours.intervals["t2a_medr"] == (3.0, 6.0)


def test_differences_are_named():
    _, others = lines_of(results(), "esc50")
    assert others["Cacophony", ZERO_SHOT].notes == ["number of clips not stated", "prompt not stated"]
    assert others["WavCaps HTSAT-BERT", ZERO_SHOT].notes == ["another prompt; ours: “This is a sound of {}.”"]
    _, others = lines_of(results(), "vggsound")
    assert "ours lacks clips of the set" in others["Cacophony", ZERO_SHOT].notes
    assert not any("on 12,722 clips" in note for note in others["Cacophony", ZERO_SHOT].notes)
    result = results()
    result["zero_shot"]["vggsound"]["n"] = 15_000
    assert "on 12,722 clips; ours: 15,000" in lines_of(result, "vggsound")[1]["Cacophony", ZERO_SHOT].notes


def test_the_same_protocol_has_no_objection():
    _, others = lines_of(results(), "gtzan")
    assert [line.notes for line in others.values()] == [[]]
    _, others = lines_of(results(), "esc50")
    assert next(iter(others)) == ("WavCaps HTSAT-BERT", ZERO_SHOT)  # least different first


def test_settings_are_compared():
    scores = {
        "t2a_r1": 0.1,
        "t2a_r1_interval": [0.0, 0.2],
        "n_clips": 975,
        "set_size": 975,
        "n_published": 975,
        "sources": ["audiocaps"],
        **ABOUT,
    }
    result = results(retrieval={"audiocaps": scores})
    ours, others = lines_of(result, "audiocaps")
    assert ours[0].setting == ZERO_SHOT and ours[0].intervals == {"t2a_r1": (0.0, 20.0)}
    assert "in training; ours: zero-shot" in others["AuroLA-7B", IN_TRAINING].notes
    assert others["AuroLA-7B, PT", ZERO_SHOT].notes == ["number of clips not stated"]
    assert others["AuroLA-7B, PT", ZERO_SHOT].values == {"t2a_r1": 43.3, "a2t_r1": 53.0}
    result["model"] = {**MODEL, "setting": None, "trained_on": ["audiocaps", "wavcaps"]}
    assert "zero-shot; ours: in training" in lines_of(result, "audiocaps")[1]["AuroLA-7B, PT", ZERO_SHOT].notes
    result["model"] = {**MODEL, "setting": None, "trained_on": None}
    others = lines_of(result, "audiocaps")[1]
    assert "training data of one of the two not stated" in others["AuroLA-7B, PT", ZERO_SHOT].notes


def test_zero_shot_is_stated_and_never_guessed():
    """A folder named "train" means nothing, and clips of a collection may have another source in the training data."""
    entry = {"sources": ["audiocaps"]}
    assert setting({"trained_on": ["train"]}, entry) == UNKNOWN
    assert setting({"trained_on": ["wavcaps"]}, entry) == UNKNOWN
    assert setting({"trained_on": ["audiocaps2"]}, entry) == UNKNOWN
    assert setting({"trained_on": ["audiocaps", "wavcaps"]}, entry) == IN_TRAINING
    assert setting({"trained_on": []}, entry) == setting({"trained_on": None}, {}) == setting({}, entry) == UNKNOWN
    assert setting({"trained_on": ["audiocaps"], "setting": "zero-shot"}, entry) == ZERO_SHOT
    assert setting({"trained_on": [], "setting": "fine-tuned"}, entry) == FINE_TUNED


def test_a_probe_is_not_a_fine_tuned_network():
    probe = {"map": 0.3, "interval": [0.2, 0.4], "n": 20_000, "classifier": "knn", "features": "dense"}
    ours, others = lines_of(results(probe={"audioset_knn_dense": probe}, zero_shot={}), "audioset")
    assert ours[0].how == "knn on dense features"
    assert others["EAT large, 20 epochs", FINE_TUNED].notes[0] == "whole network fine-tuned; ours: frozen features"
    result = results(probe={"esc50_linear_global": {**probe, "accuracy": 0.9}}, zero_shot={})
    assert lines_of(result, "esc50")[1]["M2D", UNKNOWN].notes[0] == "another probe protocol"


def test_a_fine_tuned_network_compares_with_others():
    scores = {"map": 0.3, "interval": [0.2, 0.4], "n": 20_000, "label": "label"}
    ours, others = lines_of(results(classification={"audioset": scores}, zero_shot={}), "audioset")
    assert ours[0].setting == FINE_TUNED and ours[0].values == {"map": 30.0}
    assert others["EAT large, 20 epochs", FINE_TUNED].notes == ["number of clips not stated"]
    result = results(classification={"esc50": {**scores, "accuracy": 0.9}}, zero_shot={})
    assert lines_of(result, "esc50")[1]["M2D", UNKNOWN].notes[0] == "probe on frozen features; ours: fine-tuned"


def test_missing_classes_make_a_test_easier():
    result = results()
    result["zero_shot"]["esc50"] |= {"n_classes": 40, "n_classes_published": 50}
    ours, others = lines_of(result, "esc50")
    assert ours[0].notes == ["40 of the 50 classes"]
    assert "ours lacks classes of the set" in others["Cacophony", ZERO_SHOT].notes


def test_captions_without_java_are_marked(monkeypatch):
    figure = Published("X", "captioning", "audiocaps", FINE_TUNED, "a paper", "https://x.org", {"cider_d": 70.0})
    monkeypatch.setattr(comparison, "figures", lambda: (figure,))
    scores = {
        "cider_d": 0.4,
        "cider_d_interval": [0.3, 0.5],
        "n_clips": 975,
        "tokeniser": "words",
        "decoding": {"beam": 3},
    }
    ours, others = lines_of(results(captioning={"audiocaps": scores}), "audiocaps")
    assert ours[0].values["cider_d"] == 40.0 and ours[0].how == "beam 3"
    assert "not the usual tokeniser" in ours[0].notes[0]
    assert "the usual tokeniser; ours: without Java" in others["X", FINE_TUNED].notes


def test_every_figure_belongs_to_a_suite_and_has_a_source():
    rows = {(row.kind, row.name) for row in SETS}
    for figure in figures():
        assert (figure.kind, figure.set) in rows and figure.values.keys() <= KINDS[figure.kind][1].keys(), figure
        assert all(0 < value < 100 for value in figure.values.values()), figure
        assert figure.setting in (ZERO_SHOT, IN_TRAINING, FINE_TUNED, UNKNOWN), figure
        assert re.fullmatch(r"https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/\S+", figure.url), figure
    assert len({(f.model, f.kind, f.set) for f in figures()}) == len(figures()) > 80


@pytest.mark.parametrize("render", [markdown, html])
def test_pages_show_everything(render):
    result = results(missing={"clotho, retrieval": "data/clotho is not there; prepare it with `slap prepare <x>`"})
    files = {"mine.json": result}
    page = render(compare(files), missing_sets(files))
    for text in (
        "esc50, zero-shot classification",
        "mine step 7 (0123456789ab)",
        "Cacophony, evaluation README of its repository",
        "93.4",
    ):
        assert text in page
    assert "50.0" in page and "40.0–60.0" in page and "no known difference" in page
    assert "clotho, retrieval" in page and "not stated" in page
    assert ("`slap prepare <x>`" in page) == (render is markdown)  # escaped in HTML


def test_several_files_are_lines_of_one_table():
    other = results(model={**MODEL, "path": "runs/other"})
    sections = compare({"mine.json": results(), "other.json": other})
    (esc50,) = [section for section in sections if section.title.startswith("esc50")]
    models = [line.model for line in esc50.lines if line.ours]
    assert models == ["mine step 7 (0123456789ab)"] * 2 + ["other step 7 (0123456789ab)"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"retrieval": 7}, "retrieval is not an object"),
        ({"retrieval": {"x": [1]}}, "retrieval/x is not an object"),
        ({"zero_shot": {"x": {"accuracy": "high"}}}, "zero_shot/x/accuracy is 'high', not a number"),
        ({"zero_shot": {}, "model": "mine"}, "model is not an object"),
        ({"zero_shot": {}, "missing": ["x"]}, "missing is not an object"),
    ],
)
def test_results_of_another_form_are_named(tmp_path, content, message):
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(ComparisonError, match=f"odd.json: {message}, so it is damaged; give a file"):
        read_results([tmp_path / "odd.json"])


def test_files_that_are_not_results_are_errors(tmp_path):
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text(json.dumps({"rows": 1}))
    for name, message in (("none.json", "cannot be read"), ("text.json", "cannot be read"), ("list.json", "holds no")):
        with pytest.raises(ComparisonError, match=f"{name} {message}.*give a file that `slap evaluate` wrote"):
            read_results([tmp_path / name])
