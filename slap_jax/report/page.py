"""Builds the report of a run: one page that needs no other file, its pictures as PNG, and its numbers as JSON."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.report import sections, tables, template
from slap_jax.report.examples import EmbeddedSet, caption_examples, embed_set
from slap_jax.report.figures import ExampleRow, example_row
from slap_jax.report.record import ReportError, RunRecord, read_run, summarise

logger = logging.getLogger(__name__)


def build_report(
    run_dir: Path,
    *,
    max_clips: int = 256,
    model: Any = None,
    evaluation_sets: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Writes `report.html`, `report.json` and `figures/*.png` into a run directory.

    A part of the run that is missing (no export, no evaluation, an objective that was off) becomes a sentence on the
    page that says so; the rest is still written.

    Args:
        run_dir: what `slap train` wrote: `config.json` and `metrics.jsonl`, with `evaluation.json` and `export/` if
            there are any.
        max_clips: clips of each evaluation set that are embedded for the examples; the tables use whole sets.
        model: used instead of `slap_jax.load(run_dir / "export")`.
        evaluation_sets: name -> clips, used instead of reading `config.data.evaluation`.

    Raises:
        ReportError: no run directory.
        DrawingError: matplotlib is missing (the extra `demo`).
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    with drawing(PRINT):
        pass  # a missing matplotlib is an error before any work
    problems: list[str] = []
    if model is None:
        model = _attempt("the export", lambda: _load_model(run_dir), problems)
    if evaluation_sets is None:
        evaluation_sets = _load_sets(run, problems)
    embedded = _embed(run, model, evaluation_sets, max_clips, problems)
    row = _attempt("the packed row", lambda: _packed_row(run, evaluation_sets), problems)
    captions = _captions(run, model, embedded, problems)

    figures = run_dir / "figures"
    figures.mkdir(exist_ok=True)
    body = "".join(
        [
            sections.results(run),
            sections.retrieval(run, embedded),
            sections.captioning(run, captions),
            sections.similarity(embedded, figures),
            sections.training(run, figures),
            sections.packing(row, run, figures),
            sections.files(run, problems),
        ]
    )
    title, header = sections.header(run)
    html = template.page(title, header, body, sections.footer())
    (run_dir / "report.html").write_text(html, encoding="utf-8")
    numbers = report_numbers(run, captions)
    (run_dir / "report.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def report_numbers(run: RunRecord, captions: Sequence[tuple[str, Any, str]] = ()) -> dict[str, Any]:
    """The numbers of the report: results as evaluated, the training summary and the captions shown."""
    facts = summarise(run)
    return {
        "retrieval": run.evaluation.get("retrieval", {}),
        "zero_shot": run.evaluation.get("zero_shot", {}),
        "train": facts | {"objectives": tables.objectives_of(run.config)},
        "captions": [
            {"set": name, "id": clip.id, "generated": generated, "true": list(clip.captions)}
            for name, clip, generated in captions
        ],
    }


def _attempt(what: str, action: Callable[[], Any], problems: list[str]) -> Any:
    """Runs a part of the report; an error there is noted on the page instead of losing the rest."""
    try:
        return action()
    except ReportError:
        raise
    except Exception as error:
        logger.warning("report: %s could not be shown", what, exc_info=True)
        problems.append(f"{what} could not be shown: {type(error).__name__}: {error}")
        return None


def _load_model(run_dir: Path) -> Any:
    if not (run_dir / "export").is_dir():
        return None
    from slap_jax.inference.model import SlapModel

    return SlapModel.load(run_dir / "export")


def _load_sets(run: RunRecord, problems: list[str]) -> dict[str, Sequence[Any]]:
    from slap_jax.data.evaluation_set import load_evaluation

    sets = {}
    for name, source in run.config.data.evaluation.items():
        clips = _attempt(
            f"the evaluation set {name}", lambda source=source: load_evaluation(source.path, source.split), problems
        )
        if clips:
            sets[name] = clips
    return sets


def _embed(
    run: RunRecord, model: Any, sets: Mapping[str, Sequence[Any]], limit: int, problems: list[str]
) -> list[EmbeddedSet]:
    if model is None:
        return []
    rate = run.config.audio.sample_rate
    embedded = [
        _attempt(
            f"the evaluation set {name}",
            lambda name=name, clips=clips: embed_set(model, name, clips, limit, rate),
            problems,
        )
        for name, clips in sets.items()
        if any(clip.captions for clip in clips)
    ]
    return [one for one in embedded if one is not None]


def _packed_row(run: RunRecord, sets: Mapping[str, Sequence[Any]]) -> ExampleRow | None:
    clips = [clip for part in sets.values() for clip in part]
    kept = [run.directory / "export" / name for name in ("tokenizer.model", "tokenizer.json")]
    path = next((file for file in kept if file.is_file()), run.config.data.tokenizer)
    if not clips or not path:
        return None
    from slap_jax.data.tokenizer import load_tokenizer

    return example_row(clips, load_tokenizer(path), run.config)


def _captions(
    run: RunRecord, model: Any, embedded: Sequence[EmbeddedSet], problems: list[str]
) -> list[tuple[str, Any, str]]:
    if model is None or "captioning" not in tables.objectives_of(run.config):
        return []
    clips = [(one.name, clip) for one in embedded for clip in one.clips]
    rate = run.config.audio.sample_rate
    return _attempt("generated captions", lambda: caption_examples(model, clips, rate), problems) or []
