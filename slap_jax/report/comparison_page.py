"""Results beside published figures, as Markdown and as a page of HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from slap_jax.evaluation.comparison import Line, Section
from slap_jax.report.template import page

_INTRODUCTION = (
    "Values in percent, but medR; in brackets the 95 % interval over clips of what was measured here. Lines of others "
    "are as published, and the last column says why they may not compare with ours: only numbers of one evaluation, "
    "on the same clips, with the same prompt and the same knowledge of the data do."
)
_COMPARES = "nothing known that differs"


def markdown(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders sections, ours in bold, and what could not be evaluated."""
    parts = ["# Results beside published figures", _INTRODUCTION]
    for section in sections:
        heads = ["model", *section.metrics.values(), "clips", "setting", "how", "source", "compare?"]
        rows = [_cells(section, line) for line in section.lines]
        lines = [heads, ["---"] * len(heads), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
        parts.append(f"## {section.title}\n\n{table}")
    if missing:
        parts.append("## Not evaluated\n\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    return "\n\n".join(parts) + "\n"


def _cells(section: Section, line: Line) -> list[str]:
    cells = [line.model, *(_value(line, metric) for metric in section.metrics)]
    if line.ours:
        cells = [f"**{cell}**" if cell else "" for cell in cells]
    clips = f"{line.clips:,}" if line.clips else "?"
    return [*cells, clips, line.setting, line.how, line.source, "; ".join(line.notes) or _verdict(line)]


def _verdict(line: Line) -> str:
    return "" if line.ours else _COMPARES


def _value(line: Line, metric: str) -> str:
    if metric not in line.values:
        return ""
    value = f"{line.values[metric]:.1f}"
    if metric in line.intervals:
        low, high = line.intervals[metric]
        value += f" ({low:.1f}–{high:.1f})"
    return value


def html(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders the same as one page without other files; light and dark."""
    body = [f"<p class='note'>{escape(_INTRODUCTION)}</p>"]
    for section in sections:
        numbers = "".join(f"<th class='number'>{escape(head)}</th>" for head in section.metrics.values())
        rows = "".join(_row(section, line) for line in section.lines)
        body.append(
            f"<h2>{escape(section.title)}</h2><div class='scroll'><table><thead><tr><th>model</th>{numbers}"
            "<th class='number'>clips</th><th>setting</th><th>how</th><th>source</th><th>compare?</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )
    if missing:
        items = "".join(f"<li><strong>{escape(name)}</strong>: {escape(why)}</li>" for name, why in missing.items())
        body.append(f"<h2>Not evaluated</h2><ul class='note'>{items}</ul>")
    if not sections:
        body.append("<p class='absent'>The files hold results of no set.</p>")
    header = "<p class='eyebrow'>slap table</p><h1>Results beside published figures</h1>"
    return page("Results beside published figures", header, "".join(body), "Written by <code>slap table</code>.")


def _row(section: Section, line: Line) -> str:
    numbers = "".join(f"<td class='number'>{_html_value(line, metric)}</td>" for metric in section.metrics)
    model = f"<strong>{escape(line.model)}</strong>" if line.ours else escape(line.model)
    clips = f"{line.clips:,}" if line.clips else "?"
    notes = "<br>".join(map(escape, line.notes)) or escape(_verdict(line))
    # Two kinds of "no": a difference, and nothing known that differs.
    colour = " right" if not line.ours and not line.notes else ""
    return (
        f"<tr><td class='{'name' if line.ours else ''}'>{model}</td>{numbers}<td class='number'>{clips}</td>"
        f"<td class='rowhead'>{escape(line.setting)}</td><td class='note'>{escape(line.how)}</td>"
        f"<td class='note'>{escape(line.source)}</td><td class='note{colour}'>{notes}</td></tr>"
    )


def _html_value(line: Line, metric: str) -> str:
    if metric not in line.values:
        return ""
    value = f"{line.values[metric]:.1f}"
    if not line.ours:
        return value
    low_high = line.intervals.get(metric)
    note = f"<br><small class='note'>{low_high[0]:.1f} – {low_high[1]:.1f}</small>" if low_high else ""
    return f"<strong>{value}</strong>{note}"
