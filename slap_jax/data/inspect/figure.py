"""The picture of `slap stats`: the distributions of all sources, and how full rows will be."""

import collections
import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64

from slap_jax.data.clip_statistics import SILENT_DBFS
from slap_jax.data.inspect.measure import ClipMeasures, MixtureStatistics, SourceStatistics
from slap_jax.data.inspect.packing_forecast import Forecast
from slap_jax.drawing.theme import PRINT, drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Histogram = tuple[Float[np.ndarray, " edges"], Int64[np.ndarray, " bins"]]

# Okabe and Ito, "Color Universal Design": distinguishable with every common colour vision. Further sources are dashed.
SOURCE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_MAX_NAME = 30  # characters
_MAX_BINS = 60


def save_figure(statistics: MixtureStatistics, path: Path) -> None:
    """Draws the statistics as one PNG of 3 x 4 panels.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    with drawing(PRINT):
        figure = new_figure(12.5, 8.6)
        # Each line of panels has its own layout, so that long names in one do not narrow the others.
        lines: Any = figure.subfigures(len(_PANELS), 1)
        for line, panels in zip(lines, _PANELS, strict=True):
            for axes, (title, draw) in zip(line.subplots(1, len(panels)), panels, strict=True):
                axes.set_title(title)
                draw(axes, statistics)
                axes.tick_params(labelsize=7.5)
                axes.xaxis.label.set_size(8)
        if len(statistics.sources) > 1:
            handles, names = figure.subfigs[0].axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper left", ncols=6, frameon=False, fontsize=8.5)
        figure.savefig(path, dpi=130)


def _colour(number: int) -> str:
    return SOURCE_COLOURS[number % len(SOURCE_COLOURS)]


def _draw_histograms(axes: "Axes", histograms: Mapping[str, Histogram]) -> None:
    """Draws one histogram per source in percent of the source, so that sources of different sizes compare."""
    for number, (name, (edges, counts)) in enumerate(histograms.items()):
        percent = 100 * counts / max(1, counts.sum())
        dashes = _DASHES[number // len(SOURCE_COLOURS) % len(_DASHES)]
        axes.stairs(percent, edges, label=name, linewidth=1.4, color=_colour(number), linestyle=dashes)
        axes.stairs(percent, edges, fill=True, color=_colour(number), alpha=0.15, linewidth=0)
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


def _draw_durations(axes: "Axes", statistics: MixtureStatistics) -> None:
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
    axes.set_xlabel("seconds; percent of clips")


def _draw_whole_numbers(
    axes: "Axes", statistics: MixtureStatistics, values_of: Callable[[ClipMeasures], Sequence[int]], label: str
) -> None:
    """Draws histograms of whole numbers; the axis ends before a few outliers and states the largest one."""
    from matplotlib.ticker import MaxNLocator

    values = {
        name: np.array([value for clip in source.measured for value in values_of(clip)], np.float64)
        for name, source in statistics.sources.items()
    }
    joined = np.concatenate(list(values.values()))
    largest = int(joined.max(initial=1))
    limit = int(np.quantile(joined, 0.995)) if len(joined) else 1
    if largest <= 2 * limit:
        limit = largest
    width = -(-(limit + 1) // _MAX_BINS)
    edges = np.arange(0, limit + 1 + width, width) - 0.5
    _draw_histograms(axes, {name: (edges, np.histogram(array, edges)[0]) for name, array in values.items()})
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel(label if limit == largest else f"{label}; largest: {largest:,}")


def _draw_words(axes: "Axes", statistics: MixtureStatistics) -> None:
    def words(clip: ClipMeasures) -> list[int]:
        return [len(caption.split()) for caption in clip.record.captions]

    _draw_whole_numbers(axes, statistics, words, "words; percent of captions")


def _draw_tokens(axes: "Axes", statistics: MixtureStatistics) -> None:
    limit = statistics.max_caption_tokens
    if limit is None:
        _draw_note(axes, "no tokenizer")
        return
    _draw_whole_numbers(axes, statistics, lambda clip: clip.caption_tokens, "tokens; percent of captions")
    if limit < axes.get_xlim()[1]:
        axes.axvline(limit, color=PRINT.ink, linewidth=0.9, linestyle="dashed")
        text = axes.annotate(f"cut at {limit}", (limit, 0.97), (-2, 0), ("data", "axes fraction"), "offset points")
        text.set(fontsize=7.5, rotation=90, va="top", ha="right")


def _draw_captions_per_clip(axes: "Axes", statistics: MixtureStatistics) -> None:
    _draw_whole_numbers(axes, statistics, lambda clip: [len(clip.record.captions)], "captions; percent of clips")


def _draw_loudness(axes: "Axes", statistics: MixtureStatistics) -> None:
    sources = statistics.sources.items()
    _draw_histograms(axes, {name: source.distributions.loudness.histogram() for name, source in sources})
    low = axes.get_xlim()[0]
    if low < SILENT_DBFS:
        axes.axvspan(low, SILENT_DBFS, color=PRINT.line, alpha=0.5, linewidth=0)
    axes.set_xlabel("RMS in dB of full scale; percent of clips")


def _draw_faults(axes: "Axes", statistics: MixtureStatistics) -> None:
    faults: tuple[tuple[str, Callable[[ClipMeasures], bool]], ...] = (
        ("clipped", lambda clip: clip.clipped),
        (f"silent (below\n{SILENT_DBFS:g} dBFS)", lambda clip: clip.loudness_dbfs < SILENT_DBFS),
        ("no caption\nor label", lambda clip: not clip.has_caption),
    )
    thickness = 0.8 / len(statistics.sources)
    for row, (_, has_fault) in enumerate(faults):
        for number, source in enumerate(statistics.sources.values()):
            percent = 100 * float(np.mean([has_fault(clip) for clip in source.measured]))
            height = row + (number + 0.5) * thickness - 0.4
            axes.barh(height, percent, thickness * 0.9, color=_colour(number))
            text = axes.annotate(f"{percent:.3g} %", (percent, height), xytext=(3, 0), textcoords="offset points")
            text.set(fontsize=7, va="center")
    axes.set_yticks(range(len(faults)), [name for name, _ in faults])
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, 1.25 * axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("percent of clips")


def _draw_bands(axes: "Axes", statistics: MixtureStatistics) -> None:
    mean, std = statistics.band_mean, statistics.band_std
    bands = np.arange(len(mean))
    axes.fill_between(bands, mean - std, mean + std, color=PRINT.total, alpha=0.2, linewidth=0)
    axes.plot(bands, mean, color=PRINT.total, linewidth=1.4)
    axes.axhline(statistics.mean, color=PRINT.ink, linewidth=0.8, linestyle="dashed")
    axes.set_xlim(0, bands[-1])
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"Log-mel: mean {statistics.mean:.2f}, std {statistics.std:.2f}")
    axes.set_xlabel("mel band; mean ± standard deviation")


def _draw_packing(axes: "Axes", statistics: MixtureStatistics) -> None:
    packing = statistics.packing
    fills = [("columns", packing.fill), ("text tokens", packing.text_fill), ("slots", packing.slot_fill)]
    known = [(name, fill) for name, fill in fills if fill is not None]
    for height, (name, fill) in enumerate(known):
        axes.barh(height, 100, 0.62, color=PRINT.line, alpha=0.6)
        axes.barh(height, 100 * fill, 0.62, color=PRINT.contrastive if name == "columns" else PRINT.total)
        axes.text(103, height, f"{100 * fill:.1f} %", fontsize=8, va="center")
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.invert_yaxis()
    axes.set_xlim(0, 128)
    axes.set_xticks([0, 50, 100], ["0", "50 %", "100 %"])
    axes.set_xlabel(_packing_text(packing))


def _packing_text(packing: Forecast) -> str:
    row, enough = packing.row_size, packing.enough
    text = "" if packing.text_fill is None else f", {row.text_tokens} text tokens"
    advice = f"{enough.slots} slots" + (f", {enough.text_tokens} text tokens" if text else "")
    advice = f"{advice}: {100 * packing.enough_fill:.1f} % of columns" if packing.limits else f"sufficient: {advice}"
    return f"{row.columns} columns, {row.slots} slots{text};\n{packing.clips_per_row:.1f} clips per row\n{advice}"


def _draw_most_frequent(
    axes: "Axes",
    statistics: MixtureStatistics,
    texts_of: Callable[[ClipMeasures], Sequence[str]],
    max_bars: int,
) -> None:
    """Draws the most frequent texts as bars, each divided into the counts of the sources."""

    def count(source: SourceStatistics) -> collections.Counter[str]:
        return collections.Counter(text for clip in source.measured for text in set(texts_of(clip)))

    counted = [count(source) for source in statistics.sources.values()]
    total: collections.Counter[str] = sum(counted, collections.Counter())
    shown = sorted(total, key=lambda text: (-total[text], text))[:max_bars]
    if not shown or shown == [""]:
        _draw_note(axes, "none stated")
        return
    starts = np.zeros(len(shown))
    for number, counter in enumerate(counted):
        lengths = np.array([counter[text] for text in shown], np.float64)
        axes.barh(range(len(shown)), lengths, 0.72, left=starts, color=_colour(number))
        starts += lengths
    names = [textwrap.shorten(text or "(none stated)", _MAX_NAME, placeholder=" …") for text in shown]
    axes.set_yticks(range(len(shown)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(max_bars - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=4, integer=True)
    if len(total) > len(shown):
        axes.set_title(f"{axes.get_title(loc='left')}; {len(total) - len(shown)} more")
    axes.set_xlabel("measured clips")


def _draw_note(axes: "Axes", note: str) -> None:
    axes.text(0.5, 0.5, note, ha="center", va="center", transform=axes.transAxes, color=PRINT.muted, fontsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _most_frequent(texts_of: Callable[[ClipMeasures], Sequence[str]], max_bars: int = 8) -> Callable[..., None]:
    return functools.partial(_draw_most_frequent, texts_of=texts_of, max_bars=max_bars)


_PANELS: tuple[tuple[tuple[str, Callable[..., None]], ...], ...] = (
    (
        ("Durations", _draw_durations),
        ("Words per caption", _draw_words),
        ("Tokens per caption", _draw_tokens),
        ("Captions per clip", _draw_captions_per_clip),
    ),
    (
        ("Loudness", _draw_loudness),
        ("Faults", _draw_faults),
        ("Log-mel", _draw_bands),
        ("Expected rows", _draw_packing),
    ),
    (
        ("Labels", _most_frequent(lambda clip: clip.record.labels, max_bars=12)),
        ("Collections", _most_frequent(lambda clip: [clip.record.source])),
        ("Licences", _most_frequent(lambda clip: [clip.record.licence])),
        ("Authors of captions", _most_frequent(lambda clip: [clip.record.caption_source])),
    ),
)
