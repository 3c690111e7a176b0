"""The statistics of `slap stats` as JSON values and as text."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from slap_jax.config.defaults import columns_of, patches_per_column
from slap_jax.data.clip_statistics import QUANTILES, SILENT_DBFS
from slap_jax.data.inspect.measure import MixtureStatistics, SourceStatistics
from slap_jax.data.inspect.packing_forecast import Forecast

MAX_LABELS = 20  # in the JSON values
_MAX_SHOWN = 5  # in the text


def summarise(statistics: MixtureStatistics, audio: ConfigDict) -> dict[str, Any]:
    """Returns the statistics of a mixture as JSON values.

    Args:
        statistics: result of `measure_mixture`.
        audio: `config.audio`.
    """
    return {
        "mean": round(statistics.mean, 4),
        "std": round(statistics.std, 4),
        "packing": _packing(statistics.packing, audio),
        "shares": {name: round(fraction, 6) for name, fraction in statistics.fractions.items()},
        "sources": {
            name: _source(source, statistics.max_caption_tokens, audio) for name, source in statistics.sources.items()
        },
    }


def _source(source: SourceStatistics, max_caption_tokens: int | None, audio: ConfigDict) -> dict[str, Any]:
    clips = source.measured
    records = [clip.record for clip in clips]
    labels = collections.Counter(label for record in records for label in set(record.labels))
    distributions = source.distributions.summary()
    silent = sum(clip.loudness_dbfs < SILENT_DBFS for clip in clips)
    summary: dict[str, Any] = {
        "path": source.path,
        "split": source.split,
        "clips": source.clips,
        "measured": len(clips),
        "hours": round(source.seconds / source.timed * source.clips / 3_600, 4),
        "hours_are_estimated": source.timed < source.clips,
        "duration_s": {"clips": source.timed, **distributions["duration_s"]},
        "columns_of_longest": columns_of(source.longest, audio),
        "captions_per_clip": counts(len(record.captions) for record in records),
        "clips_without_caption_or_label": sum(not clip.has_caption for clip in clips),
        "caption_words": lengths(len(caption.split()) for record in records for caption in record.captions),
    }
    if max_caption_tokens is not None:
        tokens = [count for clip in clips for count in clip.caption_tokens]
        cut = sum(count > max_caption_tokens for count in tokens)
        summary["caption_tokens"] = lengths(tokens)
        summary["captions_cut"] = {"max_caption_tokens": max_caption_tokens, "share": _fraction(cut, len(tokens))}
    return summary | {
        "labels": {"distinct": len(labels), "most_frequent": dict(labels.most_common(MAX_LABELS))},
        "sources": counts(record.source for record in records),
        "caption_sources": counts(record.caption_source for record in records),
        "licences": counts(record.licence for record in records),
        "loudness_dbfs": {
            **distributions["loudness_dbfs"],
            "silent_share": _fraction(silent, len(clips)),
            "clipped_share": _fraction(sum(clip.clipped for clip in clips), len(clips)),
        },
    }


def _packing(packing: Forecast, audio: ConfigDict) -> dict[str, Any]:
    room, enough = packing.row_size, packing.enough
    with_text = packing.text_fill is not None
    return {
        "columns": room.columns,
        "audio_tokens": room.columns * patches_per_column(audio),
        "slots": room.slots,
        "text_tokens": room.text_tokens,
        "bins": room.bins,
        "rows": packing.rows,
        "fill": round(packing.fill, 4),
        "text_fill": round(packing.text_fill, 4) if packing.text_fill is not None else None,
        "slot_fill": round(packing.slot_fill, 4),
        "clips_per_row": round(packing.clips_per_row, 2),
        "limited_by": list(packing.limits),
        "enough": {
            "slots": enough.slots,
            "text_tokens": enough.text_tokens if with_text else None,
            "fill": round(packing.enough_fill, 4),
        },
    }


def quantiles(values: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Returns percentage -> value of the `QUANTILES`."""
    return {
        f"{100 * share:g}%": round(float(value), 3)
        for share, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    }


def lengths(values: Iterable[int]) -> dict[str, Any]:
    """Returns the quantiles of whole numbers, and how often each number occurs."""
    array: Int[np.ndarray, " n"] = np.fromiter(values, np.int64)
    if not len(array):
        return {"quantiles": {}, "values": [], "counts": []}
    present, occurrences = np.unique(array, return_counts=True)
    return {"quantiles": quantiles(array), "values": present.tolist(), "counts": occurrences.tolist()}


