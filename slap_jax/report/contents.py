"""The contents of the report page, as values for `templates/report.html`. The wording is in the template."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.drawing.packed_row import row_figure, slot_colour, slot_ink
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.report import figures, media
from slap_jax.report.examples import EmbeddedSet, Query, retrieval_examples, similarity_matrix
from slap_jax.report.figures import ExampleRow
from slap_jax.report.record import RunRecord, parameter_counts

Values = dict[str, Any]

_LABEL_CHARACTERS = 52
_OBJECTIVES = ("contrastive", "distillation", "captioning")  # in the order in which the page names them

# (file, description) of the files that a run directory may hold.
_FILES = (
    ("config.json", "the whole config"),
    ("params.txt", "every parameter with its shape"),
    ("metrics.jsonl", "all logged metrics"),
    ("evaluation.json", "results with intervals, fingerprints and templates"),
    ("checkpoints", "parameters, optimiser and data state to resume from"),
    ("export", "what slap_jax.load reads"),
    ("figures", "the pictures of this page as PNG"),
    ("report.json", "the numbers of this page"),
)
_WRITTEN_WITH_THE_PAGE = ("figures", "report.json")
_TENSORBOARD = "TensorBoard events"


def trained_objectives(config: ConfigDict) -> list[str]:
    """Returns the objectives with a weight above 0, the well-known ones first."""
    trained = [name for name in config.objectives if config.objectives[name].weight > 0]
    known = [name for name in _OBJECTIVES if name in trained]
    return known + sorted(set(trained) - set(known))


def headline(run: RunRecord) -> Values:
    """Returns the names of the objectives and the parts of the model with their parameter counts."""
    parts = parameter_counts(run.parameters)
    return {
        "objectives": [
            "self-distillation" if name == "distillation" else name for name in trained_objectives(run.config)
        ],
        "parts": [
            ("caption decoder" if part == "captioning" else part.replace("_", " "), size)
            for part, size in parts.items()
            if size >= 1000
        ],
    }


def queries(run: RunRecord, embedded: Iterable[EmbeddedSet]) -> list[Values]:
    """Returns text queries of each set with the clips that were retrieved for them, right and wrong ones."""
    return [
        {
            "name": one.name,
            "shown": len(one.clips),
            "total": one.total,
            "queries": [_query(run, one, query) for query in retrieval_examples(one)],
        }
        for one in embedded
    ]


def captions(run: RunRecord, examples: Iterable[tuple[str, Any, str]]) -> list[Values]:
    """Returns generated captions with the true ones."""
    return [
        {
            "set": name,
            "sound": _sound(run, clip, clip.captions[0]),
            "generated": generated,
            "references": clip.captions[:2],
        }
        for name, clip, generated in examples
    ]


def matrices(embedded: Iterable[EmbeddedSet], directory: Path) -> list[Values]:
    """Draws one similarity matrix per set, for the page and as PNG in `directory`."""
    values = []
    for one in embedded:
        matrix = similarity_matrix(one)
        size = len(matrix.captions)
        if size < 2:
            continue
        labels = [_shorten(caption) for caption in matrix.captions]
        draw = functools.partial(figures.similarity_figure, matrix.similarity, labels, matrix.groups, matrix.relevant)
        with drawing(PRINT):
            path = directory / f"similarity_{_file_name(one.name)}.png"
            draw(PRINT).savefig(path, dpi=160, bbox_inches="tight")
        best = matrix.similarity.argmax(axis=1)
        right = int(matrix.relevant[np.arange(size), best].sum())
        description = (
            f"Matrix of the similarities of {size} captions and {size} clips of {one.name}; for {right} captions the "
            "most similar clip is right"
        )
        values.append(
            {
                "name": one.name,
                "size": size,
                "right": right,
                "label": matrix.label,
                "chart": media.chart(draw, description, tight=True),
            }
        )
    return values


def training(run: RunRecord, directory: Path) -> Values:
    """Draws the curves: losses, what shows whether optimisation is healthy, and evaluations in the loop."""
    losses = figures.loss_panels(run)
    optimisation = [panel for panel in figures.OPTIMISATION_PANELS if figures.has_curve(run, panel[0])]
    figures.save_curves(run, losses, directory / "losses.png")
    figures.save_curves(run, optimisation, directory / "optimisation.png")
    skipped = run.series("bad_steps")[1]
    return {
        "losses": _panels(run, losses),
        "optimisation": _panels(run, optimisation),
        "evaluations": _panels(run, figures.evaluation_panels(run)),
        "skipped_steps": bool(np.nansum(skipped) > 0),
    }


def packed_row(row: ExampleRow | None, directory: Path) -> Values | None:
    """Draws a packed row of real clips and its attention masks, for the page and as PNG in `directory`."""
    if row is None:
        return None
    with drawing(PRINT):
        row_figure(row, PRINT, with_captions=True).savefig(directory / "packed_row.png", dpi=160)
        figures.mask_figure(row, figures.MASKS, PRINT).savefig(directory / "attention_masks.png", dpi=160)
    description = f"Waveform, log-mel and clip of each column of a row with {len(row.clips)} clips"
    return {
        "columns": len(row.audio_segment_ids),
        "column_ms": 1000 * row.column_seconds,
        "fill_percent": 100 * float((row.audio_segment_ids > 0).mean()),
        "chart": media.chart(lambda theme: row_figure(row, theme, with_captions=False), description),
        "clips": [
            {
                "colour": slot_colour(slot),
                "ink": slot_ink(slot),
                "caption": caption,
                "seconds": len(clip.waveform) / row.audio.sample_rate,
            }
            for slot, (clip, caption) in enumerate(zip(row.clips, row.captions, strict=True))
        ],
        "masks": [
            {
                "title": title,
                "chart": media.chart(functools.partial(figures.mask_figure, row, [(kind, "")]), f"Mask of {title}"),
            }
            for kind, title in figures.MASKS
        ],
    }


def files(directory: Path) -> Values:
    """Lists which files of a run are in its directory, with descriptions, and which are missing."""
    present = [(name, text) for name, text in _FILES if name in _WRITTEN_WITH_THE_PAGE or (directory / name).exists()]
    missing = [name for name, text in _FILES if (name, text) not in present]
    if any(directory.rglob("*tfevents*")):
        present.append((_TENSORBOARD, ""))
    else:
        missing.append(_TENSORBOARD)
    return {"present": present, "missing": missing}


def settings(config: ConfigDict) -> Values:
    """Lists the settings that differ from the defaults as (name, value, default), and the whole config as JSON."""
    defaults = _flatten(json.loads(default_config().to_json_best_effort()))
    own = json.loads(config.to_json_best_effort())
    changed = [
        (name, json.dumps(value), json.dumps(defaults[name]) if name in defaults else "–")
        for name, value in _flatten(own).items()
        if name not in defaults or defaults[name] != value
    ]
    return {"settings": changed, "whole_config": json.dumps(own, indent=2)}


def _query(run: RunRecord, one: EmbeddedSet, query: Query) -> Values:
    clips = [one.clips[hit.clip] for hit in query.hits]
    target = one.clips[query.target]
    longest = max(len(clip.waveform) for clip in (*clips, target))
    missed = not any(hit.right for hit in query.hits)
    return {
        "text": query.text,
        "rank": query.rank,
        "candidates": query.candidates,
        "hits": [
            {
                "sound": _sound(run, clip, clip.captions[0], longest),
                "similarity": hit.similarity,
                "right": hit.right,
            }
            for clip, hit in zip(clips, query.hits, strict=True)
        ],
        "target": _sound(run, target, query.text, longest) if missed else None,
    }


def _sound(run: RunRecord, clip: Any, caption: str, longest: int = 0) -> Values:
    """Returns a clip for the template's player, `width` percent wide: `longest` samples, or the clip's own, fill it."""
    rate = run.config.audio.sample_rate
    seconds = len(clip.waveform) / rate
    whole = min(longest / rate or seconds, media.MAX_SECONDS)
    return {
        "caption": caption,
        "audio": media.audio_data_uri(clip.waveform, rate),
        "picture": media.spectrogram_data_uri(clip.waveform, run.config.audio),
        "seconds": seconds,
        "played": media.MAX_SECONDS,
        "width": max(15.0, 100.0 * min(seconds, media.MAX_SECONDS) / whole),
    }


def _panels(run: RunRecord, panels: Sequence[tuple[str, str, str]]) -> list[Values]:
    values = []
    for metric, title, note in panels:
        logged = run.series(metric)[1]
        last = figures.closing_value(run, metric)
        description = f"{title} over {len(logged)} logged steps; from {logged[0]:.4g} to {last:.4g}"
        values.append(
            {
                "title": title,
                "note": note,
                "value": last,
                "chart": media.chart(functools.partial(figures.curve_figure, run, metric), description),
            }
        )
    return values


def _shorten(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1].rstrip() + "…"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Values:
    flat: Values = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
