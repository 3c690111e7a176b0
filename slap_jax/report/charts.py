"""Line charts as inline SVG: they follow light and dark mode, and `charts.js` shows their values under the pointer."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 330, 182
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 34
_MOST_POINTS = 320  # of a line; the SVG of a long run stays small
_TICKS = 4


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: shown with its value, "" if the chart has a single curve.
        colour: role of the colour: a name of `slap_jax.drawing.theme.Theme`, and a variable of the style sheet.
        steps: horizontal positions, ascending.
        values: may hold NaN, which leaves a gap.
        faint: values to draw lightly behind the curve, those that it smooths; None for none.
        markers: whether to mark every point.
        dashed: whether to draw dashes.
    """

    name: str
    colour: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    faint: Float[np.ndarray, " n"] | None = None
    markers: bool = False
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Maps values to positions; `log` takes values above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        low, high, values = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            low, high = math.log(low), math.log(high)
            values = np.log(np.maximum(values, 1e-300))
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.log:
            for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                chosen = [float(tick) for tick in LogLocator(subs=subs, numticks=12).tick_values(self.low, self.high)]
                chosen = [tick for tick in chosen if self.low <= tick <= self.high]
                if len(chosen) >= 3:
                    return chosen[:: -(-len(chosen) // 6)]
        ticks = MaxNLocator(_TICKS).tick_values(self.low, self.high)
        return [float(tick) for tick in ticks if self.low <= tick <= self.high]


def line_chart(
    lines: Sequence[Line],
    description: str,
    *,
    x_label: str = "step",
    bounds: tuple[float | None, float | None] = (None, None),
    log: bool = False,
) -> Markup:
    """Draws curves that share their axes.

    Args:
        lines: at least one finite value in all.
        description: description for readers who cannot see it.
        x_label: label of the horizontal axis.
        bounds: fixed ends of the vertical axis; None fits an end to the values.
        log: draw the chart a second time with a logarithmic axis, which `charts.js` shows on request; not if a value is
            0 or less.
    """
    steps = np.concatenate([line.steps for line in lines])
    first, last = float(steps.min()), float(steps.max())
    x = _Axis(first, last if last > first else first + 1.0, _LEFT, _WIDTH - _RIGHT)
    low, high = _range(lines, bounds)
    y = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    drawn = [_panel("linear", lines, x, y)]
    data: dict[str, Any] = {"x": [x.low, x.high, x.start, x.end], "y": [low, high, y.start, y.end], "label": x_label}
    positive = _smallest(lines)
    if log and positive > 0 and high > positive:
        y = _Axis(positive / 1.05, high, _HEIGHT - _BOTTOM, _TOP, log=True)
        drawn.append(_panel("log", lines, x, y))
        data["log"] = [y.low, y.high]
    data["lines"] = [
        {"name": line.name, "colour": f"var(--{line.colour})", "points": _points(line.steps, line.values)}
        for line in lines
    ]
    labels = "".join(
        f'<text x="{position:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{_tick(value)}</text>'
        for value, position in zip(x.ticks(), x(np.array(x.ticks())), strict=True)
    )
    axis = f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>'
    base = f'<path class="base" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}" '
        f'data-chart="{escape(json.dumps(data, separators=(",", ":")))}"><title>{escape(description)}</title>'
        f"{base}{labels}{axis}{''.join(drawn)}</svg>"
    )


def _panel(kind: str, lines: Sequence[Line], x: _Axis, y: _Axis) -> str:
    """Returns the horizontal grid, its labels and the curves."""
    parts = [f'<g class="{kind}">']
    for value, position in zip(y.ticks(), y(np.array(y.ticks())), strict=True):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{position:.1f}" y2="{position:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 5}" y="{position + 3.5:.1f}" text-anchor="end">{_tick(value)}</text>')
    for line in lines:
        style = f'fill="none" stroke="{_css(line)}"'
        if line.faint is not None:
            parts.append(f'<path class="faint" d="{_path(line.steps, line.faint, x, y)}" {style}/>')
        kind = "curve dashed" if line.dashed else "curve"
        parts.append(f'<path class="{kind}" d="{_path(line.steps, line.values, x, y)}" {style}/>')
        if line.markers:
            finite = np.isfinite(line.values)
            for left, top in zip(x(line.steps[finite]), _clipped(line.values[finite], y), strict=True):
                parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.6" fill="{_css(line)}"/>')
    return "".join(parts) + "</g>"


def _css(line: Line) -> str:
    return f"var(--{line.colour})"


def _path(steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], x: _Axis, y: _Axis) -> str:
    commands, pen_down = [], False
    kept = _thin(values)
    for left, top, value in zip(x(steps[kept]), _clipped(values[kept], y), values[kept], strict=True):
        if not math.isfinite(value):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{left:.1f} {top:.1f}")
        pen_down = True
    return "".join(commands)


def _clipped(values: Float[np.ndarray, " n"], y: _Axis) -> Float[np.ndarray, " n"]:
    return np.clip(y(values), min(y.start, y.end) - 2, max(y.start, y.end) + 2)


def _thin(values: Float[np.ndarray, " n"]) -> np.ndarray:
    """Returns the indices of points to draw: of each group, the lowest, the highest and a missing one."""
    count = len(values)
    if count <= _MOST_POINTS:
        return np.arange(count)
    kept = {0, count - 1}
    for group in np.array_split(np.arange(count), _MOST_POINTS // 2):
        part = values[group]
        if np.isfinite(part).any():
            kept |= {int(group[np.nanargmin(part)]), int(group[np.nanargmax(part)])}
        kept |= {int(index) for index in group[~np.isfinite(part)][:1]}
    return np.array(sorted(kept))


def _points(steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> list[list[float]]:
    """Returns the points that the pointer can show."""
    index = np.flatnonzero(np.isfinite(values))
    index = index[:: max(1, -(-len(index) // _MOST_POINTS))]
    digits = 9 if np.all(steps == np.round(steps)) else 4  # hours need no more
    return [[float(f"{steps[i]:.{digits}g}"), float(f"{values[i]:.4g}")] for i in index]


def _range(lines: Sequence[Line], bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    """Returns the ends of the vertical axis: the values without rare peaks, with a margin."""
    values = np.concatenate([part for line in lines for part in (line.values, line.faint) if part is not None])
    values = values[np.isfinite(values)]
    low = float(values.min()) if bounds[0] is None else bounds[0]
    high = max(float(np.percentile(values, 99.5)), max(float(np.nanmax(line.values)) for line in lines))
    high = high if bounds[1] is None else bounds[1]
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    low = low if bounds[0] is not None else max(low - margin, 0.0) if low >= 0 else low - margin
    return low, high if bounds[1] is not None else high + margin


def _smallest(lines: Sequence[Line]) -> float:
    parts = [part for line in lines for part in (line.values, line.faint) if part is not None]
    return float(np.nanmin(np.concatenate(parts)))


def _tick(value: float) -> str:
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"
