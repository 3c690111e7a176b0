"""Pictures inside the page: CSS variables in place of colours (light and dark), SVG and PNG without other files."""

import base64
import dataclasses
import io
import re
from typing import TYPE_CHECKING

from slap_jax.drawing.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib wants colours, CSS wants variables: draw with colours that nothing else uses and exchange them in the SVG.
PAGE = Theme(**{field.name: f"#0a0b{index:02x}" for index, field in enumerate(dataclasses.fields(Theme))})
_PAGE_VARIABLES = {getattr(PAGE, field.name): f"var(--{field.name})" for field in dataclasses.fields(Theme)}


def to_svg(figure: "Figure", name: str, description: str, tight: bool = False) -> str:
    """Writes a figure drawn with `PAGE` as an `<svg>` element for the page.

    Args:
        figure: drawn within `drawing(PAGE)`.
        name: unique on the page; prefixes the ids inside the SVG.
        description: what the picture shows, for those who do not see it.
        tight: cut off empty margins.
    """
    from html import escape

    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None}, transparent=True, bbox_inches="tight" if tight else None
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _PAGE_VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    # Inline SVG needs no namespaces, and without them the page holds no web address at all.
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    opening = f'<svg role="img" aria-label="{escape(description, quote=True)}" class="figure"'
    svg = re.sub(r"<svg", opening, svg, count=1)
    return re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)


def png_data_uri(content: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
