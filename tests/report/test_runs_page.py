"""The comparison of runs: differences with intervals, curves of all runs, settings that differ."""

import json
import re
import shutil

import numpy as np
import pytest

from slap_jax.cli import main
from slap_jax.export.card_metrics import Metric
from slap_jax.report.record import ReportError, read_run
from slap_jax.report.runs_page import (
    build_comparison,
    compare_results,
    difference_interval,
    differing_settings,
    run_names,
)
from tests.report.run_dir import write_metrics


@pytest.fixture
def runs(written, tmp_path):
    """Two runs: the second is better, heard more audio in each step, and has another learning rate."""
    first, second = (shutil.copytree(written, tmp_path / name) for name in ("first", "second <b>"))
    config = json.loads((second / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.5
    config["data"]["train"]["more"] = config["data"]["train"]["clips"] | {"path": "data/more"}
    (second / "config.json").write_text(json.dumps(config))
    for run_dir, r1, ends in ((first, 0.4, [0.3, 0.5]), (second, 0.7, [0.6, 0.8])):
        scores = {"t2a_r1": r1, "t2a_r1_interval": ends, "chance_r1": 0.1, "n_clips": 8, "split_fingerprint": "same"}
        results = {"retrieval": {"clips": scores}, "model": {"step": 40}}
        (run_dir / "evaluation.json").write_text(json.dumps(results))
        evaluated = [json.dumps({"step": step, "retrieval/clips/t2a_r1": r1 / 2}) for step in (10, 20)]
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:-1] + evaluated
        (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return first, second


def metric(value: float, interval: tuple[float, float] | None) -> Metric:
    return Metric("retrieval", "", "clips", "R@1", "", value, interval, None, 8)


def test_the_interval_of_a_difference_is_that_of_independent_results():
    generator = np.random.default_rng(0)
    first, other = generator.normal(0.4, 0.03, 400_000), generator.normal(0.5, 0.04, 400_000)
    ends = [tuple(np.quantile(one, [0.025, 0.975])) for one in (first, other)]
    expected = np.quantile(other - first, [0.025, 0.975])
    assert difference_interval(metric(0.4, ends[0]), metric(0.5, ends[1])) == pytest.approx(expected, abs=1e-3)
    assert difference_interval(metric(0.4, None), metric(0.5, ends[1])) is None


def test_results_are_compared_with_the_first_run(runs):
    (row,) = compare_results([read_run(one) for one in runs])
    assert (row["set"], row["metric"], row["chance"]) == ("clips", "text-to-audio R@1", 0.1)
    first, second = row["cells"]
    assert first["difference"] is None and second["difference"] == pytest.approx(0.3)
    assert second["difference_interval"] == pytest.approx((0.3 - 0.1 * 2**0.5, 0.3 + 0.1 * 2**0.5))
    assert second["is_clear"]


def test_different_clips_have_no_interval_of_the_difference(runs):
    results = json.loads((runs[1] / "evaluation.json").read_text())
    results["retrieval"]["clips"]["split_fingerprint"] = "other"
    (runs[1] / "evaluation.json").write_text(json.dumps(results))
    (row,) = compare_results([read_run(one) for one in runs])
    assert not row["same_clips"] and row["cells"][1]["difference_interval"] is None
    assert not row["cells"][1]["is_clear"]


def test_settings_that_differ(runs):
    assert differing_settings([read_run(one) for one in runs]) == [
        ("data.train.more", ["–", "data/more:train"]),
        ("optimizer.learning_rate", [json.dumps(read_run(runs[0]).config.optimizer.learning_rate), "0.5"]),
    ]


def test_the_page(runs, tmp_path, capsys):
    output = tmp_path / "deep" / "both.html"
    assert main(["report", str(runs[0]), str(runs[1]), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    html = output.read_text()
    assert "second &lt;b&gt;" in html and "second <b>" not in html
    assert "<b>+0.300 (+0.159 to +0.441)</b>" in html
    titles = re.findall(r"<figcaption><span>(.*?)</span>", html)
    assert titles == ["contrastive", "captioning", "total", "R@1, text → audio: clips"]
    charts = [json.loads(text.replace("&#34;", '"')) for text in re.findall(r'data-chart="(.*?)"', html)]
    assert all(
        [line["name"] for line in chart["lines"]] == ["first", "second &lt;b&gt;"] and chart["label"] == "step"
        for chart in charts
    )
    assert [points[-1] for points in (line["points"] for line in charts[-1]["lines"])] == [[40, 0.4], [40, 0.7]]
    assert not re.search(r"https?://|url\(|@import", html)


def test_steps_that_hear_different_amounts_are_drawn_over_hours(runs, tmp_path):
    lines = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    lines = [line | ({"audio_seconds": 40.0} if "audio_seconds" in line else {}) for line in lines]
    (runs[1] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    build_comparison(runs, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    charts = [json.loads(text.replace("&#34;", '"')) for text in re.findall(r'data-chart="(.*?)"', html)]
    assert all(chart["label"] == "hours of audio" for chart in charts)
    first, second = (line["points"][-1][0] for line in charts[0]["lines"])
    assert (first, second) == pytest.approx((30 * 20 / 3600, 30 * 40 / 3600), abs=1e-4)


def test_runs_that_lack_something_are_compared_all_the_same(runs, tmp_path):
    write_metrics(runs[0], 1)
    (runs[0] / "evaluation.json").unlink()
    build_comparison(runs, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "0.700" in html and "+0." not in html


def test_the_total_of_a_single_objective_is_left_out(runs, tmp_path):
    for run_dir in runs:
        write_metrics(run_dir, 5, objectives=("contrastive",))
    build_comparison(runs, tmp_path / "page.html")
    titles = re.findall(r"<figcaption><span>(.*?)</span>", (tmp_path / "page.html").read_text())
    assert "contrastive" in titles and "total" not in titles


def test_names_tell_the_runs_apart(tmp_path):
    assert run_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert run_names([tmp_path / "a", tmp_path / "a" / "best"])[1].endswith("a/best")


def test_misuse(runs, capsys, tmp_path):
    with pytest.raises(ReportError, match="is named twice"):
        build_comparison([runs[0], runs[0] / "." / ".." / runs[0].name], tmp_path / "page.html")
    assert main(["report", str(runs[0]), "--output", str(tmp_path / "page.html")]) == 2
    assert "--output belongs to a comparison of runs" in capsys.readouterr().err
    assert main(["report", str(runs[0]), str(tmp_path / "none")]) == 2
    assert "none is not a directory" in capsys.readouterr().err
