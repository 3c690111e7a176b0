"""The theme of all figures: colours by role, and figures that need no display."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slap_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DrawingError(UserError, ValueError):
    """Figures cannot be drawn; the message says what to install."""


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
        """Returns the colour of a metric: that of its objective, or the neutral one."""
        objective = name.rpartition("/")[2]
        return getattr(self, objective) if objective in ("contrastive", "distillation", "captioning") else self.total


PRINT = Theme()


@contextlib.contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Applies the theme to all figures of the block.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise DrawingError("figures need matplotlib, which is not installed: pip install 'slap_jax[demo]'") from None
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
    """Returns a figure, in inches, that needs no display and is not in pyplot's global list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
