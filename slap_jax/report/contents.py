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
from slap_jax.report import classes, curves, figures, media
from slap_jax.report.charts import line_chart
from slap_jax.report.curves import Panel
from slap_jax.report.examples import EmbeddedSet, Query, retrieval_examples, similarity_matrix
from slap_jax.report.figures import ExampleRow
from slap_jax.report.record import RunRecord, parameter_counts

Values = dict[str, Any]

_LABEL_CHARACTERS = 52
_OBJECTIVES = (
    "contrastive",
    "distillation",
    "captioning",
    "classification",
)  # in the order in which the page names them

# (file, description) of the files that a run directory may hold.
_FILES = (
    ("config.json", "the whole config"),
    ("params.txt", "every parameter with its shape"),
    ("metrics.jsonl", "all logged metrics"),
    ("provenance.json", "commit, command, versions and hardware of every start"),
    ("evaluation.json", "results with intervals, fingerprints and templates"),
    ("checkpoints", "parameters, optimiser and data state to resume from"),
    ("export", "the model, as slap_jax.load reads it"),
    ("export/README.md", "the model card"),
    ("best", "the best step, as a run directory"),
    ("figures", "the pictures of this page as PNG"),
    ("report.json", "the numbers of this page"),
    ("tables.csv", "the tables of this page"),
)
_WRITTEN_WITH_THE_PAGE = ("figures", "report.json", "tables.csv")
# What every run has, so that its absence is worth a line.
_EXPECTED = ("evaluation.json", "checkpoints", "export")


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
            path = directory / f"similarity_{figures.file_name(one.name)}.png"
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
    losses, optimisation = curves.loss_panels(run), curves.optimisation_panels(run)
    curves.save_panels(losses, directory / "losses.png")
    curves.save_panels(optimisation, directory / "optimisation.png")
    skipped = run.series("bad_steps")[1]
    return {
        "losses": _panels(losses),
        "optimisation": _panels(optimisation),
        "evaluations": _panels(curves.evaluation_panels(run)),
        "skipped_steps": bool(np.nansum(skipped) > 0),
    }


def classification(
    run: RunRecord, kinds: Sequence[str], clips_of: Mapping[str, Sequence[Any]], directory: Path
) -> list[Values]:
    """Returns the classifications of the given kinds, with wrong clips to hear."""
    sets = classes.class_scores(classes.classification_sets(run.evaluation, kinds), clips_of, directory)
    for one in sets:
        for mistake in one["mistakes"]:
            mistake["sound"] = _sound(run, mistake.pop("clip"), f"{mistake['true']}, predicted {mistake['predicted']}")
    return sets


def head(run: RunRecord) -> Values | None:
    """Returns what the trained classification head predicts and how to call it; None for a run without one."""
    if "classification" not in trained_objectives(run.config):
        return None
    settings = run.config.objectives.classification
    return {
        "label": settings.label,
        "classes": list(settings.classes),
        "multi_label": settings.multi_label,
        "model": str(run.directory / "export"),
        "has_export": (run.directory / "export").is_dir(),
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
    """Lists which files of a run are in its directory, with descriptions, and which of the usual ones are missing."""
    present = [(name, text) for name, text in _FILES if name in _WRITTEN_WITH_THE_PAGE or (directory / name).exists()]
    missing = [name for name in _EXPECTED if not (directory / name).exists()]
    return {
        "present": [{"name": name, "text": text, "is_folder": (directory / name).is_dir()} for name, text in present],
        "missing": missing,
        "tensorboard": any(directory.glob("tensorboard/*tfevents*")),
        "directory": str(directory),
    }


def settings(config: ConfigDict) -> Values:
    """Lists the settings that differ from the defaults as (name, value, default), and the whole config as JSON."""
    defaults = flatten(json.loads(default_config().to_json_best_effort()))
    own = json.loads(config.to_json_best_effort())
    changed = [
        (name, json.dumps(value), json.dumps(defaults[name]) if name in defaults else "–")
        for name, value in flatten(own).items()
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


def _panels(panels: Sequence[Panel]) -> list[Values]:
    return [
        {
            "title": panel.title,
            "note": panel.note,
            "value": panel.value,
            "lines": [(line.name, line.colour, line.dashed) for line in panel.lines if line.name],
            "has_log": panel.log,
            "chart": line_chart(panel.lines, _description(panel), bounds=panel.bounds, log=panel.log),
        }
        for panel in panels
    ]


def _description(panel: Panel) -> str:
    values = panel.lines[0].values[np.isfinite(panel.lines[0].values)]
    return f"{panel.title} over {len(values)} logged steps; from {values[0]:.4g} to {values[-1]:.4g}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1].rstrip() + "…"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Values:
    """Returns nested settings as `data.train.clips.path` -> value."""
    flat: Values = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
