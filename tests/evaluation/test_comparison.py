"""`slap table`: our results beside published ones, and every reason why those may not compare."""

import json

import pytest

from slap_jax.evaluation.comparison import (
    FINE_TUNED,
    IN_TRAINING,
    UNKNOWN,
    ZERO_SHOT,
    ComparisonError,
    compare,
    figures,
    missing_sets,
    read_results,
    setting,
)
from slap_jax.evaluation.suites import SETS
from slap_jax.report.comparison_page import html, markdown

MODEL = {"path": "runs/mine", "step": 7, "model_id": "0123456789ab", "trained_on": ["wavcaps"]}
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


def lines_of(found, title):
    (section,) = [section for section in compare({"mine.json": found}) if section.title.startswith(f"{title},")]
    ours = [line for line in section.lines if line.ours]
    return ours, {(line.model, line.setting): line for line in section.lines if not line.ours}


def test_our_line_says_what_it_is():
    (fixed, ensemble), _ = lines_of(results(), "esc50")
    assert fixed.model == "mine step 7 (0123456789ab)" and fixed.clips == 2_000 and fixed.setting == ZERO_SHOT
    assert fixed.values == {"accuracy": 50.0} and fixed.intervals["accuracy"] == pytest.approx((40.0, 60.0))
    assert (fixed.how, ensemble.how) == ("This is a sound of {}.", "ensemble") and fixed.notes == []
    (vggsound,), _ = lines_of(results(), "vggsound")
    assert vggsound.notes == ["12,722 of the 15,496 published clips"]


def test_a_median_rank_is_no_percentage():
    ranks = {"t2a_r1": 0.3, "t2a_r1_interval": [0.2, 0.4], "t2a_medr": 4.0, "t2a_medr_interval": [3.0, 6.0]}
    entry = {**ranks, "n_clips": 975, "n_captions": 4_875, "set_size": 975, "n_published": 975, **ABOUT}
    (ours,), _ = lines_of(results(retrieval={"audiocaps": entry}), "audiocaps")
    assert ours.values["t2a_r1"] == 30.0 and ours.intervals["t2a_r1"] == pytest.approx((20.0, 40.0))
    assert ours.values["t2a_medr"] == 4.0 and ours.intervals["t2a_medr"] == (3.0, 6.0)


def test_what_differs_is_named():
    _, others = lines_of(results(), "esc50")
    assert others["SLAP", ZERO_SHOT].notes == ["number of clips not stated", "prompt not stated"]
    laion = others["LAION-CLAP, fusion", ZERO_SHOT]
    assert laion.notes == ["number of clips not stated", "recalled from memory: check before quoting"]
    assert "another prompt; ours: “This is a sound of {}.”" in others["GLAP", ZERO_SHOT].notes
    _, others = lines_of(results(), "vggsound")
    assert "ours lacks clips of the set" in others["Cacophony", ZERO_SHOT].notes
    assert not any("on 12,722 clips" in note for note in others["Cacophony", ZERO_SHOT].notes)
    found = results()
    found["zero_shot"]["vggsound"]["n"] = 15_000
    assert "on 12,722 clips; ours: 15,000" in lines_of(found, "vggsound")[1]["Cacophony", ZERO_SHOT].notes


def test_the_same_protocol_has_nothing_against_it():
    _, others = lines_of(results(), "gtzan")
    assert others["M2D-CLAP 2024", ZERO_SHOT].notes == []
    assert next(iter(others)) == ("M2D-CLAP 2024", ZERO_SHOT)  # least different first


def test_zero_shot_is_not_fine_tuned():
    scores = {
        "t2a_r1": 0.1,
        "t2a_r1_interval": [0.0, 0.2],
        "n_clips": 975,
        "set_size": 975,
        "n_published": 975,
        **ABOUT,
    }
    found = results(retrieval={"audiocaps": scores})
    ours, others = lines_of(found, "audiocaps")
    assert ours[0].setting == ZERO_SHOT and ours[0].intervals == {"t2a_r1": (0.0, 20.0)}
    assert "fine-tuned; ours: zero-shot" in others["SLAP", FINE_TUNED].notes
    assert others["SLAP", ZERO_SHOT].notes == ["number of clips not stated"]
    assert others["SLAP", ZERO_SHOT].values == {"t2a_r1": 35.1, "a2t_r1": 44.8}
    found["model"] = {**MODEL, "trained_on": ["audiocaps", "wavcaps"]}
    assert "zero-shot; ours: in training" in lines_of(found, "audiocaps")[1]["SLAP", ZERO_SHOT].notes
    found["model"] = {**MODEL, "trained_on": None}
    others = lines_of(found, "audiocaps")[1]
    assert "what one of both was trained on is not stated" in others["SLAP", FINE_TUNED].notes


