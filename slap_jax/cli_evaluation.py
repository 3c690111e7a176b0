"""The verbs of the `slap` command that score models, and set the scores beside published ones."""

import argparse
import sys
from pathlib import Path
from typing import Any

from slap_jax.cli_data import AddVerb, ArgumentError


def evaluate(options: argparse.Namespace) -> int:
    """Scores a model on its run's evaluation sets, on named ones, or on a suite."""
    from slap_jax.config import ConfigError
    from slap_jax.evaluation.evaluate import load_tasks, parse_data_argument
    from slap_jax.evaluation.suites import load_suite, suite_sets

    if options.suite and options.data:
        raise ArgumentError("--suite and --data name sets in two ways: give one of them")
    if options.suite and options.data_dir is None:
        raise ArgumentError("--suite wants --data-dir DIR, which holds a folder for each prepared data set")
    rows = suite_sets(options.suite) if options.suite else []
    scorer = _Scorer(options)
    missing: dict[str, str] = {}
    if options.suite:
        tasks, missing = load_suite(rows, options.data_dir, scorer.vocabulary, scorer.max_tokens)
        tasks, cannot = scorer.able(tasks)
        missing |= cannot
    else:
        data = scorer.model.config.data
        sources = dict(map(parse_data_argument, options.data)) if options.data else data.get("evaluation", {})
        if not sources:
            raise ConfigError("nothing to evaluate on: name a set with --data NAME=PATH:SPLIT[:LABEL]")
        kinds = tuple(options.measure.split(",")) if options.measure else ()
        settings = {"kinds": kinds, "multi_label": options.multi_label}
        tasks = load_tasks(sources, scorer.vocabulary, scorer.max_tokens, options.template, **settings)
    if not tasks:
        reasons = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise ConfigError(f"no set of suite {options.suite!r} can be evaluated:\n{reasons}")
    return scorer.score(tasks, missing, f"evaluation_{options.suite}.json" if options.suite else "evaluation.json")


def probe(options: argparse.Namespace) -> int:
    """Trains simple classifiers on a model's frozen features of one's own labelled data."""
    from slap_jax.data.evaluation_set import load_evaluation
    from slap_jax.evaluation.evaluate import parse_data_argument
    from slap_jax.evaluation.task import make_task, parts_of_split

    if bool(options.folds) == bool(options.test):
        raise ArgumentError("give --folds LABEL[:N] to test every part in turn, or --test SPLIT: one of the two")
    name, settings = parse_data_argument(options.data)
    if not settings.label:
        raise ArgumentError(f"--data {options.data!r} names no label to predict; write NAME=PATH:SPLIT:LABEL")
    key, _, count = (options.folds or "").partition(":")
    if count and not count.isdigit():
        raise ArgumentError(f"--folds {options.folds!r} is not LABEL or LABEL:NUMBER")
    scorer = _Scorer(options)
    task = make_task(
        name,
        load_evaluation(settings.path, settings.split),
        scorer.vocabulary,
        scorer.max_tokens,
        split=settings.split,
        label=settings.label,
        kinds=("probe",),
        multi_label=options.multi_label,
        parts=parts_of_split(settings.path, settings.split) if options.test else (),
        folds=(key, int(count or 0)) if options.folds else None,
        test_part=options.test or "",
    )
    return scorer.score([task], {}, "probe.json")


def table(options: argparse.Namespace) -> None:
    """Sets results beside published figures, and says why those may not compare."""
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


