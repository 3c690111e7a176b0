"""The page of `slap report` is complete, self-contained and escaped, and states what is missing."""

import csv
import io
import json
import os
import re
import shutil
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from slap_jax.checkpoints.model_dir import ExportError
from slap_jax.drawing.theme import DrawingError
from slap_jax.report.page import build_report
from slap_jax.report.record import ReportError
from tests.report.run_dir import KnowingModel, make_clips, write_metrics, write_run

pytestmark = pytest.mark.compile

SNAPSHOT = Path(__file__).with_name("page.txt")
# HTML elements without an end tag.
VOID = {"meta", "img", "br", "link", "input", "hr", "source", "line", "rect", "circle", "path", "use", "image"}


class Checker(HTMLParser):
    """Collects resource links, the visible text and images without a description; checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.undescribed = 0
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_data(self, data):
        if data.strip() and not {"style", "script", "svg", "details"} & set(self.open):
            self.text.append(f"{self.open[-1]}: {' '.join(data.split())}")

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


def page_of(run_dir: Path, **arguments) -> str:
    build_report(run_dir, **arguments)
    return (run_dir / "report.html").read_text()


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    return checker


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "tiny <run>"
    clips = make_clips()
    evaluation = write_run(run_dir, clips)
    html = page_of(run_dir, model=KnowingModel(clips, confused=(2,)), evaluation_sets={"clips": clips})
    return run_dir, html, evaluation


def test_the_visible_text_is_that_of_the_snapshot(report):
    """Run with UPDATE_SNAPSHOTS=1 to write the snapshot, then read its diff."""
    text = "\n".join(check(report[1]).text) + "\n"
    text = re.sub(r"slap_jax [\d.]+ on \d{4}-\d\d-\d\d \d\d:\d\d UTC", "slap_jax VERSION on DATE", text)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text()


def test_the_page_needs_no_other_file(report):
    """Links lead to files of the run directory; what the page shows is inside it."""
    run_dir, html, _ = report
    checker = check(html)
    assert checker.undescribed == 0
    assert len(checker.resources) > 10
    outside = [link for link in checker.resources if not link.startswith(("data:", "#"))]
    assert outside and all((run_dir / link).exists() for link in outside)
    assert set(outside) == set(re.findall(r'<li><a href="([^"]+)"', html))
    assert not re.search(r"https?://|url\(|@import", html)
    ids = re.findall(r'\bid="([^"]+)"', report[1])
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)', report[1])) == set(ids)


def test_every_chart_has_a_light_and_a_dark_form(report):
    charts = re.findall(
        r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(.*?)">\s*<img class="figure" src="(.*?)"',
        report[1],
    )
    assert len(charts) == report[1].count("image/svg+xml") / 2 == 1 + 1 + 3
    assert all(dark != light for dark, light in charts)
    assert report[1].count('<svg class="chart"') == 3 + 4  # curves, which follow the style sheet


def test_the_tables_are_also_csv(report):
    run_dir, html, evaluation = report
    text = (run_dir / "tables.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    (first,) = [row for row in rows if row["metric"] == "text-to-audio R@1"]
    scores = evaluation["retrieval"]["clips"]
    assert (first["task"], first["set"], float(first["value"])) == ("retrieval", "clips", scores["t2a_r1"])
    assert [float(first["low"]), float(first["high"])] == scores["t2a_r1_interval"]
    assert (float(first["chance"]), first["n"]) == (scores["chance_r1"], str(scores["n_clips"]))
    (link,) = [link for link in check(html).resources if link.startswith("data:text/csv")]
    assert urllib.parse.unquote(link.partition(",")[2]) == text


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
    assert numbers["provenance"] == []
    for shown in ("strong: 0.750", "strong: 0.500", "strong: 0.600", "td: 0.1250", "td: 0.250", "td: 6 ×"):
        assert shown in check(html).text


def test_a_score_is_placed_between_its_interval_and_chance(report):
    strip = report[1][report[1].index('<svg class="strip"') :].partition("</svg>")[0]
    assert 'aria-label="0.750, 95 % interval 0.500 to 0.900, chance 0.125"' in strip
    assert 'cx="118.0"' in strip and 'x="80.0"' in strip and 'width="60.8"' in strip and 'x1="23.0"' in strip


def test_foreign_texts_are_escaped(report):
    _, html, _ = report
    assert "tiny &lt;run&gt;" in html
    assert "tiny <run>" not in html
    assert "&amp; number" in html
    assert "&lt;b&gt;" in html


def test_right_and_wrong_answers_are_both_shown(report):
    _, html, _ = report
    assert html.count('<p class="verdict"><span class="right">') == 3
    assert html.count('<p class="verdict"><span class="wrong">') == 1
    assert html.count("<audio") == html.count("data:audio/") > 0


def test_pictures_are_written(report):
    run_dir, _, _ = report
    names = {path.name for path in (run_dir / "figures").iterdir()}
    assert names == {"losses.png", "optimisation.png", "packed_row.png", "attention_masks.png", "similarity_clips.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run_dir / "figures").iterdir())


def test_missing_parts_vanish_and_a_report_replaces_an_older_one(run_dir):
    (run_dir / "report.html").write_text("an older one")
    config = json.loads((run_dir / "config.json").read_text())
    config["objectives"]["captioning"]["weight"] = 0.0
    config["objectives"]["distillation"]["weight"] = 0.0
    config["data"]["evaluation"] = {}
    (run_dir / "config.json").write_text(json.dumps(config))
    write_metrics(run_dir, 5, objectives=("contrastive",))
    (run_dir / "evaluation.json").unlink()
    shutil.rmtree(run_dir / "export")
    html = page_of(run_dir)
    text = check(html).text
    heads = [line.removeprefix("h2: ") for line in text if line.startswith("h2: ")]
    assert heads == ["Results on held-out clips", "Training", "Data", "Origin and files"]
    assert f"p: This run was not evaluated; `slap evaluate {run_dir}` scores it on its evaluation sets." in text
    assert any(line.startswith("p: There is no export of this run") for line in text)
    assert "trained with the contrastive objective" in html
    assert "span: total" not in text  # it would equal the only objective
    numbers = json.loads((run_dir / "report.json").read_text())
    assert numbers["retrieval"] == {} and numbers["zero_shot"] == {} and numbers["train"]["steps"] == 5


def test_a_model_that_fails_loses_only_its_sections(run_dir):
    class Failing:
        def embed_audio(self, audio, allow_silence=False):
            raise ValueError("broken export")

    html = page_of(run_dir, model=Failing(), evaluation_sets={"clips": make_clips(2)})
    assert "the evaluation set clips could not be shown: ValueError: broken export" in html
    assert "strong: 0.750" in check(html).text and '<ol class="slots">' in html


def test_a_run_without_a_logged_step(run_dir):
    (run_dir / "metrics.jsonl").write_text("")
    assert "too few lines" in page_of(run_dir, evaluation_sets={})
    assert json.loads((run_dir / "report.json").read_text())["train"]["audio_seconds_per_s"] is None


def test_results_of_one_direction_alone(run_dir):
    results = {"retrieval": {"clips": {"a2t_r1": 0.5, "n_clips": 4}}}
    (run_dir / "evaluation.json").write_text(json.dumps(results))
    (run_dir / "metrics.jsonl").write_text("")
    text = check(page_of(run_dir, evaluation_sets={})).text
    assert "td: clips" in text and "td: audio → text" in text and "td: text → audio" not in text


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (None, ReportError, "run is not a directory; give a run directory"),
        ({}, ReportError, "run has no config.json; give a run directory"),
        ({"model.safetensors": "x"}, ReportError, "run is an export; give the run directory"),
        ({"config.json": "{"}, ExportError, r"config\.json is not the config of a run"),
        ({"config.json": None}, ReportError, r"metrics\.jsonl is missing"),
        ({"config.json": None, "metrics.jsonl": '{"step": 1}\nhalf\n{}'}, ReportError, r"metrics\.jsonl: line 2"),
        ({"config.json": None, "metrics.jsonl": "", "evaluation.json": "{"}, ReportError, "json is not valid JSON"),
        ({"config.json": None, "metrics.jsonl": "", "evaluation.json": "[]"}, ReportError, "holds a list"),
    ],
)
def test_a_missing_run_directory_is_an_error(written, tmp_path, files, error, message):
    if files is not None:
        (tmp_path / "run").mkdir()
    for name, text in (files or {}).items():
        (tmp_path / "run" / name).write_text((written / name).read_text() if text is None else text)
    with pytest.raises(error, match=message):
        build_report(tmp_path / "run")


def test_missing_matplotlib_names_the_extra(run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DrawingError, match=r"slap_jax\[demo\]"):
        build_report(run_dir)


def test_evaluation_in_the_loop_is_drawn(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:2]
    scores = {"retrieval/a/b/t2a_r1": 0.4, "zero_shot/a/accuracy": 0.3, "classification/a/accuracy": 0.7}
    lines += [json.dumps({"step": step, "time": 2e6, **scores}) for step in (10, 20)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines))
    text = check(page_of(run_dir, evaluation_sets={})).text
    start = text.index("h3: Evaluation during training")
    assert text[start + 1 : start + 7] == [
        *("span: R@1, text → audio: a/b", "b: 0.400"),
        *("span: zero-shot accuracy: a", "b: 0.300"),
        *("span: accuracy of the trained head: a", "b: 0.700"),
    ]


def test_infinite_metrics_leave_a_gap_and_valid_json(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:6]
    broken = json.loads(lines[4]) | {"loss/total": None, "bad_steps": 1.0, "packing_fill": None}
    (run_dir / "metrics.jsonl").write_text("\n".join([*lines[:4], json.dumps(broken), *lines[5:]]))
    assert "Some steps were not finite" in page_of(run_dir, evaluation_sets={})
    assert np.isfinite(json.loads((run_dir / "report.json").read_text())["train"]["packing_fill"])