def test_what_a_model_knew_of_a_set():
    assert setting({"trained_on": ["audiocaps2"]}, "audiocaps") == IN_TRAINING
    assert setting({"trained_on": ["gtzan"]}, "gtzan_all") == IN_TRAINING
    assert setting({"trained_on": []}, "audiocaps") == ZERO_SHOT
    assert setting({}, "audiocaps") == UNKNOWN
    assert setting({"trained_on": [], "setting": "fine-tuned"}, "audiocaps") == FINE_TUNED


def test_a_probe_is_not_a_network_that_was_fine_tuned():
    probe = {"accuracy": 0.9, "interval": [0.8, 1.0], "n": 2_000, "classifier": "knn", "features": "dense"}
    ours, others = lines_of(results(probe={"esc50_knn_dense": probe}, zero_shot={}), "esc50")
    assert ours[0].how == "knn on dense features"
    assert others["SLAP", FINE_TUNED].notes[0] == "whole network fine-tuned; ours: frozen features"


def test_a_network_that_was_fine_tuned_compares_with_others():
    scores = {"accuracy": 0.9, "interval": [0.8, 1.0], "n": 2_000, "label": "label"}
    ours, others = lines_of(results(classification={"esc50": scores}, zero_shot={}), "esc50")
    assert ours[0].setting == FINE_TUNED and ours[0].values == {"accuracy": 90.0}
    assert others["SLAP", FINE_TUNED].notes == ["number of clips not stated"]


def test_classes_that_lack_make_a_test_easier():
    found = results()
    found["zero_shot"]["esc50"] |= {"n_classes": 40, "n_classes_published": 50}
    ours, others = lines_of(found, "esc50")
    assert ours[0].notes == ["40 of the 50 classes"]
    assert "ours lacks classes of the set" in others["SLAP", ZERO_SHOT].notes


def test_captions_without_java_are_marked():
    scores = {
        "cider_d": 0.4,
        "cider_d_interval": [0.3, 0.5],
        "n_clips": 975,
        "tokeniser": "words",
        "decoding": {"beam": 3},
    }
    ours, others = lines_of(results(captioning={"audiocaps": scores}), "audiocaps")
    assert ours[0].values["cider_d"] == 40.0 and ours[0].how == "beam 3"
    assert "not the field's tokeniser" in ours[0].notes[0]
    assert "the field's tokeniser; ours: without Java" in others["SLAP", FINE_TUNED].notes


def test_every_figure_belongs_to_a_suite_and_has_a_source():
    found = list(figures())
    rows = {(row.kind, row.name) for row in SETS}
    assert len(found) > 140 and all((figure.kind, figure.set) in rows for figure in found)
    assert all(0 < figure.value < 100 and figure.source and figure.read for figure in found)
    assert len({figure.read for figure in found}) >= 5
    keys = [(f.model, f.kind, f.set, f.metric, f.setting, f.source) for f in found]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("render", [markdown, html])
def test_pages_show_everything(render):
    found = results(missing={"clotho, retrieval": "data/clotho is not there; prepare it with `slap prepare <x>`"})
    files = {"mine.json": found}
    page = render(compare(files), missing_sets(files))
    for text in (
        "esc50, zero-shot classification",
        "mine step 7 (0123456789ab)",
        "SLAP, arXiv 2601.12594, table 2",
        "88.6",
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


def test_files_that_are_no_results(tmp_path):
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text(json.dumps({"rows": 1}))
    for name, message in (("none.json", "cannot be read"), ("text.json", "cannot be read"), ("list.json", "holds no")):
        with pytest.raises(ComparisonError, match=f"{name} {message}.*give a file that `slap evaluate` wrote"):
            read_results([tmp_path / name])
