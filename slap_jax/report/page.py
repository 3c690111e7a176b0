"""`slap report RUN`: one page that needs no other file, its figures as PNG, and its numbers as JSON and CSV."""

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.run import latest_step
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.export.card_metrics import read_metrics
from slap_jax.report import contents
from slap_jax.report.examples import EmbeddedSet, caption_examples, embed_set
from slap_jax.report.figures import ExampleRow, example_row
from slap_jax.report.origin import data_table, provenance
from slap_jax.report.record import ReportError, RunRecord, read_run, summarise
from slap_jax.report.render import render

logger = logging.getLogger(__name__)

_CSV_HEAD = ("task", "set", "class", "metric", "value", "low", "high", "chance", "n")  # of tables.csv


def build_report(
    run_dir: Path,
    *,
    max_clips: int = 256,
    model: Any = None,
    evaluation_sets: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Writes `report.html`, `report.json`, `tables.csv` and `figures/*.png` into a run directory.

    The page has no section for what the run does not have, such as captions of a run without captioning.

    Args:
        run_dir: the directory that `slap train` wrote, or `best` in it: `config.json` and `metrics.jsonl`, optionally
            `evaluation.json` and `export/`.
        max_clips: number of clips of each evaluation set to embed for the examples; the tables use whole sets.
        model: used instead of `slap_jax.load(run_dir / "export")`.
        evaluation_sets: name -> clips, used instead of reading `config.data.evaluation`.

    Raises:
        ReportError, ExportError: not a run directory, or a damaged one.
        DrawingError: matplotlib is missing (the extra `demo`).
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    with drawing(PRINT):
        pass  # fail before any work if matplotlib is missing
    problems: list[str] = []
    is_comparable = contents.trained_objectives(run.config) != ["classification"]  # sounds and texts with each other
    if model is None and is_comparable:
        model = _attempt("the export", lambda: _load_model(run_dir), problems)
    if evaluation_sets is None:
        evaluation_sets = _load_sets(run, problems)
    embedded = _embed(run, model, evaluation_sets, max_clips, problems) if is_comparable else []
    row = _attempt("the packed row", lambda: _packed_row(run, evaluation_sets, max_clips), problems)
    captions = _captions(run, model, embedded, problems)
    numbers = report_numbers(run, captions)

    figures = run_dir / "figures"
    figures.mkdir(exist_ok=True)
    table = _attempt("the tables", lambda: _evaluation_csv(run.evaluation), problems) or ""
    page = render(
        "report.html",
        name=_name(run),
        best_step=None if run.history == run.directory else latest_step(run_dir),
        config=run.config,
        facts=summarise(run),
        **contents.headline(run),
        evaluation=run.evaluation,
        head=contents.head(run),
        head_scores=_classified(run, ["classification"], evaluation_sets, figures, problems),
        zero_shot=_classified(run, ["zero_shot", "zero_shot_multi_label"], evaluation_sets, figures, problems),
        queries=contents.queries(run, embedded),
        captions=contents.captions(run, captions),
        matrices=contents.matrices(embedded, figures),
        **contents.training(run, figures),
        row=contents.packed_row(row, figures),
        data=data_table(run),
        provenance=provenance(run),
        files=contents.files(run_dir),
        needs_export=is_comparable and model is None,
        problems=problems,
        table=table,
        **contents.settings(run.config),
        version=version("slap-jax"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text_atomic(run_dir / "report.html", page)
    write_text_atomic(run_dir / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    write_text_atomic(run_dir / "tables.csv", table)


def _evaluation_csv(evaluation: Mapping[str, Any]) -> str:
    """Returns the results of `evaluation.json`, with the ends of their 95 % intervals, and the scores of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for metric in read_metrics(evaluation):
        low, high = metric.interval or ("", "")
        chance = "" if metric.chance is None else metric.chance
        writer.writerow([metric.task, metric.set, "", metric.name, metric.value, low, high, chance, metric.count])
    for kind in ("classification", "zero_shot", "zero_shot_multi_label"):
        for name, scores in evaluation.get(kind, {}).items():
            for one, values in scores.get("per_class", {}).items():
                for metric in ("accuracy", "precision", "average_precision"):
                    if values.get(metric) is not None:
                        row = [kind.replace("_", " "), name, one, metric.replace("_", " "), values[metric]]
                        writer.writerow([*row, "", "", "", values["n"]])
    return text.getvalue()


def _name(run: RunRecord) -> str:
    """Returns the name of the run; `best` alone would not say of which run it is the best step."""
    name = run.directory.resolve().name
    return name if run.history == run.directory else f"{run.history.name}/{name}"


def report_numbers(run: RunRecord, captions: Sequence[tuple[str, Any, str]] = ()) -> dict[str, Any]:
    """Returns the numbers of the page: evaluation results, the training summary and the generated captions."""
    return {
        "retrieval": run.evaluation.get("retrieval", {}),
        "zero_shot": run.evaluation.get("zero_shot", {}),
        **({"classification": run.evaluation["classification"]} if "classification" in run.evaluation else {}),
        "provenance": run.starts,
        "train": {**summarise(run), "objectives": contents.trained_objectives(run.config)},
        "captions": [
            {"set": name, "id": clip.id, "generated": generated, "true": list(clip.captions)}
            for name, clip, generated in captions
        ],
    }


def _attempt(what: str, action: Callable[[], Any], problems: list[str]) -> Any:
    """Runs a part of the report. An error is noted on the page and does not lose the other parts."""
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
    """Opens the evaluation sets of the config, and those that `slap evaluate --data` named."""
    from slap_jax.data.evaluation_set import load_evaluation

    named = {name: (source.path, source.split) for name, source in run.config.data.evaluation.items()}
    for kind in ("retrieval", "classification", "zero_shot", "zero_shot_multi_label"):
        for name, scores in run.evaluation.get(kind, {}).items():
            if isinstance(scores, Mapping) and scores.get("path") and scores.get("split"):
                named.setdefault(name, (scores["path"], scores["split"]))
    sets = {}
    for name, (path, split) in named.items():
        clips = _attempt(
            f"the evaluation set {name}", lambda path=path, split=split: load_evaluation(path, split), problems
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
        if _has_captions(clips)
    ]
    return [one for one in embedded if one is not None]


def _classified(
    run: RunRecord, kinds: Sequence[str], sets: Mapping[str, Sequence[Any]], directory: Path, problems: list[str]
) -> list[Any]:
    """Returns the classifications of these kinds; results of an unknown form lose only their section."""
    what = " and ".join(kinds).replace("_", " ")
    return _attempt(what, lambda: contents.classification(run, kinds, sets, directory), problems) or []


def _has_captions(clips: Sequence[Any]) -> bool:
    from slap_jax.data.evaluation_set import EvaluationSet

    return any(clip.captions for clip in (clips.facts() if isinstance(clips, EvaluationSet) else clips))


def _packed_row(run: RunRecord, sets: Mapping[str, Sequence[Any]], limit: int) -> ExampleRow | None:
    clips = [clip for part in sets.values() for clip in part[:limit]]
    exported = [run.directory / "export" / name for name in ("tokenizer.model", "tokenizer.json")]
    path = next((file for file in exported if file.is_file()), run.config.data.tokenizer)
    if not clips or not path:
        return None
    from slap_jax.data.tokenizer import load_tokenizer

    return example_row(clips, load_tokenizer(path), run.config)


def _captions(
    run: RunRecord, model: Any, embedded: Sequence[EmbeddedSet], problems: list[str]
) -> list[tuple[str, Any, str]]:
    if model is None or "captioning" not in contents.trained_objectives(run.config):
        return []
    clips = [(one.name, clip) for one in embedded for clip in one.clips]
    rate = run.config.audio.sample_rate
    return _attempt("generated captions", lambda: caption_examples(model, clips, rate), problems) or []
