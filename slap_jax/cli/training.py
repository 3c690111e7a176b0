"""The verbs that train, that compile a training step ahead of time, and that use trained classifiers."""

import argparse
import functools
import json
import os
import re
import sys
from typing import Any

from slap_jax.ablations import VARIANTS
from slap_jax.cli.arguments import (
    AddVerb,
    ArgumentError,
    add_device,
    add_files,
    add_model,
    add_table,
    non_negative,
    path,
    positive,
)
from slap_jax.errors import require_path

_RUN_DIR = "The run directory; an existing run is resumed."


def train(options: argparse.Namespace) -> int:
    """Trains a model, or resumes a run.

    A new run needs --config; an existing one has its config, and resumes from --run-dir alone. Settings are changed by
    --config.NAME.NAME=VALUE: docs/configuration.md lists them, and `slap config show` prints those of a config.

    Example:
      slap train --config configs/corpus_cpu.py:data=runs/mine/data --run-dir runs/mine/first
      slap train --run-dir runs/mine/first
      slap train --run-dir runs/mine/first --config.train.steps=2000
    """
    from slap_jax.config.files import read_config, read_run_config

    config = (
        read_config(options.config, options.rest) if options.config else read_run_config(options.run_dir, options.rest)
    )
    from slap_jax.train import main as train_main

    return train_main(config, options.run_dir)