class _Scorer:
    """A model, read once, with what the verbs do with it."""

    def __init__(self, options: argparse.Namespace):
        from slap_jax.data.tokenizer import load_tokenizer
        from slap_jax.export.run import read_model

        self.options = options
        self.model = read_model(options.model, options.step)
        self.vocabulary = load_tokenizer(self.model.tokenizer_path)
        self.max_tokens: int = self.model.config.data.max_caption_tokens
        self.decoder: Any = self.model.params.get("objectives", {}).get("captioning", {}).get("decoder")

    def able(self, tasks: list[Any]) -> tuple[list[Any], dict[str, str]]:
        """Leaves out tasks that this model or this installation cannot do; says why."""
        from slap_jax.evaluation.captioning import CaptioningError, require_scorers
        from slap_jax.evaluation.probe import ProbeError, require_classifier

        reasons: dict[str, str] = {}
        try:
            require_scorers()
        except CaptioningError as error:
            reasons["captioning"] = str(error)
        if self.decoder is None:
            reasons["captioning"] = "the model has no caption decoder: it was trained without the captioning objective"
        try:
            require_classifier()
        except ProbeError as error:
            reasons["probe"] = str(error)
        left = [task for task in tasks if not set(task.kinds) & set(reasons)]
        return left, {f"{task.name}, {kind}": reasons[kind] for task in tasks for kind in task.kinds if kind in reasons}

    def score(self, tasks: list[Any], missing: dict[str, str], file_name: str) -> int:
        """Evaluates, prints, writes; returns the exit code, 1 where a set was missing."""
        import jax

        from slap_jax.evaluation.evaluate import evaluate, write_results
        from slap_jax.evaluation.text_table import table
        from slap_jax.inference.embedder import Embedder

        model, options = self.model, self.options
        embedder, params = Embedder(model.config), jax.device_put(model.params["model"])
        captions = self._captions(embedder, params) if self.decoder is not None else None
        progress = _progress if sys.stderr.isatty() else None
        results = evaluate(embedder, params, tasks, seed=options.seed, captions=captions, progress=progress)
        if missing:
            results["missing"] = missing
        results["model"] = self._about()
        print(table(results))
        is_run = (Path(options.model) / "checkpoints").is_dir()
        output = options.output or (Path(options.model) / file_name if is_run else None)
        if output:
            write_results(results, output)
            print(f"wrote {output}")
        return 1 if missing else 0

    def _captions(self, embedder: Any, params: Any) -> Any:
        import jax

        from slap_jax.evaluation.captioning import Captions
        from slap_jax.inference.captioner import Captioner

        beam = getattr(self.options, "beam", 1)
        captioner = Captioner(embedder, self.max_tokens, **({"beam": beam} if beam > 1 else {}))
        decoder, size = jax.device_put(self.decoder), self.vocabulary.vocab_size

        def write(waveforms: Any) -> list[str]:
            # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
            written = captioner(params, decoder, waveforms)
            return [self.vocabulary.decode([token for token in tokens if token < size]) for tokens in written]

        extra = tuple(name for name in (getattr(self.options, "scores", "") or "").split(",") if name)
        return Captions(write, {"beam": beam}, extra)

    def _about(self) -> dict[str, Any]:
        """The model, for the record."""
        from slap_jax.export.safetensors import exported_params
        from slap_jax.inference.model_id import model_id

        model = self.model
        train = model.config.data.get("train")
        about = {
            "path": str(self.options.model),
            "step": model.step,
            "model_id": model_id(model.config, exported_params(model.params), str(model.tokenizer_path)),
            # An export does not tell what it was trained on.
            "trained_on": None if train is None else sorted({Path(part.path).name for part in train.values()}),
        }
        if getattr(self.options, "setting", None):
            about["setting"] = self.options.setting
        return about


def _progress(name: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{name}: {done} of {total} clips", end=end, file=sys.stderr, flush=True)


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""

    def add_model(add: Any) -> None:
        add("model", metavar="DIR", help="run directory or export")
        add("--output", metavar="FILE", help="JSON results (in a run directory, evaluation.json or the suite's)")
        add("--step", type=int, help="of a run's checkpoint (the newest)")
        add("--seed", type=int, default=0, help="of the bootstrap (0)")
        add("--multi-label", action="store_true", help="clips may have several values of LABEL: mAP, not accuracy")

    add = verb(evaluate).add_argument
    add_model(add)
    add("--data", action="append", metavar="NAME=PATH:SPLIT[:LABEL]", help="instead of the run's sets; repeatable")
    add("--suite", metavar="SUITE", help="paper, retrieval, zero_shot, captioning, probe, frames or all")
    add("--data-dir", type=Path, metavar="DIR", help="of a suite: holds a folder for each prepared data set")
    add("--measure", metavar="KINDS", help="of --data: retrieval, zero_shot, captioning, frames, joined by commas")
    add("--template", default="ensemble", help="of --data: name of the prompts, or a prompt with {} (ensemble)")
    add("--beam", type=int, default=1, metavar="N", help="of captioning: hypotheses kept (1)")
    add("--scores", default="", metavar="NAMES", help="of captioning: also spice, fense, joined by a comma")
    add("--setting", choices=("zero-shot", "in training", "fine-tuned"), help="what the model knew of the sets")

    add = verb(probe).add_argument
    add_model(add)
    add("--data", required=True, metavar="NAME=PATH:SPLIT:LABEL", help="prepared clips and what to predict of them")
    add("--folds", metavar="LABEL[:N]", help="label of the folds; or one, such as a speaker, to make N folds of")
    add("--test", metavar="SPLIT", help="the split of SPLIT to test on; the others are learnt from")

    add = verb(table).add_argument
    add("results", nargs="+", metavar="RESULTS.json", help="that `slap evaluate` or `slap probe` wrote")
    add("--markdown", type=Path, metavar="FILE", help="write Markdown there, instead of printing it")
    add("--html", type=Path, metavar="FILE", help="write a page there")
