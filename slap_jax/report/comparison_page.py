"""Results beside published figures, as Markdown and as a page of HTML: what was measured here, then what others did."""

from collections.abc import Mapping, Sequence
from html import escape

from slap_jax.evaluation.comparison import Line, Section
from slap_jax.report.template import page

_INTRODUCTION = (
    "Values in percent, but medR; what was measured here has its 95 % interval over clips. Lines of others are as "
    "published; in square brackets, how they were read. The last column says why they may not compare with ours: only "
    "numbers of one evaluation on the same clips do, with the same prompt and the same knowledge of the data."
)
_COMPARES = "nothing known that differs"


def markdown(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders sections, and what could not be evaluated."""
    parts = ["# Results beside published figures", _INTRODUCTION]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [_markdown_table(section, ours) for ours in (True, False) if _lines(section, ours)]
    if missing:
        parts.append("## Not evaluated\n\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    return "\n\n".join(parts) + "\n"


def html(sections: Sequence[Section], missing: Mapping[str, str]) -> str:
    """Renders the same as one page without other files; light and dark."""
    body = [f"<p class='note'>{escape(_INTRODUCTION)}</p>"]
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        body += [_html_table(section, ours) for ours in (True, False) if _lines(section, ours)]
    if missing:
        items = "".join(f"<li><strong>{escape(name)}</strong>: {escape(why)}</li>" for name, why in missing.items())
        body.append(f"<h2>Not evaluated</h2><ul class='note'>{items}</ul>")
    if not sections:
        body.append("<p class='absent'>The files hold results of no set.</p>")
    header = "<p class='eyebrow'>slap table</p><h1>Results beside published figures</h1>"
    return page("Results beside published figures", header, "".join(body), "Written by <code>slap table</code>.")


def _lines(section: Section, ours: bool) -> list[Line]:
    return [line for line in section.lines if line.ours == ours]


def _metrics(section: Section, ours: bool) -> dict[str, str]:
    """The metrics of one of the two tables."""
    lines = _lines(section, ours)
    return {metric: head for metric, head in section.metrics.items() if any(metric in line.values for line in lines)}


def _texts(line: Line) -> tuple[str, str, str, str, str]:
    """Clips, setting, how it was measured, source, and what to know of it."""
    clips = f"{line.clips:,}" if line.clips else "not stated"
    return clips, line.setting, line.how, line.source, "; ".join(line.notes) or ("" if line.ours else _COMPARES)


def _heads(ours: bool) -> tuple[str, str, str, str, str, str]:
    if ours:
        return "measured here", "clips", "setting", "how", "file", "note"
    return "published", "clips", "setting", "prompt", "source", "why it may not compare"


def _markdown_table(section: Section, ours: bool) -> str:
    metrics = _metrics(section, ours)
    first, *others = _heads(ours)
    rows = [[first, *metrics.values(), *others], ["---"] * (1 + len(metrics) + len(others))]
    for line in _lines(section, ours):
        values = []
        for metric in metrics:
            value, interval = _value(line, metric)
            values.append(f"{value} ({interval})" if interval else value)
        rows.append([line.model, *values, *_texts(line)])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _html_table(section: Section, ours: bool) -> str:
    metrics = _metrics(section, ours)
    lines = _lines(section, ours)
    first, clips, seen, how, source, notes = map(escape, _heads(ours))
    heads = f"<th>{first}</th>" + "".join(f"<th class='number'>{escape(head)}</th>" for head in metrics.values())
    if not ours:
        prompts = any(line.how for line in lines)
        heads += f"<th class='number'>{clips}</th><th>{seen}</th>" + (f"<th>{how}</th>" if prompts else "")
        heads += f"<th>{source}</th><th>{notes}</th>"
        rows = "".join(_html_published(line, metrics, prompts) for line in lines)
    else:
        rows = "".join(_html_ours(line, metrics) for line in lines)
    return f"<div class='scroll'><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div><br>"


def _html_ours(line: Line, metrics: Mapping[str, str]) -> str:
    """Facts go below the name, so that all numbers fit beside it."""
    clips, *about = _texts(line)
    facts = " · ".join(escape(text) for text in (f"{clips} clips", *about) if text)
    cells = []
    for metric in metrics:
        value, interval = _value(line, metric)
        cells.append(f"<td class='number'><strong>{value}</strong><br><small class='note'>{interval}</small></td>")
    return f"<tr><td class='name'>{escape(line.model)}<br><small class='note'>{facts}</small></td>{''.join(cells)}</tr>"


def _html_published(line: Line, metrics: Mapping[str, str], prompts: bool) -> str:
    clips, seen, how, source, notes = map(escape, _texts(line))
    numbers = "".join(f"<td class='number'>{_value(line, metric)[0]}</td>" for metric in metrics)
    prompt = f"<td class='note' style='min-width:10rem'>{how}</td>" if prompts else ""
    colour = "" if line.notes else " right"
    return (
        f"<tr><td class='rowhead'>{escape(line.model)}</td>{numbers}<td class='number'>{clips}</td>"
        f"<td class='rowhead note'>{seen}</td>{prompt}<td class='note' style='min-width:12rem'>{source}</td>"
        f"<td class='note{colour}' style='min-width:15rem'>{notes}</td></tr>"
    )


def _value(line: Line, metric: str) -> tuple[str, str]:
    """A value and its interval, "" where there is none."""
    if metric not in line.values:
        return "", ""
    ends = line.intervals.get(metric)
    return f"{line.values[metric]:.1f}", f"{ends[0]:.1f}–{ends[1]:.1f}" if ends else ""
