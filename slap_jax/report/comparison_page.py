"""Results next to published figures, as Markdown and as HTML: what was measured here, then what others published."""

from collections.abc import Mapping, Sequence
from typing import Any

from slap_jax.evaluation.comparison import Line, Section
from slap_jax.report.render import render

TITLE = "Results next to published figures"
_INTRODUCTION = (
    "Values are percentages, except medR. Values measured here have a 95 % interval over clips. Other values are as "
    "published; square brackets say where they were read. The last column says why they may not compare with ours: "
    "only numbers of one evaluation on the same clips do, with the same prompt and the same knowledge of the data."
)
_COMPARES = "no known difference"
_HEADS = {
    True: ("measured here", "clips", "setting", "how", "file", "note"),
    False: ("published", "clips", "setting", "prompt", "source", "why it may not compare"),
}


def markdown(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders the sections, and the sets that could not be evaluated with the reason, as Markdown."""
    parts = [f"# {TITLE}", _INTRODUCTION]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [_markdown_table(section, ours) for ours in (True, False) if _lines(section, ours)]
    if missing:
        parts.append("## Not evaluated\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in missing.items()))
    return "\n\n".join(parts) + "\n"


def html(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders the same as one page that needs no other file, in light and dark."""
    return render(
        "comparison.html",
        title=TITLE,
        introduction=_INTRODUCTION,
        sections=[
            {"title": section.title, "ours": _table(section, True), "published": _table(section, False)}
            for section in sections
        ],
        missing=missing,
    )


def _markdown_table(section: Section, ours: bool) -> str:
    table = _table(section, ours)
    first, *others = _HEADS[ours]
    rows = [[first, *table["heads"], *others], ["---"] * (1 + len(table["heads"]) + len(others))]
    for row in table["rows"]:
        cells = [f"{value} ({interval})" if interval else value for value, interval in row["cells"]]
        rows.append([row["model"], *cells, row["clips"], row["setting"], row["how"], row["source"], row["note"]])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _table(section: Section, ours: bool) -> dict[str, Any]:
    """Returns the lines of one of a section's two tables as texts, with the metrics that any of them has."""
    lines = _lines(section, ours)
    metrics = {metric: head for metric, head in section.metrics.items() if any(metric in line.values for line in lines)}
    return {
        "heads": list(metrics.values()),
        "rows": [_row(line, metrics) for line in lines],
        "has_prompts": any(line.how for line in lines),
    }


def _row(line: Line, metrics: Mapping[str, str]) -> dict[str, Any]:
    clips = f"{line.clips:,}" if line.clips else "not stated"
    note = "; ".join(line.notes) or ("" if line.ours else _COMPARES)
    return {
        "model": line.model,
        "cells": [_cell(line, metric) for metric in metrics],
        "clips": clips,
        "setting": line.setting,
        "how": line.how,
        "source": line.source,
        "note": note,
        "differs": bool(line.notes),
        "facts": [text for text in (f"{clips} clips", line.setting, line.how, line.source, note) if text],
    }


def _cell(line: Line, metric: str) -> tuple[str, str]:
    """Returns a value and its interval, "" where there is none."""
    if metric not in line.values:
        return "", ""
    ends = line.intervals.get(metric)
    return f"{line.values[metric]:.1f}", f"{ends[0]:.1f}–{ends[1]:.1f}" if ends else ""


def _lines(section: Section, ours: bool) -> list[Line]:
    return [line for line in section.lines if line.ours == ours]