def aot(options: argparse.Namespace) -> int:
    """Compiles the training step for devices that need not be present, and reports its memory and its speed limit.

    Example:
      slap aot --config configs/slap_base.py --topology v5p:2x2x2
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported; the described devices are not a backend
    from slap_jax.aot import find_max_rows, format_report
    from slap_jax.aot import report as aot_report
    from slap_jax.config.files import read_config

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    config = read_config(options.config, options.rest)
    result = aot_report(config, options.topology, log=log)
    if options.find_max:
        result["max_rows"] = find_max_rows(config, options.topology, log)
    print(json.dumps(result, indent=2) if options.json else format_report(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["fits"] is False else 0


def finetune(options: argparse.Namespace) -> int:
    """Fine-tunes a model for retrieval, classification or captioning.

    The same command resumes an interrupted run.

    Example:
      slap finetune --model runs/demo/export --task classification --data data/mine --label kind --run-dir runs/kinds
    """
    from slap_jax.config.files import apply_overrides
    from slap_jax.finetune.config import finetune_config, training_sources, validation_sources

    config = finetune_config(
        options.model,
        options.task,
        training_sources(options.data),
        validation_sources(options.data, options.validation),
        label=options.label,
        multi_label=options.multi_label,
        balance=options.balance,
        max_seconds=options.max_seconds,
        clips_per_step=options.clips,
        epochs=options.epochs,
    )
    config.objectives.classification.mixup_probability = options.mixup
    config.train.patience = options.patience
    if options.learning_rate is not None:
        config.optimizer.learning_rate = options.learning_rate
    if options.layer_decay is not None:
        config.optimizer.layer_decay = options.layer_decay
    frozen = tuple((pattern, 0.0) for pattern in options.freeze)
    config.optimizer.learning_rate_factors = frozen + tuple(config.optimizer.learning_rate_factors)
    apply_overrides(config, options.rest)
    from slap_jax.train import main as train_main

    return train_main(config, options.run_dir)


def predict(options: argparse.Namespace) -> int:
    """Prints the classes of files, as predicted by a classifier from `slap finetune`.

    Example:
      slap predict recordings --model runs/kinds/best
    """
    from slap_jax.cli.files import FileJobs, batch_settings, best_of, check_table, print_each
    from slap_jax.inference.classifier import load_classifier

    check_table(options.output)
    jobs = FileJobs(options)
    classifier = load_classifier(options.model, device=options.device)
    predict_clips = functools.partial(classifier.predict, **batch_settings(options))

    def columns(result: dict[str, float]) -> dict[str, float]:
        return {name: result[name] for name in classifier.classes}

    return print_each(options, jobs, classifier, predict_clips, lambda result: best_of(result, options.top), columns)


def score(options: argparse.Namespace) -> None:
    """Scores a classifier from `slap finetune` on prepared splits.

    Example:
      slap score runs/kinds/best --data test=data/mine:test
    """
    from slap_jax.evaluation.evaluate import write_results
    from slap_jax.evaluation.in_loop import evaluate_classifier, score_table

    results = evaluate_classifier(options.model, options.data, step=options.step, seed=options.seed)
    if options.output:
        write_results(results, options.output)
    print(score_table(results))
    if options.output:
        print(f"wrote {options.output}")


def ablations(options: argparse.Namespace) -> int:
    """Trains variants of a config with several seeds, and writes a table of their retrieval scores.

    Example:
      slap ablations --config configs/ablations/corpus.py --run-dir runs/ablations --seeds 0,1 --output ablations.md
    """
    from slap_jax.ablations import run as driver

    if options.only:
        from slap_jax.ablations.run import run
        from slap_jax.config.files import read_config

        variant, _, text = options.only.partition(":")
        (seed,) = _seeds(text)
        output = driver.result_file(options.run_dir, variant, seed)
        output.parent.mkdir(parents=True, exist_ok=True)
        return run(read_config(options.config, options.rest), variant, options.run_dir / output.stem, output)
    variants, seeds = options.variants.split(","), _seeds(options.seeds)
    if not options.table_only:
        driver.run_all(options.config, options.run_dir, variants, seeds, options.rest)
    if options.output:
        words = ["--config", options.config, "--seeds", options.seeds, "--run-dir DIR --output", options.output]
        command = " ".join(["slap ablations", *map(str, words), *options.rest])
        command = re.sub(r"=/[^,\s]*", "=DIR", command)  # the paths of this machine mean nothing to the reader
        driver.write_table(options.run_dir, variants, seeds, command, options.output)
        print(f"wrote {options.output}")
    return 0


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    added = verb(train)
    added.usage = "slap train [--config FILE.py[:ARG]] --run-dir DIR [--config.NAME.NAME=VALUE ...]"
    add = added.add_argument
    add(
        "--config",
        type=require_path,
        default="",
        metavar="FILE.py[:ARG]",
        help="The config file with its argument (default: the config of the run).",
    )
    add("--run-dir", type=require_path, required=True, metavar="DIR", help=_RUN_DIR)

    added = verb(aot)
    added.usage = "slap aot --config FILE.py[:ARG] --topology T [--json] [--find-max] [--config.NAME.NAME=VALUE ...]"
    add = added.add_argument
    add(
        "--config", type=require_path, required=True, metavar="FILE.py[:ARG]", help="The config file with its argument."
    )
    add(
        "--topology",
        required=True,
        metavar="T",
        help="The devices: v5e:4x4, 2*v5p:4x4x4 (two slices), h100:8, h200:4x8.",
    )
    add("--find-max", action="store_true", help="Also search for the most rows that fit; this compiles several times.")
    add("--json", action="store_true", help="Print as JSON.")
    add("--output", type=path, metavar="FILE", help="Also write the report as JSON.")

    _add_finetune(verb(finetune))

    added = verb(predict)
    add_files(added)
    add_model(added)
    add_device(added, batches=True)
    add = added.add_argument
    add("--top", type=positive, default=3, metavar="N", help="The number of classes to print (default: 3).")
    add_table(add)

    added = verb(score)
    add_model(added, "MODEL")
    add = added.add_argument
    add(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH:SPLIT",
        help="Score on this set instead of those of the run; repeatable.",
    )
    add("--output", type=path, metavar="FILE", help="Also write the results as JSON.")
    add("--step", type=non_negative, metavar="N", help="The checkpoint of a run (default: the newest).")
    add("--seed", type=non_negative, default=0, metavar="N", help="The seed of the bootstrap (default: 0).")

    added = verb(ablations)
    added.usage = (
        "slap ablations --config FILE.py[:ARG] --run-dir DIR [--seeds 0,1,2] [--variants A,B] [--output FILE.md] "
        "[--config.NAME.NAME=VALUE ...]"
    )
    add = added.add_argument
    add(
        "--config",
        type=require_path,
        required=True,
        metavar="FILE.py[:ARG]",
        help="A config file that takes variant=NAME and seed=N after the colon.",
    )
    add(
        "--run-dir",
        required=True,
        type=path,
        metavar="DIR",
        help="The folder of the runs; finished runs are not repeated.",
    )
    add(
        "--seeds",
        default="0,1,2",
        help="Seeds of the parameters and the data order, separated by commas (default: 0,1,2).",
    )
    add(
        "--variants",
        default=",".join(VARIANTS),
        help="Variants to train; the others are compared with the first (default: all).",
    )
    add("--output", type=path, metavar="FILE", help="The Markdown page to write the table into.")
    add("--table-only", action="store_true", help="Only write the table of the finished runs.")
    add("--only", metavar="VARIANT:SEED", help=argparse.SUPPRESS)  # for the processes that the driver starts


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ArgumentError(f"--seeds {text!r} is not a list of integers, like 0,1,2") from None


def _add_finetune(added: argparse.ArgumentParser) -> None:
    added.usage = (
        "slap finetune --model DIR --task TASK --data DIR[:SPLIT] ... --run-dir DIR [options] "
        "[--config.NAME.NAME=VALUE ...]"
    )
    added.set_defaults(config="")  # overrides of the config may follow
    add: Any = added.add_argument
    add_model(added)
    add("--task", required=True, choices=("retrieval", "classification", "captioning"), help="What to train for.")
    add(
        "--data",
        required=True,
        action="append",
        metavar="DIR[:SPLIT]",
        help="Training data (default split: train); repeatable.",
    )
    add(
        "--validation",
        action="append",
        metavar="DIR[:SPLIT]",
        help="Validation data (default: the split val of --data); repeatable.",
    )
    add("--run-dir", type=require_path, required=True, metavar="DIR", help=_RUN_DIR)
    add(
        "--epochs",
        type=non_negative,
        default=0,
        metavar="N",
        help="The approximate number of passes over the data (default by task: 10, 30, 10).",
    )
    add(
        "--clips",
        type=positive,
        default=64,
        metavar="N",
        help="The approximate number of clips in a step (default: 64).",
    )
    add(
        "--max-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="Crop longer clips to this length (default: that of the model, or 30).",
    )
    add("--learning-rate", type=float, metavar="X", help="The peak learning rate (default by task: 3e-5, 3e-4, 1e-4).")
    add(
        "--layer-decay",
        type=float,
        metavar="X",
        help="The learning rate of a layer relative to the layer above it (default by task: 0.9, 0.75, 0.75).",
    )
    add(
        "--freeze",
        action="append",
        default=[],
        metavar="REGEX",
        help="Freeze the parameters whose path in params.txt matches; repeatable.",
    )
    add(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="Stop after N evaluations without improvement (default: 0, never).",
    )
    add(
        "--label",
        default="",
        metavar="KEY",
        help="Classification: the key of the `key=value` labels (default: label, or the only key).",
    )
    add("--multi-label", action="store_true", help="Classification: a clip may have several classes.")
    add(
        "--balance",
        type=float,
        default=0.0,
        metavar="X",
        help="Classification: 0 weights all clips equally, 1 all classes (default: 0).",
    )
    add(
        "--mixup",
        type=float,
        default=0.0,
        metavar="P",
        help="Classification: the probability of mixing a clip with another (default: 0).",
    )
