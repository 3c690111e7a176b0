import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from slap_jax.drawing.theme import DrawingError
from slap_jax.report.page import build_report
from slap_jax.report.record import ReportError
from tests.report.run_dir import KnowingModel, make_clips, write_metrics, write_run

# Elements that HTML closes by itself.
VOID = {"meta", "img", "br", "link", "input", "hr", "source", "line", "rect", "circle", "path", "use", "image"}


class Checker(HTMLParser):
    """Collects resource links and images without a description; fails on elements that are closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.undescribed = 0
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.resources += [value for name in ("src", "href", "srcset", "xlink:href") if (value := attributes.get(name))]
        if tag == "img" and not attributes.get("alt"):
            self.undescribed += 1
        if tag == "svg" and not attributes.get("aria-label"):
            self.undescribed += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "tiny <run>"
    clips = make_clips()
    evaluation = write_run(run_dir, clips)
    build_report(run_dir, model=KnowingModel(clips, confused=(2,)), evaluation_sets={"clips": clips})
    return run_dir, (run_dir / "report.html").read_text(), evaluation


def test_the_page_needs_no_other_file(report):
    _, html, _ = report
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert checker.undescribed == 0
    assert len(checker.resources) > 10
    assert all(link.startswith(("data:", "#")) for link in checker.resources)
    assert not re.search(r"https?://|url\((?!#)|@import", html)


def test_ids_of_pictures_do_not_collide(report):
    ids = re.findall(r'\bid="([^"]+)"', report[1])
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', report[1])
    assert set(used) <= set(ids)


def test_the_numbers_are_those_of_the_evaluation(report):
    run_dir, html, evaluation = report
    numbers = json.loads((run_dir / "report.json").read_text())
    assert numbers["retrieval"] == evaluation["retrieval"]
    assert numbers["zero_shot"] == evaluation["zero_shot"]
    assert numbers["train"]["steps"] == 30
    assert numbers["train"]["audio_seconds_per_s"] == 4.0
    assert numbers["train"]["packing_fill"] == pytest.approx(0.9)
    assert numbers["train"]["wall_seconds"] == pytest.approx(29 * 5)
    assert numbers["train"]["audio_seconds"] == pytest.approx(600)
    for shown in ("0.750", "0.500", "0.125", "0.600", "0.250", "6 ×"):
        assert shown in html


def test_texts_of_others_are_escaped(report):
    _, html, _ = report
    assert "tiny &lt;run&gt;" in html
    assert "tiny <run>" not in html
    assert "&amp; number" in html
    assert "&lt;b&gt;" in html


def test_right_and_wrong_answers_are_both_shown(report):
    _, html, _ = report
    assert "the right clip came first" in html
    assert "the right clip came 8th of 8" in html or "the right clip came 2nd of 8" in html
    assert html.count("<audio") == html.count("data:audio/")


def test_pictures_are_written(report):
    run_dir, _, _ = report
    names = {path.name for path in (run_dir / "figures").iterdir()}
    assert names == {"losses.png", "optimisation.png", "packed_row.png", "attention_masks.png", "similarity_clips.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run_dir / "figures").iterdir())


def test_a_second_report_replaces_the_first(report):
    run_dir, html, _ = report
    clips = make_clips()
    build_report(run_dir, model=KnowingModel(clips, confused=(2,)), evaluation_sets={"clips": clips})
    undated = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert undated.sub("", (run_dir / "report.html").read_text()) == undated.sub("", html)


def test_missing_parts_become_sentences(tmp_path):
    run_dir = tmp_path / "bare"
    write_run(run_dir, make_clips(2))
    config = json.loads((run_dir / "config.json").read_text())
    config["objectives"]["captioning"]["weight"] = 0.0
    config["objectives"]["distillation"]["weight"] = 0.0
    config["data"]["evaluation"] = {}
    (run_dir / "config.json").write_text(json.dumps(config))
    write_metrics(run_dir, 5, objectives=("contrastive",))
    (run_dir / "evaluation.json").unlink()
    (run_dir / "export" / "tokenizer.model").unlink()
    (run_dir / "export").rmdir()
    build_report(run_dir)
    html = (run_dir / "report.html").read_text()
    for sentence in (
        "This run did not train the captioning objective.",
        "No evaluation set of this run names a label",
        "This run has no retrieval results",
        "There is no export of this run",
        "TensorBoard events",
        "no row is drawn",
        "trained with the contrastive objective",
    ):
        assert sentence in html, sentence
    assert ">total</span>" not in html  # it would repeat the only objective
    numbers = json.loads((run_dir / "report.json").read_text())
    assert numbers["retrieval"] == {} and numbers["zero_shot"] == {} and numbers["train"]["steps"] == 5


def test_a_model_that_fails_costs_only_its_parts(tmp_path):
    class Failing:
        def embed_audio(self, audio):
            raise ValueError("broken export")

    run_dir = tmp_path / "run"
    clips = make_clips(3)
    write_run(run_dir, clips)
    build_report(run_dir, model=Failing(), evaluation_sets={"clips": clips})
    html = (run_dir / "report.html").read_text()
    assert "the evaluation set clips could not be shown: ValueError: broken export" in html
    assert "0.750" in html and "packed-row" in html


def test_a_run_without_a_logged_step(tmp_path):
    run_dir = tmp_path / "run"
    write_run(run_dir, make_clips(2))
    (run_dir / "metrics.jsonl").write_text("")
    build_report(run_dir, evaluation_sets={})
    assert "too few lines" in (run_dir / "report.html").read_text()
    assert json.loads((run_dir / "report.json").read_text())["train"]["audio_seconds_per_s"] is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run_dir: None, "is not a directory"),
        (lambda run_dir: run_dir.mkdir(), "config.json is missing"),
        (lambda run_dir: (run_dir.mkdir(), (run_dir / "config.json").write_text("{}")), "metrics.jsonl is missing"),
        (
            lambda run_dir: (
                run_dir.mkdir(),
                (run_dir / "metrics.jsonl").write_text(""),
                (run_dir / "config.json").write_text("{"),
            ),
            "config.json is not valid JSON",
        ),
    ],
)
def test_no_run_directory_is_a_clear_error(tmp_path: Path, spoil, message):
    spoil(tmp_path / "run")
    with pytest.raises(ReportError, match=message):
        build_report(tmp_path / "run")


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    write_run(tmp_path / "run", make_clips(2))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DrawingError, match=r"slap_jax\[demo\]"):
        build_report(tmp_path / "run")


def test_evaluation_in_the_loop_is_drawn(tmp_path):
    run_dir = tmp_path / "run"
    write_run(run_dir, make_clips(2))
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]
    lines += [json.dumps({"step": step, "time": 2e6, "retrieval/clips/t2a_r1": step / 50}) for step in (10, 20)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines))
    build_report(run_dir, evaluation_sets={})
    html = (run_dir / "report.html").read_text()
    assert "Evaluation in the loop" in html and "R@1, text → audio" in html and "<b>0.400</b>" in html


def test_infinite_metrics_leave_a_gap_and_valid_json(tmp_path):
    run_dir = tmp_path / "run"
    write_run(run_dir, make_clips(2))
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]
    broken = json.loads(lines[4]) | {"loss/total": None, "bad_steps": 1.0, "packing_fill": None}
    (run_dir / "metrics.jsonl").write_text("\n".join([*lines[:4], json.dumps(broken), *lines[5:]]))
    build_report(run_dir, evaluation_sets={})
    assert "Some steps were not finite" in (run_dir / "report.html").read_text()
    assert np.isfinite(json.loads((run_dir / "report.json").read_text())["train"]["packing_fill"])
