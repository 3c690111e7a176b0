"""Charts have the right values in the right places, whatever the values are."""

import html
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from slap_jax.report.charts import Line, line_chart
from slap_jax.report.curves import evaluation_panels, loss_panels
from slap_jax.report.record import read_run
from tests.report.run_dir import make_clips, write_run


def draw(values, steps=None, **options) -> tuple[ElementTree.Element, dict]:
    values = np.asarray(values, np.float64)
    steps = np.arange(len(values), dtype=np.float64) if steps is None else np.asarray(steps, np.float64)
    svg = str(line_chart([Line("", "total", steps, values)], "a <curve>", **options))
    return ElementTree.fromstring(svg), json.loads(html.unescape(re.findall(r'data-chart="(.*?)"', svg)[0]))


def curves(svg: ElementTree.Element, panel: str = "linear") -> list[np.ndarray]:
    (group,) = [group for group in svg.iter("g") if group.get("class") == panel]
    paths = [path.get("d") or "" for path in group.iter("path") if (path.get("class") or "").startswith("curve")]
    return [
        np.array([[float(part) for part in point.split()] for point in re.split("[ML]", path) if point])
        for path in paths
    ]


def test_a_plateau_fills_the_height():
    """An axis from 0 would draw 7.0 to 5.34 as a flat line."""
    (points,) = curves(draw(np.linspace(7.0, 5.34, 20))[0])
    assert np.ptp(points[:, 1]) > 110 and np.all(np.diff(points[:, 1]) > 0)


def test_positions_are_linear_and_the_pointer_uses_the_same_axes():
    svg, data = draw([2.0, 4.0, 3.0], steps=[10, 20, 40])
    (points,) = curves(svg)
    (first, last, left, right), (low, high, bottom, top) = data["x"], data["y"]
    for (step, value), (across, down) in zip(data["lines"][0]["points"], points, strict=True):
        assert across == pytest.approx(left + (step - first) / (last - first) * (right - left), abs=0.06)
        assert down == pytest.approx(bottom + (value - low) / (high - low) * (top - bottom), abs=0.06)
    assert data["label"] == "step" and "step" in [text.text for text in svg.iter("text")]


def test_a_logarithmic_axis_is_offered_where_it_exists():
    svg, data = draw([1.0, 0.1, 0.01], log=True)
    (points,) = curves(svg, "log")
    assert np.diff(points[:, 1])[0] == pytest.approx(np.diff(points[:, 1])[1], abs=0.2)
    assert data["log"][0] == pytest.approx(0.01 / 1.05)
    for values in ([1.0, 0.0, 2.0], [-1.0, 3.0]):
        assert "log" not in draw(values, log=True)[1]


def test_gaps_break_the_line_and_a_long_run_stays_small():
    svg, data = draw([1.0, 2.0, np.nan, 3.0, 2.5])
    assert str(ElementTree.tostring(svg)).count("M") >= 2 and len(data["lines"][0]["points"]) == 4
    generator = np.random.default_rng(0)
    values = generator.normal(size=100_000)
    values[77_777] = 30.0
    long, data = draw(values)
    (points,) = curves(long)
    assert len(points) < 400 and len(data["lines"][0]["points"]) < 400
    assert points[:, 1].min() == pytest.approx(data["y"][3], abs=10)  # the peak is still drawn


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [5.0, 5.0, 5.0], [-3.0], [1e-9, 2e-9], [1e12, 3e12], [np.nan, 1.0, np.nan]]
)
def test_odd_values_have_a_chart(values):
    svg, data = draw(values, log=True)
    assert np.isfinite(np.array(data["y"])).all() and data["y"][0] < data["y"][1]
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")


@pytest.fixture
def run_dir(tmp_path):
    write_run(tmp_path / "run", make_clips(2))
    return tmp_path / "run"


def test_held_out_losses_are_drawn_next_to_the_training_loss(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]
    lines += [json.dumps({"step": step, "held_out_loss/a/b/contrastive": 1.0 + step}) for step in (10, 30)]
    lines += [json.dumps({"step": 30, "held_out_loss/other/weighted_sum": 1.0})]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    contrastive, captioning, total = loss_panels(read_run(run_dir))
    assert [line.name for line in contrastive.lines] == ["training", "held out, a/b"]
    np.testing.assert_array_equal(contrastive.lines[1].values, [11.0, 31.0])
    assert len(captioning.lines) == len(total.lines) == 1


def test_panels_have_titles_of_their_own_and_chance(run_dir):
    scores = {"retrieval/clips/t2a_r1": 0.3, "retrieval/clips/a2t_r1": 0.2, "retrieval/clips/chance_r1": 0.1}
    scores |= {"zero_shot/clips/accuracy": 0.5, "zero_shot/clips/chance": 0.25}
    lines = [json.dumps({"step": step, **scores}) for step in (10, 20)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    (run_dir / "evaluation.json").write_text(json.dumps({**evaluation, "model": {"step": 30}}))
    panels = evaluation_panels(read_run(run_dir))
    titles = [panel.title for panel in panels]
    assert titles == ["R@1, text → audio: clips", "R@1, audio → text: clips", "zero-shot accuracy: clips"]
    assert [line.name for line in panels[0].lines] == ["value", "chance"] and panels[0].bounds[0] == 0.0
    np.testing.assert_array_equal(panels[0].lines[0].steps, [10, 20, 30])  # evaluation.json is of step 30
    assert panels[0].value == evaluation["retrieval"]["clips"]["t2a_r1"]
