"""Numbers of a run as HTML: the headline, the result tables, the settings."""

import json
import math
from html import escape
from typing import Any

from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.report.record import RunRecord, parameter_counts, summarise

DIRECTIONS = (("t2a", "text → audio"), ("a2t", "audio → text"))


def number(value: Any, digits: int = 3) -> str:
    """A number as a reader wants it: thousands apart, few digits, a dash for what is missing."""
    if value is None or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """A large count in millions or thousands."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds, the two largest that apply."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def strip(value: float, interval: Any, chance: float | None) -> str:
    """A result on a line from 0 to 1: a bar for the interval, a dot for the value, a tick for chance."""
    low, high = interval if isinstance(interval, list | tuple) and len(interval) == 2 else (value, value)
    left, right = 4 + 152 * low, 4 + 152 * high
    tick = (
        ""
        if chance is None
        else f'<line x1="{4 + 152 * chance:.1f}" x2="{4 + 152 * chance:.1f}" y1="2" y2="16" stroke="var(--wrong)" '
        'stroke-width="1.5"/>'
    )
    label = f"{value:.3f}, 95 % interval {low:.3f} to {high:.3f}" + ("" if chance is None else f", chance {chance:.3f}")
    return (
        f'<svg class="strip" viewBox="0 0 160 18" role="img" aria-label="{escape(label)}">'
        '<line x1="4" x2="156" y1="9" y2="9" stroke="var(--line)"/>'
        f'<rect x="{left:.1f}" y="6" width="{max(1.0, right - left):.1f}" height="6" rx="3" fill="var(--accent)" '
        f'opacity="0.35"/>{tick}<circle cx="{4 + 152 * value:.1f}" cy="9" r="4" fill="var(--accent)"/></svg>'
    )


def absent(sentence: str) -> str:
    """An honest sentence where a part of the report has nothing to show."""
    return f'<p class="absent">{escape(sentence)}</p>'


def objectives_of(config: ConfigDict) -> list[str]:
    """Names of the objectives that the run trained."""
    order = ("contrastive", "distillation", "captioning")
    names = sorted(config.objectives, key=lambda name: order.index(name) if name in order else len(order))
    return [name for name in names if config.objectives[name].weight > 0]


def headline(run: RunRecord) -> str:
    """What was trained, in a sentence and in a row of facts."""
    facts = summarise(run)
    trained = objectives_of(run.config)
    parts = parameter_counts(run.parameters)
    titles = {"captioning": "caption decoder"}
    named = ", ".join(
        f"{titles.get(part, part.replace('_', ' '))} {count(size)}" for part, size in parts.items() if size >= 1000
    )
    names = {"distillation": "self-distillation"}
    sentence = (
        f"A language-audio model trained with {_listing([names.get(name, name) for name in trained])} "
        f"on packed rows of {facts['audio_tokens_per_row']:,} audio tokens."
    )
    rows = [
        ("parameters", count(facts["parameters"]), "exported"),
        ("steps", number(facts["steps"]), f"of {run.config.train.steps:,}"),
        ("audio trained on", duration(facts["audio_seconds"]), "with repetition"),
        ("wall time", duration(facts["wall_seconds"]), "first to last step"),
        ("throughput", number(facts["audio_seconds_per_s"]), "s of audio per s"),
        (
            "packing fill",
            "–" if facts["packing_fill"] is None else f"{100 * facts['packing_fill']:.1f} %",
            "of all columns",
        ),
    ]
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in rows
    )
    detail = f'<p class="note">Exported parameters by part: {escape(named)}.</p>' if named else ""
    return f'<p class="deck">{escape(sentence)}</p><dl class="facts">{cells}</dl>{detail}'


def _listing(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(f"the {name} objective" for name in names)
    return f"the {', '.join(names[:-1])} and {names[-1]} objectives"


def retrieval_table(evaluation: dict[str, Any]) -> str:
    """Both directions of each set, with interval and chance; a sentence if nothing was evaluated."""
    sets = evaluation.get("retrieval") or {}
    if not sets:
        return absent("This run has no retrieval results: evaluation.json is missing or names no set.")
    rows = []
    for name, result in sets.items():
        for place, (key, title) in enumerate(DIRECTIONS):
            value = result.get(f"{key}_r1")
            if value is None:
                continue
            interval = result.get(f"{key}_r1_interval")
            chance = result.get(f"{key}_chance_r1", result.get("chance_r1"))
            size = f"{number(result.get('n_clips'))} clips, {number(result.get('n_captions'))} captions"
            first = f'<td class="name" rowspan="2">{escape(name)}<br><small class="note nowrap">{size}</small></td>'
            cells = (
                _cell(f"<strong>{value:.3f}</strong>"),
                f"<td>{_interval(interval)}</td><td>{strip(value, interval, chance)}</td>",
                _cell(number(chance, 4)),
                _cell(f"{value / chance:.0f} ×" if chance else "–"),
                *(_cell(number(result.get(f"{key}_{metric}"))) for metric in ("r5", "r10", "map10")),
            )
            rows.append(f"<tr>{first if place == 0 else ''}<td class='rowhead'>{title}</td>{''.join(cells)}</tr>")
    return (
        '<div class="scroll"><table><thead><tr><th>set</th><th>direction</th><th class="number">R@1</th>'
        '<th>95 % interval</th><th>0 to 1</th><th class="number">chance</th><th class="number">over chance</th>'
        '<th class="number">R@5</th><th class="number">R@10</th><th class="number">mAP@10</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">R@1: share of queries whose first answer is right; equal captions count as right. The band '
        "is the 95 % bootstrap interval over clips, the red tick is what guessing would score.</p>"
    )


def _cell(content: str) -> str:
    return f'<td class="number">{content}</td>'


def _interval(interval: Any) -> str:
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return "–"
    return f"<span class='note nowrap'>{interval[0]:.3f} – {interval[1]:.3f}</span>"


def zero_shot_table(evaluation: dict[str, Any]) -> str:
    """Accuracy of each labelled set beside chance; a sentence if no set has a label."""
    sets = evaluation.get("zero_shot") or {}
    if not sets:
        return absent("No evaluation set of this run names a label, so nothing was classified.")
    rows = []
    for name, result in sets.items():
        classes = result.get("n_classes", result.get("classes"))
        classes = len(classes) if isinstance(classes, list | dict) else classes
        size = f"{number(result.get('n'))} clips, {number(classes)} classes"
        size += f" of {escape(str(result['label']))}" if result.get("label") else ""
        accuracy, interval, chance = result["accuracy"], result.get("interval"), result.get("chance")
        rows.append(
            f'<tr><td class="name">{escape(name)}<br><small class="note nowrap">{size}</small></td>'
            + _cell(f"<strong>{accuracy:.3f}</strong>")
            + f"<td>{_interval(interval)}</td><td>{strip(accuracy, interval, chance)}</td>"
            + _cell(number(chance))
            + _cell(number(result.get("majority")))
            + f"<td><code>{escape(str(result.get('template', '–')))}</code></td></tr>"
        )
    return (
        '<div class="scroll"><table><thead><tr><th>set</th><th class="number">accuracy</th><th>95 % interval</th>'
        '<th>0 to 1</th><th class="number">chance</th><th class="number">largest class</th><th>prompt</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">The class whose text is most similar wins. "Largest class" is what always naming the most '
        "frequent class would score.</p>"
    )


def settings_table(config: ConfigDict) -> str:
    """The settings that differ from the defaults, and the whole config folded away."""
    defaults = _flatten(json.loads(default_config().to_json_best_effort()))
    own = _flatten(json.loads(config.to_json_best_effort()))
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td><code>{escape(json.dumps(value))}</code></td>"
        f"<td class='note'><code>{escape(json.dumps(defaults[name])) if name in defaults else '–'}</code></td></tr>"
        for name, value in own.items()
        if name not in defaults or defaults[name] != value
    ]
    whole = escape(json.dumps(json.loads(config.to_json_best_effort()), indent=2))
    return (
        "<details><summary>Settings that differ from the defaults</summary><div class='scroll'><table><thead><tr>"
        "<th>setting</th><th>this run</th><th>default</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
        f"<details><summary>The whole config</summary><pre>{whole}</pre></details>"
    )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