def counts(values: Iterable[Any]) -> dict[str, int]:
    """Counts equal values; the most frequent come first."""
    counter = collections.Counter(map(str, values))
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _fraction(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Formats the main results of `summarise` as lines of text."""
    lines = []
    for name, source in summary["sources"].items():
        several = len(summary["sources"]) > 1
        title = f"{name}: " if several else ""
        share = f", {100 * summary['shares'][name]:.0f} % of the mixture" if several else ""
        about = "about " if source["hours_are_estimated"] else ""
        lines += [
            f"{title}{source['path']}, split {source['split']}: {source['clips']:,} clips, "
            f"{about}{source['hours']:.2f} hours{share}; {source['measured']:,} measured",
            *_source_lines(source),
            "",
        ]
    lines.append(f"log-mel   config.audio.update(mean={summary['mean']:.2f}, std={summary['std']:.2f})")
    return lines + _packing_lines(summary["packing"])


def _source_lines(source: Mapping[str, Any]) -> list[str]:
    loudness = source["loudness_dbfs"]
    lines = [
        f"  duration   {_spread(source['duration_s']['quantiles'], ' s')}",
        f"  captions   {_most_frequent(source['captions_per_clip'], '{} per clip')}",
        f"  words      {_spread(source['caption_words']['quantiles'], ' per caption')}",
    ]
    if "caption_tokens" in source:
        cut = source["captions_cut"]
        lines.append(
            f"  tokens     {_spread(source['caption_tokens']['quantiles'], ' per caption')}; "
            f"{100 * cut['share']:.1f} % are cut to max_caption_tokens={cut['max_caption_tokens']}"
        )
    if source["clips_without_caption_or_label"]:
        lines.append(f"  unusable   {source['clips_without_caption_or_label']} clips without caption and label")
    lines.append(
        f"  loudness   {_spread(loudness['quantiles'], ' dBFS')}; {100 * loudness['clipped_share']:.1f} % clipped, "
        f"{100 * loudness['silent_share']:.1f} % silent"
    )
    if source["labels"]["distinct"]:
        labels = source["labels"]
        lines.append(f"  labels     {_most_frequent(labels['most_frequent'], distinct=labels['distinct'])}")
    for key, title in (("sources", "from"), ("licences", "licences"), ("caption_sources", "captioned")):
        if set(source[key]) != {""}:
            lines.append(f"  {title:10} {_most_frequent(source[key])}")
    return lines


def _packing_lines(packing: Mapping[str, Any]) -> list[str]:
    text_fill, enough = packing["text_fill"], packing["enough"]
    text = f"{100 * text_fill:.0f} % of the text tokens" if text_fill is not None else "text not counted"
    if text_fill is None:
        text += " (--tokenizer FILE counts it)"
    lines = [
        f"packing   rows of {packing['columns']} columns ({packing['audio_tokens']} audio tokens), {packing['slots']} "
        f"slots, {packing['text_tokens']} text tokens, {packing['bins']} bins:",
        f"          {100 * packing['fill']:.1f} % of the columns in use, {text}, "
        f"{packing['clips_per_row']:.1f} clips per row",
    ]
    advice = ", ".join(f"{name}={enough[name]}" for name in ("slots", "text_tokens") if enough[name] is not None)
    if packing["limited_by"]:
        lines.append(
            f"          limited by {' and '.join(packing['limited_by'])}: with {advice} rows would be "
            f"{100 * enough['fill']:.1f} % full"
        )
    else:
        lines.append(f"          {advice} would fill rows as well")
    return lines


def _spread(quantiles: Mapping[str, float], unit: str) -> str:
    if not quantiles:
        return "none"
    smallest, low, median, high, largest = (f"{quantiles[key]:.3g}" for key in ("0%", "5%", "50%", "95%", "100%"))
    return f"{median}{unit} (5 to 95 %: {low} to {high}; all: {smallest} to {largest})"


def _most_frequent(counted: Mapping[str, int], name: str = "{}", distinct: int | None = None) -> str:
    shown = [f"{name.format(key or '(none stated)')}: {count:,}" for key, count in list(counted.items())[:_MAX_SHOWN]]
    others = (distinct or len(counted)) - len(shown)
    return "; ".join(shown) + (f"; and {others} more" if others else "")
