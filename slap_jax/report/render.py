"""Renders the pages from `templates/`, and writes numbers as a reader expects them."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """Returns a page as HTML. Every value is escaped.

    Args:
        template: a file in `slap_jax/report/templates`.
        **values: the variables of the template.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slap_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "duration": duration,
        "hours": hours,
        "listing": listing,
        "number": number,
        "ordinal": ordinal,
    }
    return environment


def number(value: Any, digits: int = 3) -> str:
    """Formats a number with few digits and thousands separators; a dash stands for a missing one."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Formats a large count in thousands, millions or billions."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Formats seconds in the two largest units that apply."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def hours(seconds: float | None) -> str:
    """Formats seconds as hours with a few digits, such as 0.0138 or 1,234."""
    if seconds is None:
        return "–"
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ordinal(rank: int) -> str:
    """Formats 1 as "1st", 2 as "2nd" and so on."""
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"


def listing(names: Sequence[str], noun: str) -> str:
    """Joins names as "the A, B and C nouns"."""
    if len(names) < 2:
        return "".join(f"the {name} {noun}" for name in names)
    return f"the {', '.join(names[:-1])} and {names[-1]} {noun}s"
