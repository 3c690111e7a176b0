"""One look for all pictures: real colours for PNG files, CSS variables for the SVG of the page (light and dark)."""

import base64
import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slap_jax.report.record import ReportError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours by role, as matplotlib colours."""

    ink: str = "#1f2529"
    muted: str = "#6a737b"
    line: str = "#d9d8d2"
    surface: str = "#ffffff"
    total: str = "#4a5560"
    contrastive: str = "#2b6a99"
    distillation: str = "#b3582a"
    captioning: str = "#4d7c3a"

    def series(self, name: str) -> str:
        """Colour of a metric: the colour of its objective, or the neutral one."""
        objective = name.rpartition("/")[2]
        return getattr(self, objective) if objective in ("contrastive", "distillation", "captioning") else self.total


PRINT = Theme()

# matplotlib wants colours, CSS wants variables: draw with colours that nothing else uses and exchange them in the SVG.
PAGE = Theme(**{field.name: f"#0a0b{index:02x}" for index, field in enumerate(dataclasses.fields(Theme))})
_PAGE_VARIABLES = {getattr(PAGE, field.name): f"var(--{field.name})" for field in dataclasses.fields(Theme)}


@contextlib.contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Context in which matplotlib draws with the theme, off screen.

    Raises:
        ReportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ReportError("the report draws with matplotlib, which is missing: pip install 'slap_jax[demo]'") from None
    settings: Any = {
        "font.size": 9.0,
        "font.family": "sans-serif",
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.grid": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": theme.ink,
        "figure.facecolor": theme.surface,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.major.size": 3.0,
        "ytick.major.size": 0.0,
        "image.interpolation": "nearest",
        "savefig.facecolor": theme.surface,
        "svg.fonttype": "none",
        "svg.hashsalt": "slap_jax",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that many inches that belongs to no window system and to no global list of figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
