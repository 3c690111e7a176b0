"""The picture of `slap stats`: what the sources are like, beside each other, and how full rows will be."""

import collections
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64

from slap_jax.data.clip_statistics import SILENT_DBFS
from slap_jax.data.inspect.measure import SourceStatistics, Statistics
from slap_jax.data.inspect.packing_forecast import Forecast
from slap_jax.drawing.theme import PRINT, Theme, drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Histogram = tuple[Float[np.ndarray, " edges"], Int64[np.ndarray, " bins"]]

# Okabe and Ito, "Color Universal Design": told apart with every common colour vision. Beyond these, lines are dashed.
SOURCE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_LISTED_LABELS = 12
_LISTED_ORIGINS = 8
_LONGEST_NAME = 30
_MOST_BARS = 60


def save_figure(statistics: Statistics, path: Path) -> None:
    """Draws everything that is counted as one PNG.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    with drawing(PRINT):
        figure = new_figure(12.5, 8.6)
        # Each line of panels is laid out for itself: long names in one leave the others their width.
        lines: Any = figure.subfigures(len(_PANELS), 1)
        for line, draws in zip(lines, _PANELS, strict=True):
            for axes, draw in zip(line.subplots(1, len(draws)), draws, strict=True):
                draw(axes, statistics, PRINT)
                axes.tick_params(labelsize=7.5)
                axes.xaxis.label.set_size(8)
        if len(statistics.sources) > 1:
            handles, names = figure.subfigs[0].axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper left", ncols=6, frameon=False, fontsize=8.5)
        figure.savefig(path, dpi=130)


def _colour(number: int) -> str:
    return SOURCE_COLOURS[number % len(SOURCE_COLOURS)]


def _dashes(number: int) -> str:
    return _DASHES[number // len(SOURCE_COLOURS) % len(_DASHES)]


def _draw_histograms(axes: "Axes", histograms: Mapping[str, Histogram]) -> None:
    """Draws a histogram of each source as shares of the source, so that sources of different sizes compare."""
    for number, (name, (edges, counts)) in enumerate(histograms.items()):
        shares = 100 * counts / max(1, counts.sum())
        axes.stairs(shares, edges, label=name, linewidth=1.4, color=_colour(number), linestyle=_dashes(number))
        axes.stairs(shares, edges, fill=True, color=_colour(number), alpha=0.15, linewidth=0)
    axes.set_xlim(
        min(float(edges[0]) for edges, _ in histograms.values()),
        max(float(edges[-1]) for edges, _ in histograms.values()),
    )
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _draw_durations(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    histograms = {}
    for name, source in statistics.sources.items():
        edges, counts = source.distributions.log_seconds.histogram()
        histograms[name] = (10.0**edges, counts)
    axes.set_xscale("log")
    _draw_histograms(axes, histograms)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("Durations")
    axes.set_xlabel("seconds; share of clips")


def _draw_whole_numbers(
    axes: "Axes", statistics: Statistics, values_of: Callable[[SourceStatistics], Sequence[float]], label: str
) -> None:
    """Draws shares of whole numbers; where a few are far larger than all others, the axis says so and ends before."""
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([np.asarray(values_of(source)) for source in statistics.sources.values()])
    largest = int(values.max(initial=1))
    most = int(np.quantile(values, 0.995)) if len(values) else 1
    if largest <= 2 * most:
        most = largest
    width = -(-(most + 1) // _MOST_BARS)
    edges = np.arange(0, most + 1 + width, width) - 0.5
    shares = {name: (edges, np.histogram(values_of(s), edges)[0]) for name, s in statistics.sources.items()}
    _draw_histograms(axes, shares)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel(label if most == largest else f"{label}; the largest: {largest:,}")


def _draw_words(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    _draw_whole_numbers(axes, statistics, _words, "words; share of captions")
    axes.set_title("Words of a caption")


def _words(source: SourceStatistics) -> list[float]:
    return [len(caption.split()) for clip in source.measured for caption in clip.record.captions]


def _draw_tokens(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    limit = statistics.max_caption_tokens
    if limit is None:
        return _draw_note(axes, "Tokens of a caption", "no tokenizer was given", theme)
    _draw_whole_numbers(axes, statistics, _tokens, "tokens; share of captions")
    if limit < axes.get_xlim()[1]:
        axes.axvline(limit, color=theme.ink, linewidth=0.9, linestyle="dashed")
        words = axes.annotate(f"cut at {limit}", (limit, 0.97), (-2, 0), ("data", "axes fraction"), "offset points")
        words.set(fontsize=7.5, rotation=90, va="top", ha="right")
    axes.set_title("Tokens of a caption")
    return None


def _tokens(source: SourceStatistics) -> list[float]:
    return [count for clip in source.measured for count in clip.caption_tokens]


def _draw_captions_per_clip(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    def captions(source: SourceStatistics) -> list[float]:
        return [len(clip.record.captions) for clip in source.measured]

    _draw_whole_numbers(axes, statistics, captions, "captions; share of clips")
    axes.set_title("Captions of a clip")


def _draw_loudness(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    sources = statistics.sources.items()
    _draw_histograms(axes, {name: source.distributions.loudness.histogram() for name, source in sources})
    low = axes.get_xlim()[0]
    if low < SILENT_DBFS:
        axes.axvspan(low, SILENT_DBFS, color=theme.line, alpha=0.5, linewidth=0)
    axes.set_title("Loudness")
    axes.set_xlabel("RMS in dB of full scale; share of clips")


def _draw_faults(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    faults: tuple[tuple[str, Callable[[SourceStatistics], list[bool]]], ...] = (
        ("clipped", lambda source: [clip.clipped for clip in source.measured]),
        (f"silent (below\n{SILENT_DBFS:g} dBFS)", lambda s: [clip.loudness_dbfs < SILENT_DBFS for clip in s.measured]),
        ("no caption\nor label", lambda source: [not clip.has_caption for clip in source.measured]),
    )
    thickness = 0.8 / len(statistics.sources)
    for row, (_, fault) in enumerate(faults):
        for number, source in enumerate(statistics.sources.values()):
            share = 100 * float(np.mean(fault(source)))
            place = row + (number + 0.5) * thickness - 0.4
            axes.barh(place, share, thickness * 0.9, color=_colour(number))
            words = axes.annotate(f"{share:.3g} %", (share, place), xytext=(3, 0), textcoords="offset points")
            words.set(fontsize=7, va="center")
    axes.set_yticks(range(len(faults)), [name for name, _ in faults])
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, 1.25 * axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.locator_params(axis="x", nbins=4)
    axes.set_title("Faults")
    axes.set_xlabel("share of clips")


def _draw_bands(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    bands = np.arange(len(statistics.band_mean))
    colour = theme.total
    axes.fill_between(
        bands,
        statistics.band_mean - statistics.band_std,
        statistics.band_mean + statistics.band_std,
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(bands, statistics.band_mean, color=colour, linewidth=1.4)
    axes.axhline(statistics.mean, color=theme.ink, linewidth=0.8, linestyle="dashed")
    axes.set_xlim(0, bands[-1])
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"Log-mel: mean {statistics.mean:.2f}, std {statistics.std:.2f}")
    axes.set_xlabel("mel band; mean ± standard deviation")


def _draw_packing(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    packing = statistics.packing
    shares = [("columns", packing.fill), ("text tokens", packing.text_fill), ("slots", packing.slot_fill)]
    known = [(name, share) for name, share in shares if share is not None]
    for place, (name, share) in enumerate(known):
        axes.barh(place, 100, 0.62, color=theme.line, alpha=0.6)
        axes.barh(place, 100 * share, 0.62, color=theme.contrastive if name == "columns" else theme.total)
        axes.text(103, place, f"{100 * share:.1f} %", fontsize=8, va="center")
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.invert_yaxis()
    axes.set_xlim(0, 128)
    axes.set_xticks([0, 50, 100], ["0", "50 %", "100 %"])
    axes.set_title("Rows to expect")
    axes.set_xlabel(_packing_words(packing))


def _packing_words(packing: Forecast) -> str:
    room, enough = packing.room, packing.enough
    text = "" if packing.text_fill is None else f", {room.text_tokens} text tokens"
    wanted = f"{enough.slots} slots" + (f", {enough.text_tokens} text tokens" if text else "")
    advice = f"{wanted}: {100 * packing.enough_fill:.1f} % of columns" if packing.limits else f"enough: {wanted}"
    return f"{room.columns} columns, {room.slots} slots{text};\n{packing.clips_per_row:.1f} clips a row\n{advice}"


def _draw_counted(
    axes: "Axes",
    statistics: Statistics,
    theme: Theme,
    title: str,
    most: int,
    values_of: Callable[[SourceStatistics], list[str]],
) -> None:
    """Draws the most frequent texts as bars, each cut into its counts in the sources."""
    counted = [collections.Counter(values_of(source)) for source in statistics.sources.values()]
    total: collections.Counter[str] = sum(counted, collections.Counter())
    shown = [text for text, _ in total.most_common(most)]
    if not shown or shown == [""]:
        return _draw_note(axes, title, "none stated", theme)
    starts = np.zeros(len(shown))
    for number, counter in enumerate(counted):
        lengths = np.array([counter[text] for text in shown], np.float64)
        axes.barh(range(len(shown)), lengths, 0.72, left=starts, color=_colour(number))
        starts += lengths
    names = [textwrap.shorten(text or "(none stated)", _LONGEST_NAME, placeholder=" …") for text in shown]
    axes.set_yticks(range(len(shown)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(most - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=4, integer=True)
    others = f"; {len(total) - len(shown)} more" if len(total) > len(shown) else ""
    axes.set_title(f"{title}{others}")
    axes.set_xlabel("measured clips")
    return None


def _draw_note(axes: "Axes", title: str, note: str, theme: Theme) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, note, ha="center", va="center", transform=axes.transAxes, color=theme.muted, fontsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_labels(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    def labels(source: SourceStatistics) -> list[str]:
        return [label for clip in source.measured for label in sorted(set(clip.record.labels))]

    _draw_counted(axes, statistics, theme, "Labels", _LISTED_LABELS, labels)


def _draw_sources(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    _draw_counted(
        axes, statistics, theme, "Collections", _LISTED_ORIGINS, lambda s: [clip.record.source for clip in s.measured]
    )


def _draw_licences(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    _draw_counted(
        axes, statistics, theme, "Licences", _LISTED_ORIGINS, lambda s: [clip.record.licence for clip in s.measured]
    )


def _draw_caption_sources(axes: "Axes", statistics: Statistics, theme: Theme) -> None:
    _draw_counted(
        axes,
        statistics,
        theme,
        "Who wrote the captions",
        _LISTED_ORIGINS,
        lambda source: [clip.record.caption_source for clip in source.measured],
    )


_PANELS = (
    (_draw_durations, _draw_words, _draw_tokens, _draw_captions_per_clip),
    (_draw_loudness, _draw_faults, _draw_bands, _draw_packing),
    (_draw_labels, _draw_sources, _draw_licences, _draw_caption_sources),
)
