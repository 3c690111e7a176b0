"""The page of a classifier: its head with chance, classes, confusions and mistakes; nothing calls it zero-shot."""

import json
import re
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from slap_jax.evaluation.class_details import multi_label_details, single_label_details
from slap_jax.report.page import build_report
from tests.report.run_dir import make_clips, write_run

pytestmark = pytest.mark.compile

CLASSES = ["bell", "hiss", "kick <drum>"]


def classify(run_dir: Path, multi_label: bool = False) -> dict:
    """Makes a run one that was fine-tuned on labels, and writes results of its head; returns them."""
    config = json.loads((run_dir / "config.json").read_text())
    for name, settings in config["objectives"].items():
        settings["weight"] = 1.0 if name == "classification" else 0.0
    config["objectives"]["classification"] |= {"label": "sound", "classes": CLASSES, "multi_label": multi_label}
    (run_dir / "config.json").write_text(json.dumps(config))
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 0, 1, 1, 1, 2, 0, 0])
    scores, clips = 0.1 + 0.6 * np.eye(3)[predicted], [(row, f"clip-{row}") for row in range(8)]
    about = {"interval": [0.3, 0.9], "chance": 1 / 3, "n": 8, "n_classes": 3, "label": "sound", "classes": CLASSES}
    if multi_label:
        entry = {"map": 0.7, **about, **multi_label_details(scores, np.eye(3, dtype=bool)[truth], CLASSES, clips)}
    else:
        entry = {"accuracy": 0.625, "majority": 0.375, **about}
        entry |= single_label_details(scores, truth, CLASSES, clips)
    results = {"retrieval": {}, "zero_shot": {}, "classification": {"clips": entry}, "model": {"step": 30}}
    (run_dir / "evaluation.json").write_text(json.dumps(results))
    lines = [json.dumps({"step": step, "classification/clips/accuracy": 0.02 * step}) for step in (10, 20)]
    lines += [json.dumps({"step": step, "loss/classification": 1 / step}) for step in range(1, 31)]
    (run_dir / "metrics.jsonl").write_text("\n".join(sorted(lines, key=lambda line: json.loads(line)["step"])) + "\n")
    return entry


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "kinds"
    write_run(run_dir, make_clips())
    return run_dir


@pytest.fixture(scope="module")
def page(written, tmp_path_factory):
    run_dir = shutil.copytree(written, tmp_path_factory.mktemp("runs") / "kinds")
    classify(run_dir)
    build_report(run_dir, evaluation_sets={"clips": make_clips()})
    return run_dir, (run_dir / "report.html").read_text()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script)>.*?</\1>", "", html)).split())


def test_the_head_is_shown_and_never_called_zero_shot(page):
    run_dir, html = page
    text = words(html[: html.index("Settings that differ")])
    assert "The trained classification head" in text and "zero-shot" not in text.lower()
    assert "0.625 accuracy 0.300 – 0.900" in text and "0.333 0.375" in text
    assert f"slap predict my_sound.wav --model {run_dir}/export" in text and "load_classifier(" in text
    assert "One of these classes: bell hiss kick &lt;drum&gt;" in text
    assert "A classifier of sounds with 3 classes of sound" in text
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    assert heads == [
        *("Results on held-out clips", "Training", "Data"),
        *("A packed row and its attention masks", "Origin and files"),
    ]
    assert "Retrieval</h3>" not in html and "R@1" not in text


def test_the_confusion_matrix_counts_every_clip(page):
    run_dir, html = page
    table = html[html.index('<table class="confusion">') :].partition("</table>")[0]
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", table)
    counts = {name: [int(n or 0) for n in re.findall(r">(\d*)</td>", cells)] for name, cells in rows}
    del counts["true \\ predicted"]
    assert counts == {"bell": [2, 1, 0, 3], "hiss": [0, 2, 0, 2], "kick &lt;drum&gt;": [2, 0, 1, 3]}
    assert 'title="bell, predicted hiss: 1 of 3 (33 %)"' in table
    assert (run_dir / "figures" / "confusion_classification_clips.png").read_bytes().startswith(b"\x89PNG")


def test_the_worst_class_comes_first(page):
    text = words(page[1])
    start = text.index("class clips accuracy precision")
    assert text[start:].startswith(
        "class clips accuracy precision 0 to 1 kick &lt;drum&gt; 3 0.333 1.000 bell 3 0.667 0.500 hiss 2 1.000 0.667"
    )


