"""`slap report RUN RUN`: one page that compares runs: results with differences, curves, settings, and origin."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slap_jax.atomic import write_text_atomic
from slap_jax.export.card_metrics import Metric, read_metrics
from slap_jax.report.charts import Line, line_chart
from slap_jax.report.contents import flatten, trained_objectives
from slap_jax.report.curves import EVALUATIONS, HELD_OUT, LOSSES, TOTAL, evaluation_series, has_curve, training_line
from slap_jax.report.origin import provenance
from slap_jax.report.record import ReportError, RunRecord, read_run, summarise
from slap_jax.report.render import render

Values = dict[str, Any]

_COLOURS = 6  # of the style sheet
_NORMAL = 1.959964  # half width of a 95 % interval, in standard deviations
_SAME_AUDIO = 1.05  # runs whose steps hear this much more audio than others are drawn over hours, not steps


def build_comparison(run_dirs: Sequence[Path], output: Path) -> None:
    """Writes a page that compares runs; the first one is what the others are compared to.

    Args:
        run_dirs: at least two directories that `slap train` wrote, or `best` in one.
        output: the page; it needs no other file.

    Raises:
        ReportError, ExportError: not a run directory, a damaged one, or a directory that is named twice.
    """
    places = [path.resolve() for path in run_dirs]
    for path, place in zip(run_dirs, places, strict=True):
        if places.count(place) > 1:
            raise ReportError(f"{path} is named twice; name each run once")
    runs = [read_run(Path(path)) for path in run_dirs]
    names = run_names(places)
    x_label, scales = _horizontal(runs)
    page = render(
        "runs.html",
        runs=[
            {"name": name, "colour": _colour(index), "dashed": index >= _COLOURS, "directory": str(path)}
            for index, (name, path) in enumerate(zip(names, run_dirs, strict=True))
        ],
        facts=_facts(runs),
        results=compare_results(runs),
        losses=_loss_charts(runs, names, x_label, scales),
        evaluations=_evaluation_charts(runs, names, x_label, scales),
        x_label=x_label,
        settings=differing_settings(runs),
        origin=_origin(runs),
        version=version("slap-jax"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(output, page)


def run_names(places: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths that tell all runs apart."""
    for count in range(1, max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len(set(names)) == len(names) and not any(name == "best" for name in names):
            return names
    return [str(place) for place in places]


def compare_results(runs: Sequence[RunRecord]) -> list[Values]:
    """Returns a row for each metric of each set that at least one run has.

    The cell of a run has `value`, `interval`, and, for all runs but the first, `difference` with `difference_interval`,
    which treats the two results as independent. Without intervals, or if the runs were measured on different clips,
    there is no interval of the difference; `same_clips` says whether the fingerprints of the sets agree.
    """
    tables = [{(one.task, one.set, one.name): one for one in read_metrics(run.evaluation)} for run in runs]
    prints = [_fingerprints(run.evaluation) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = []
    for task, set_name, name in sorted(keys, key=lambda key: _position(key, keys)):
        metrics = [table.get((task, set_name, name)) for table in tables]
        known = {marks[set_name] for marks in prints if set_name in marks}
        same = len(known) < 2
        cells = [_cell(metric, metrics[0] if index else None, same) for index, metric in enumerate(metrics)]
        chance = next((one.chance for one in metrics if one and one.chance is not None), None)
        rows.append(
            {"task": task, "set": set_name, "metric": name, "chance": chance, "cells": cells, "same_clips": same}
        )
    return rows


def difference_interval(first: Metric, other: Metric) -> tuple[float, float] | None:
    """Returns the 95 % interval of `other - first` as if both were independent; None without their intervals."""
    if not first.interval or not other.interval:
        return None
    deviations = [(ends[1] - ends[0]) / (2 * _NORMAL) for ends in (first.interval, other.interval)]
    half = _NORMAL * math.hypot(*deviations)
    return other.value - first.value - half, other.value - first.value + half


def differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Returns the settings that differ between the runs, with the value of each run as JSON; – where it has none.

    A source of data that only some runs have is one row, with its path and split.
    """
    trees = [json.loads(run.config.to_json_best_effort()) for run in runs]
    rows = []
    for part in ("train", "evaluation"):
        sources = [tree["data"].pop(part, {}) for tree in trees]
        for name in dict.fromkeys(name for one in sources for name in one):
            if all(name in one for one in sources):
                for tree, one in zip(trees, sources, strict=True):
                    tree["data"].setdefault(part, {})[name] = one[name]
            else:
                cells = [f"{one[name]['path']}:{one[name]['split']}" if name in one else "–" for one in sources]
                rows.append((f"data.{part}.{name}", cells))
    flat = [flatten(tree) for tree in trees]
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [json.dumps(one[name]) if name in one else "–" for one in flat]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows


def _cell(metric: Metric | None, first: Metric | None, same_clips: bool) -> Values | None:
    if metric is None:
        return None
    cell: Values = {"value": metric.value, "interval": metric.interval, "difference": None, "n": metric.count}
    if first is not None:
        ends = difference_interval(first, metric) if same_clips else None
        cell |= {
            "difference": metric.value - first.value,
            "difference_interval": ends,
            "is_clear": bool(ends and (ends[0] > 0 or ends[1] < 0)),
        }
    return cell


def _position(key: tuple[str, str, str], keys: Mapping[tuple[str, str, str], Any]) -> tuple[int, int]:
    """Keeps the metrics of a task and set together, in the order in which they first occur."""
    order = list(keys)
    return next(index for index, one in enumerate(order) if one[:2] == key[:2]), order.index(key)


def _fingerprints(evaluation: Mapping[str, Any]) -> dict[str, str]:
    sets = (
        (name, scores)
        for kind in evaluation.values()
        if isinstance(kind, Mapping)
        for name, scores in kind.items()
        if isinstance(scores, Mapping)
    )
    return {name: str(scores["split_fingerprint"]) for name, scores in sets if "split_fingerprint" in scores}


def _facts(runs: Sequence[RunRecord]) -> list[tuple[str, str, list[Any]]]:
    """Returns (title, name of the filter that formats the values, values)."""
    summaries = [summarise(run) for run in runs]
    return [
        ("objectives", "", [", ".join(trained_objectives(run.config)) for run in runs]),
        ("parameters", "count", [one["parameters"] for one in summaries]),
        ("steps", "number", [one["steps"] for one in summaries]),
        ("audio trained on", "duration", [one["audio_seconds"] for one in summaries]),
        ("wall time", "duration", [one["wall_seconds"] for one in summaries]),
        ("seconds of audio per second", "number", [one["audio_seconds_per_s"] for one in summaries]),
    ]


def _horizontal(runs: Sequence[RunRecord]) -> tuple[str, list[float]]:
    """Returns the label of the horizontal axis and what to multiply the steps of each run by.

    Runs whose steps hear as much audio are drawn over steps, others over hours of audio.
    """
    heard = [float(np.nanmean(values)) if len(values := run.series("audio_seconds")[1]) else math.nan for run in runs]
    if not all(math.isfinite(one) and one > 0 for one in heard) or max(heard) <= _SAME_AUDIO * min(heard):
        return "step", [1.0] * len(runs)
    return "hours of audio", [one / 3600 for one in heard]


def _loss_charts(
    runs: Sequence[RunRecord], names: Sequence[str], x_label: str, scales: Sequence[float]
) -> list[Values]:
    known = [*LOSSES, TOTAL]
    logged = dict.fromkeys(name for run in runs for name in run.names() if name.startswith("loss/"))
    titles = {metric: (title, note) for metric, title, note in known}
    order = [metric for metric, _, _ in known if metric in logged] + [one for one in logged if one not in titles]
    if all(len([name for name in run.names() if name.startswith("loss/")]) < 3 for run in runs):
        order = [metric for metric in order if metric != TOTAL[0]]  # it equals the only objective
    charts = []
    for metric in order:
        lines = [
            _scaled(training_line(run, metric, name, _colour(index)), scale, index)
            for index, (run, name, scale) in enumerate(zip(runs, names, scales, strict=True))
            if has_curve(run, metric)
        ]
        if lines:
            title, note = titles.get(metric, (metric.removeprefix("loss/"), ""))
            charts.append(_chart(title, note, lines, x_label, log=True))
    held_out = dict.fromkeys(name for run in runs for name in run.names() if name.startswith(f"{HELD_OUT}/"))
    for metric in held_out:
        lines = _marked(runs, names, scales, metric)
        if lines:
            charts.append(_chart(f"held out: {metric.removeprefix(HELD_OUT + '/')}", "", lines, x_label, log=True))
    return charts


def _evaluation_charts(
    runs: Sequence[RunRecord], names: Sequence[str], x_label: str, scales: Sequence[float]
) -> list[Values]:
    charts = []
    for metric in dict.fromkeys(name for run in runs for name in run.names()):
        kind, _, rest = metric.partition("/")
        set_name, _, score = rest.rpartition("/")
        lines = _marked(runs, names, scales, metric) if (kind, score) in EVALUATIONS else []
        if lines:
            title, chance = EVALUATIONS[kind, score]
            low = 0.0 if chance else None  # a score, not a loss
            charts.append(_chart(f"{title}: {set_name}", "", lines, x_label, log=False, low=low))
    return charts


def _marked(runs: Sequence[RunRecord], names: Sequence[str], scales: Sequence[float], metric: str) -> list[Line]:
    lines = []
    for index, (run, name, scale) in enumerate(zip(runs, names, scales, strict=True)):
        steps, values = evaluation_series(run, metric)
        if np.isfinite(values).any():
            lines.append(_scaled(Line(name, _colour(index), steps, values, markers=True), scale, index))
    return lines


def _scaled(line: Line, scale: float, index: int) -> Line:
    return Line(
        line.name,
        line.colour,
        line.steps * scale,
        line.values,
        markers=line.markers,
        dashed=index >= _COLOURS,
    )


def _chart(title: str, note: str, lines: list[Line], x_label: str, *, log: bool, low: float | None = None) -> Values:
    description = f"{title} of {', '.join(line.name for line in lines)}"
    chart = line_chart(lines, description, x_label=x_label, bounds=(low, None), log=log)
    return {"title": title, "note": note, "chart": chart}


def _origin(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    facts = [provenance(run) or {} for run in runs]
    names = ("command", "commit", "seed", "started", "ended", "outcome", "starts", "devices", "machine", "versions")
    return [(name, [one.get(name, "–") for one in facts]) for name in names if any(name in one for one in facts)]


def _colour(index: int) -> str:
    return f"run-{index % _COLOURS}"
