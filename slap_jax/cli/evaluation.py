"""The verbs that score, export, check and report on models."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from slap_jax.cli.arguments import AddVerb, ArgumentError, add_model, non_negative, path, positive
from slap_jax.errors import require_path


def evaluate(options: argparse.Namespace) -> int:
    """Scores a model on the evaluation sets of its run, on other sets, or on a suite.

    Results of a run are written to its evaluation.json, which keeps those of other sets of the same checkpoint. The
    card of its export takes the metrics. A classifier from `slap finetune` is scored by its trained head.

    Example:
      slap evaluate runs/demo
      slap evaluate runs/kinds/best --data test=data/mine:test
      slap evaluate runs/demo/export --suite zero_shot --data-dir data --output results.json
    """
    from slap_jax.config.rules import ConfigError
    from slap_jax.evaluation.evaluate import parse_data_argument
    from slap_jax.evaluation.other_models import open_scorer
    from slap_jax.evaluation.scorer import plan_head
    from slap_jax.evaluation.suites import load_suite, suite_sets
    from slap_jax.evaluation.task import DEFAULT_TEMPLATE, load_tasks

    if options.suite and options.data:
        raise ArgumentError("give either --suite or --data")
    if options.suite and (options.measure or options.template or options.multi_label):
        raise ArgumentError("--suite sets these: leave out --measure, --template and --multi-label")
    if options.suite and options.data_dir is None:
        raise ArgumentError("--suite needs --data-dir DIR, the folder that has a folder for each prepared dataset")
    if options.data_dir and not options.suite:
        raise ArgumentError("--data-dir belongs to --suite SUITE; name single sets with --data")
    rows = suite_sets(options.suite) if options.suite else []
    scorer = open_scorer(options.model, options.step)
    missing: dict[str, str] = {}
    tasks, head_sets = [], {}
    if options.suite:
        tasks, missing = load_suite(rows, options.data_dir, scorer.vocabulary, scorer.max_tokens)
        tasks, unsupported = scorer.filter_supported(tasks)
        missing |= unsupported
    else:
        data = scorer.config.data
        sources = dict(map(parse_data_argument, options.data)) if options.data else data.get("evaluation", {})
        if not sources:
            raise ConfigError("there is nothing to evaluate on; name a set with --data NAME=PATH:SPLIT[:LABEL]")
        measures, head_sets = plan_head(scorer, options.measure.split(",") if options.measure else [], sources)
        if measures is not None:
            tasks = load_tasks(
                sources,
                scorer.vocabulary,
                scorer.max_tokens,
                options.template or DEFAULT_TEMPLATE,
                measures,
                multi_label=options.multi_label,
            )
    if not tasks and not head_sets:
        reasons = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise ConfigError(f"no set of suite {options.suite!r} can be evaluated:\n{reasons}")
    results = scorer.score(
        tasks,
        seed=options.seed,
        beam=options.beam,
        extra_scores=[name for name in options.scores.split(",") if name],
        missing=missing,
        setting=options.setting,
        head_sets=head_sets,
    )
    return _report(options, results, f"evaluation_{options.suite}.json" if options.suite else "evaluation.json")


def probe(options: argparse.Namespace) -> int:
    """Trains and tests simple classifiers on the frozen features of labelled clips.

    Example:
      slap probe runs/demo --data mine=data/mine:train+test:kind --test test
    """
    from slap_jax.data.evaluation_set import load_evaluation
    from slap_jax.evaluation.clip_set import label_folds, parts_of_split, read_clip_set
    from slap_jax.evaluation.evaluate import parse_data_argument
    from slap_jax.evaluation.other_models import open_scorer
    from slap_jax.evaluation.task import probe_task

    if bool(options.folds) == bool(options.test):
        raise ArgumentError("give either --folds LABEL[:N], to test every part in turn, or --test SPLIT")
    name, settings = parse_data_argument(options.data)
    if not settings.label:
        raise ArgumentError(f"--data {options.data!r} names no label to predict; write NAME=PATH:SPLIT:LABEL")
    key, colon, count = (options.folds or "").partition(":")
    if colon and not re.fullmatch("[1-9][0-9]*", count):
        raise ArgumentError(f"--folds {options.folds!r} is not LABEL or LABEL:NUMBER with a number above 0")
    scorer = open_scorer(options.model, options.step)
    clips = load_evaluation(settings.path, settings.split)
    data = read_clip_set(name, clips, scorer.vocabulary, scorer.max_tokens, settings.split)
    if options.test:
        parts = parts_of_split(settings.path, settings.split)
    else:
        parts = label_folds(data, key, int(count or 0))
    task = probe_task(data, settings.label, parts, options.test or "", multi_label=options.multi_label)
    return _report(options, scorer.score([task], seed=options.seed), "probe.json")


def table(options: argparse.Namespace) -> None:
    """Compares results with published figures, and says why a comparison may be unfair.

    Example:
      slap table runs/demo/evaluation_zero_shot.json --html table.html
    """
    from slap_jax.evaluation.comparison import compare, missing_sets, read_results
    from slap_jax.report.comparison_page import html, markdown

    files = read_results(options.results)
    sections, missing = compare(files), missing_sets(files)
    for render, output in ((markdown, options.markdown), (html, options.html)):
        if output:
            output.write_text(render(sections, missing), encoding="utf-8")
            print(f"wrote {output}")
    if not options.markdown and not options.html:
        print(markdown(sections, missing), end="")


def _report(options: argparse.Namespace, results: dict[str, Any], file_name: str) -> int:
    """Writes results, then prints them. Returns the exit code: 1 if a set of the suite was missing."""
    from slap_jax.evaluation.evaluate import write_results
    from slap_jax.evaluation.stored_results import merge_results
    from slap_jax.evaluation.text_table import table
    from slap_jax.export.formats import refresh_card

    is_run = (Path(options.model) / "checkpoints").is_dir()
    output = options.output or (Path(options.model) / file_name if is_run else None)
    if output and is_run and options.output is None:
        stored, note = merge_results(results, output)
        write_results(stored, output)
        if note:
            print(f"{options.program}: {note}", file=sys.stderr)
    elif output:
        write_results(results, output)
    print(json.dumps(results, indent=2) if options.json else table(results))
    if output:
        print(f"wrote {output}", file=sys.stderr if options.json else sys.stdout)
    if is_run and output == Path(options.model) / "evaluation.json":
        card = refresh_card(options.model)
        if card:
            print(f"updated the metrics in {card}", file=sys.stderr if options.json else sys.stdout)
    return 1 if results.get("missing") else 0


def export(options: argparse.Namespace) -> None:
    """Exports a model for `slap_jax.load` or for another framework.

    Example:
      slap export runs/demo --licence CC-BY-4.0
      slap export runs/demo/export --format huggingface
    """
    from slap_jax.export.formats import export_model

    written = export_model(options.model, options.format, options.output, options.step, options.licence)
    print(f"wrote {written}")


def doctor(options: argparse.Namespace) -> int:
    """Checks a model with synthetic sounds and texts; the exit code is 1 if there are findings or sounds left out.

    Example:
      slap doctor runs/demo/export
      slap doctor runs/demo/export --sounds recordings --json
    """
    from slap_jax.cli.files import FileJobs
    from slap_jax.doctor.diagnosis import diagnose
    from slap_jax.doctor.invariance import Invariance, invariance_table

    jobs = FileJobs(options) if options.files else None
    result = diagnose(options.model, jobs.files if jobs else None)
    result["left_out"][:0] = jobs.left_out if jobs else []
    for item in result["left_out"]:
        print(f"{options.program}: left out: {item['reason']}", file=sys.stderr)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result["measures"].items():
            print(f"{name:<36}{value:>10.4f}")
        print(f"{'fingerprint of the export':<36}{result['fingerprint']:>10}")
        print()
        print("\n".join(invariance_table([Invariance(**item) for item in result["invariance"]])))
        print()
        for finding in result["findings"]:
            print(f"{finding['name']}: {finding['message']}")
        for warning in result["warnings"]:
            print(f"warning, {warning['name']}: {warning['message']}")
        print("healthy" if result["healthy"] else f"{len(result['findings'])} findings")
    return 0 if result["healthy"] and not result["left_out"] else 1


def report(options: argparse.Namespace) -> None:
    """Writes the report of a run, or a page that compares runs.

    The report is RUN_DIR/report.html, next to its numbers (report.json, tables.csv) and pictures (figures). It is about
    the last step; RUN_DIR/best is a run directory too, with a report about the best step.

    Example:
      slap report runs/demo
      slap report runs/first runs/second --output comparison.html
    """
    if len(options.run_dirs) > 1:
        from slap_jax.report.runs_page import build_comparison

        output = options.output or Path("comparison.html")
        build_comparison(options.run_dirs, output)
        print(f"wrote {output}")
        return
    if options.output:
        raise ArgumentError("--output belongs to a comparison of runs; the report of one run is RUN_DIR/report.html")
    from slap_jax.report.page import build_report

    build_report(options.run_dirs[0])
    print(f"wrote {options.run_dirs[0] / 'report.html'}")


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""

    def scored(function: Any, file_name: str) -> Any:
        added = verb(function)
        add_model(added, "MODEL")
        add = added.add_argument
        add("--output", type=require_path, metavar="FILE", help=f"Write JSON to this file ({file_name} in a run).")
        add("--json", action="store_true", help="Print JSON.")
        add("--step", type=non_negative, metavar="N", help="Use this checkpoint of a run (the newest).")
        add("--seed", type=non_negative, default=0, metavar="N", help="Seed of the bootstrap (0).")
        add(
            "--multi-label",
            action="store_true",
            help="Clips may have several values of LABEL: report mAP instead of accuracy.",
        )
        return add

    add = scored(evaluate, "evaluation.json or evaluation_SUITE.json")
    add(
        "--data",
        action="append",
        metavar="NAME=PATH:SPLIT[:LABEL]",
        help="Use this set instead of the run's; repeatable.",
    )
    add("--suite", metavar="SUITE", help="Evaluate paper, retrieval, zero_shot, captioning, probe, frames or all.")
    add("--data-dir", type=path, metavar="DIR", help="With --suite: folder of the prepared datasets.")
    add(
        "--measure",
        metavar="KINDS",
        help="Without --suite: measure retrieval, zero_shot, zero_shot_multi_label, classification (the trained head), "
        "captioning or frames; several are separated by commas.",
    )
    add(
        "--template",
        help="Without --suite: name of a prompt template, or a prompt with {} (ensemble).",
    )
    add("--beam", type=positive, default=1, metavar="N", help="Beam width of captioning (1).")
    add(
        "--scores",
        default="",
        metavar="NAMES",
        help="Compute more scores of captions: spice or fense, or both separated by a comma.",
    )
    add(
        "--setting",
        choices=("zero-shot", "in training", "fine-tuned"),
        help="State what the model has seen of the sets (derived from the sources of the records).",
    )

    add = scored(probe, "probe.json")
    add("--data", required=True, metavar="NAME=PATH:SPLIT:LABEL", help="Prepared clips, and the label to predict.")
    add(
        "--folds",
        metavar="LABEL[:N]",
        help="Label whose values are the folds; with N, its values are grouped into N folds.",
    )
    add("--test", metavar="SPLIT", help="Test on this split, after training on the other splits of --data.")

    add = verb(table).add_argument
    add(
        "results",
        nargs="+",
        type=require_path,
        metavar="RESULTS.json",
        help="Results of `slap evaluate`, `slap probe` or `slap score`.",
    )
    add("--markdown", type=path, metavar="FILE", help="Write Markdown to a file instead of printing it.")
    add("--html", type=path, metavar="FILE", help="Write an HTML page.")

    added = verb(export)
    add_model(added, "MODEL")
    add = added.add_argument
    # The names are those of slap_jax.export.formats, which takes seconds to import.
    formats = ("safetensors", "stablehlo", "pytorch", "onnx", "huggingface")
    add("--format", choices=formats, default="safetensors", help="Form of the export (safetensors, for slap_jax.load).")
    add("--output", type=require_path, metavar="DIR", help="Directory to write to (RUN/export, or the export itself).")
    add("--step", type=non_negative, metavar="N", help="Use this checkpoint of a run (the newest).")
    add("--licence", default="", metavar="NAME", help="Licence of the weights for the model card, such as CC-BY-4.0.")

    added = verb(doctor)
    add_model(added, "MODEL")
    added.add_argument(
        "--sounds",
        dest="files",
        nargs="+",
        default=[],
        metavar="PATH",
        help="Files, folders or patterns: measure invariances on the first 10 s of each (built-in sounds).",
    )
    added.set_defaults(files_from=None)
    added.add_argument("--json", action="store_true", help="Print as JSON.")

    add = verb(report).add_argument
    add("run_dirs", nargs="+", type=path, metavar="RUN_DIR", help="Run directory; several are compared with the first.")
    add("--output", type=path, metavar="FILE", help="Page of a comparison (comparison.html).")