def test_wrong_clips_are_played(page):
    _, html = page
    assert "Wrong clips 3 of 3, sampled at random" in words(html)
    cards = re.findall(r'(?s)<article class="card">(.*?)</article>', html)
    assert len(cards) == 3 and all("<audio" in card and "data:audio/" in card for card in cards)
    said = {" ".join(words(card).split("predicted ")[1].split()[:5]) for card in cards}
    assert "hiss (0.70), true bell clip-2" in said


def test_the_accuracy_of_the_last_step_closes_the_curve(page):
    chart = re.search(
        r'accuracy of the trained head: clips</span><b>(.*?)</b>.*?data-chart="(.*?)"', page[1], re.DOTALL
    )
    assert chart and chart[1] == "0.625"
    data = json.loads(chart[2].replace("&#34;", '"'))
    assert data["lines"][0]["points"] == [[10.0, 0.2], [20.0, 0.4], [30.0, 0.625]]


def test_the_csv_has_the_classes(page):
    rows = (page[0] / "tables.csv").read_text().splitlines()
    assert "trained classification head,clips,,accuracy,0.625,0.3,0.9,0.3333333333333333,8" in rows
    assert "classification,clips,hiss,precision,0.6666666666666666,,,,2" in rows
    (link,) = re.findall(r'href="data:text/csv;charset=utf-8,(.*?)"', page[1])
    assert urllib.parse.unquote(link).splitlines() == rows


def test_several_classes_per_clip_have_average_precisions(written, tmp_path):
    run_dir = shutil.copytree(written, tmp_path / "run")
    entry = classify(run_dir, multi_label=True)
    build_report(run_dir, evaluation_sets={"clips": make_clips()})
    text = words((run_dir / "report.html").read_text())
    assert "Any number of these classes" in text and "0.700 mAP" in text and "Confusion matrix" not in text
    assert f"hiss 2 {entry['per_class']['hiss']['average_precision']:.3f}" in text


def test_many_classes_have_a_list_of_confusions(written, tmp_path):
    run_dir = shutil.copytree(written, tmp_path / "run")
    classify(run_dir)
    names, truth = [f"class {index}" for index in range(40)], np.repeat(np.arange(40), 2)
    predicted = np.where(truth == 7, 8, truth)
    clips = [(row, f"clip-{row}") for row in range(80)]
    results = json.loads((run_dir / "evaluation.json").read_text())
    results["classification"]["clips"] |= single_label_details(np.eye(40)[predicted], truth, names, clips)
    results["classification"]["clips"]["classes"] = names
    (run_dir / "evaluation.json").write_text(json.dumps(results))
    build_report(run_dir, evaluation_sets={})
    html = (run_dir / "report.html").read_text()
    assert '<table class="confusion">' not in html and "class 7 class 8 2" in words(html)
    assert "The worst classes; 10 better ones are in the CSV." in words(html)
    assert not list((run_dir / "figures").glob("confusion*"))


def test_a_head_that_was_not_evaluated_says_how(written, tmp_path):
    run_dir = shutil.copytree(written, tmp_path / "run")
    classify(run_dir)
    (run_dir / "evaluation.json").unlink()
    build_report(run_dir, evaluation_sets={})
    text = words((run_dir / "report.html").read_text())
    assert f"`slap evaluate {run_dir}` scores every class" in text and "accuracy of the trained head: clips" in text


def test_results_of_an_unknown_form_lose_only_their_section(written, tmp_path):
    run_dir = shutil.copytree(written, tmp_path / "run")
    classify(run_dir)
    results = json.loads((run_dir / "evaluation.json").read_text())
    results["classification"]["clips"]["per_class"] = {"bell": 3}
    (run_dir / "evaluation.json").write_text(json.dumps(results))
    build_report(run_dir, evaluation_sets={})
    text = words((run_dir / "report.html").read_text())
    assert "classification could not be shown: TypeError" in text and "accuracy of the trained head: clips" in text


def test_the_best_step_has_a_report_with_the_curves_of_its_run(written, tmp_path):
    run_dir = shutil.copytree(written, tmp_path / "kinds")
    classify(run_dir)
    best = run_dir / "best"
    (best / "checkpoints" / "20").mkdir(parents=True)
    for name in ("config.json", "evaluation.json"):
        shutil.copyfile(run_dir / name, best / name)
    build_report(best, evaluation_sets={"clips": make_clips()})
    html = (best / "report.html").read_text()
    assert "those of step 20, the best one" in html
    assert "<h1>kinds/best</h1>" in html and html.count('<svg class="chart"') == 2
    assert "0.625" in html and f"slap predict my_sound.wav --model {best}/export" in html
    links = re.findall(r'<li><a href="([^"]+)"', html)
    assert "metrics.jsonl" not in links and all((best / link).exists() for link in links)
