"""The verbs that prepare and inspect data."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slap_jax.cli.arguments import AddVerb, ArgumentError, non_negative, path, positive
from slap_jax.errors import require_path

if TYPE_CHECKING:
    from slap_jax.data.collections.entries import Collection
    from slap_jax.data.collections.published import PublishedDataset

_SOURCE_HELP = "A manifest, a folder, tars or tables; with --dataset, the folder as it is published."
_COLLECTION_NAMES = ("collection", "manifest")  # that version 0.1 of `slap data check` took as NAME


def prepare(options: argparse.Namespace) -> None:
    """Converts a manifest, a folder, tars, tables or a published dataset to records for training and evaluation.

    Example:
      slap prepare my_folder data/mine --split 80/10/10
    """
    import functools

    from slap_jax.data.preparation.prepare import prepare
    from slap_jax.data.preparation.runners import run_beam

    if options.runner and options.workers:
        raise ArgumentError("--workers applies to this machine only; give the flags of the --runner instead")
    flags = ["--runner", options.runner, *options.rest]
    prepare(
        _open_source(options),
        options.output,
        exclude=options.exclude,
        split=options.split,
        split_seed=options.split_seed,
        drop_duplicates=options.drop_duplicates,
        max_rejected=options.max_rejected,
        replace=options.replace,
        clips_per_shard=options.shard_records,
        workers=options.workers,
        runner=functools.partial(run_beam, flags=flags) if options.runner else None,
    )


def scenes(options: argparse.Namespace) -> None:
    """Writes a dataset of synthetic scenes whose test split has combinations that the train split lacks.

    Example:
      slap scenes runs/scenes --train 200 --test 20
    """
    from slap_jax.data.datasets.synthetic_scenes import prepare_scenes

    if options.train == options.test == 0:
        raise ArgumentError("--train and --test are both 0; ask for at least one scene")
    prepare_scenes(options.output, seed=options.seed, train=options.train, test=options.test)


def tokenizer(options: argparse.Namespace) -> None:
    """Trains a vocabulary on the captions of prepared data or of the training mixture of a config.

    Example:
      slap tokenizer data/mine --vocab-size 2000 --output data/mine/tokenizer.model
    """
    from slap_jax.config.defaults import default_config, source
    from slap_jax.config.files import read_config
    from slap_jax.data.inspect.caption_sample import sample_captions
    from slap_jax.data.records import parse_dir_split
    from slap_jax.data.tokenizer import train_tokenizer

    if bool(options.data) == (options.config is not None):
        raise ArgumentError("give either prepared directories or --config FILE")
    if options.config:
        data = read_config(options.config, options.rest).data
    else:
        data = default_config().data
        data.temperature = 1.0  # all clips have the same weight
        for number, argument in enumerate(options.data):
            directory, split = parse_dir_split(argument)
            data.train[f"data_{number}"] = source(directory, split or "train")
    captions = list(sample_captions(data, options.max_captions, options.seed))
    trained = train_tokenizer(
        captions, options.output, options.vocab_size, options.character_coverage, data.max_caption_tokens
    )
    written = f"vocabulary of {trained.vocab_size} pieces from {len(captions)} captions written"
    print(f"{options.output}: {written}; configs read the size from the file, as configs/corpus_cpu.py does")
    print(f"or set config.data.tokenizer={options.output} and config.model.vocab_size={trained.vocab_size}")


def stats(options: argparse.Namespace) -> None:
    """Measures durations, captions, loudness, log-mel and packing of a split or of the mixture of a config.

    Example:
      slap stats --config configs/demo.py --output runs/demo/stats
    """
    from slap_jax.config.defaults import default_config, source
    from slap_jax.config.files import read_config
    from slap_jax.config.validate import validate
    from slap_jax.data.inspect.figure import save_figure
    from slap_jax.data.inspect.measure import measure_mixture
    from slap_jax.data.inspect.summary import summarise, summary_lines
    from slap_jax.data.tokenizer import load_tokenizer
    from slap_jax.drawing.theme import PRINT, drawing

    if (options.data is None) == (options.config is None):
        raise ArgumentError("give either a prepared directory with its split or --config FILE")
    if options.config:
        config = read_config(options.config, options.rest)
    else:
        config = default_config()
        config.data.train.data = source(options.data, options.split)
        config.data.tokenizer = _tokenizer_near(options.data)
    sizes = ("tokenizer", "columns", "slots", "text_tokens", "max_seconds", "max_caption_tokens", "packing_bins")
    config.data.update({name: getattr(options, name) for name in sizes if getattr(options, name) is not None})
    validate(config)
    if options.output:
        with drawing(PRINT):
            pass  # reports a missing matplotlib before minutes of measuring
    tokenizer = load_tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    statistics = measure_mixture(config, tokenizer, options.clips, options.seed)
    summary = summarise(statistics, config.audio)
    print(json.dumps(summary, indent=2) if options.json else "\n".join(summary_lines(summary)))
    if tokenizer is not None and not options.json:
        print(f"tokens    counted with {tokenizer.path}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "stats.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_figure(statistics, options.output / "stats.png")
        if not options.json:
            print(f"wrote {options.output}/stats.json and stats.png")


def _tokenizer_near(data: str) -> str:
    """Returns the `tokenizer.model` in a prepared directory, or next to it; "" if there is none."""
    files = (os.path.join(folder, "tokenizer.model") for folder in (data, os.path.dirname(os.path.abspath(data))))
    return next((file for file in files if os.path.isfile(file)), "")


def check(options: argparse.Namespace) -> int:
    """Reports what `slap prepare` would do with a source, and what is missing or wrong with it.

    Example:
      slap data check my_folder --split 80/10/10
    """
    from slap_jax.data.inspect.check import check

    _name_before_folder(options)
    return check(
        _open_source(options),
        options.source,
        exclude=options.exclude,
        split=options.split,
        split_seed=options.split_seed,
        max_rejected=options.max_rejected,
        decode=options.decode,
        as_json=options.json,
    )


def _name_before_folder(options: argparse.Namespace) -> None:
    """Accepts the order of version 0.1: `slap data check NAME DIR`; corrects a name without a folder."""
    from slap_jax.data.datasets.registry import DATASETS

    name = options.source
    is_name = name in DATASETS or name in _COLLECTION_NAMES
    if options.folder is None and is_name and not os.path.exists(name):
        dataset = f" --dataset {name}" if name in DATASETS else ""
        raise ArgumentError(f"{name} is a name, not a path; write: slap data check SOURCE{dataset}")
    if options.folder is None:
        return
    if not is_name or options.dataset:
        dataset = f" --dataset {options.dataset}" if options.dataset else ""
        raise ArgumentError(
            f"there are two sources, {name} and {options.folder}; give one: slap data check {name}{dataset}, or for a "
            "published dataset: slap data check FOLDER --dataset NAME"
        )
    options.source = options.folder
    options.dataset = name if name in DATASETS else None


def _open_source(options: argparse.Namespace) -> "Collection | PublishedDataset":
    """Opens the SOURCE of `slap prepare` and `slap data check`."""
    from slap_jax.data.collections.open_collection import open_collection
    from slap_jax.data.datasets.registry import open_dataset

    given = _options(options.option)
    if options.dataset:
        if options.audio_root or options.name:
            raise ArgumentError(
                "--audio-root and --name do not apply to a published dataset; remove them, or --dataset"
            )
        return open_dataset(options.dataset, options.source, **given)
    for option in ("audio_root", "name"):
        if option in given:
            raise ArgumentError(f"--option {option}={given[option]}; write --{option.replace('_', '-')} instead")
    return open_collection(options.source, audio_root=options.audio_root, name=options.name, **given)


def show(options: argparse.Namespace) -> None:
    """Prints and draws packed rows as training sees them, and writes their clips as WAV files.

    Example:
      slap data show --config configs/demo.py --output runs/demo/shown
    """
    from slap_jax.config.files import read_config
    from slap_jax.config.validate import validate
    from slap_jax.data.inspect.show import show
    from slap_jax.data.tokenizer import load_tokenizer

    config = read_config(options.config, options.rest)
    validate(config)
    step, start = options.step or 0, None
    if options.run_dir:
        from slap_jax.checkpoints.run import restore_data_state

        start = restore_data_state(options.run_dir, at_most=options.step)
        step = start[0] if options.step is None else options.step
    show(config, load_tokenizer(config.data.tokenizer), options.output, options.rows, step, start)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    options = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not name or not value:
            raise ArgumentError(
                f"--option {argument} is not NAME=VALUE; docs/datasets.md and docs/collections.md list the options"
            )
        options[name] = value
    return options


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide what `slap prepare` would write."""
    add = parser.add_argument
    add("--dataset", metavar="NAME", help="The published dataset that SOURCE holds; docs/datasets.md lists them.")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Set an option of the dataset or of the kind of collection; repeat it for several.",
    )
    add(
        "--audio-root",
        type=require_path,
        metavar="DIR",
        help="The folder that listed paths are relative to (default: that of the manifest or table).",
    )
    add("--name", default="", help="The `source` of clips that state none (default: the folder and the one above).")
    add(
        "--exclude",
        type=require_path,
        action="append",
        default=[],
        metavar="PATH:SPLIT",
        help="Leave out the clips of these prepared data; repeat it for several.",
    )
    add(
        "--split",
        default="",
        metavar="TRAIN/VAL/TEST",
        help="Divide a collection without splits by these percentages, such as 80/10/10; 90/10 means TRAIN/VAL.",
    )
    add("--split-seed", type=non_negative, default=0, metavar="N", help="The seed of --split (default: 0).")
    add(
        "--max-rejected",
        type=non_negative,
        metavar="N",
        help="Accept up to N rejected clips (default: 1 %% of the clips, but at least 10, at most a quarter).",
    )


def add_verbs(verb: AddVerb, data_verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `data_verb` adds a verb below `slap data`."""
    added = verb(prepare)
    added.usage = (
        "slap prepare SOURCE OUTPUT [--dataset NAME] [--option NAME=VALUE] [options] [--runner RUNNER [flags]]"
    )
    add = added.add_argument
    add("source", type=require_path, metavar="SOURCE", help=_SOURCE_HELP)
    add("output", type=require_path, metavar="OUTPUT", help="The directory to write to.")
    _add_source_options(added)
    add("--replace", action="store_true", help="Replace the records of another source in OUTPUT.")
    add("--drop-duplicates", action="store_true", help="Keep only the first of several clips with the same audio.")
    add("--shard-records", type=positive, default=1_024, metavar="N", help="The most clips in a shard (default: 1024).")
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="The number of clips to decode at the same time (default: one per core).",
    )
    add(
        "--runner",
        help="An Apache Beam runner, followed by its flags: FlinkRunner, SparkRunner, DataflowRunner or DirectRunner.",
    )

    add = verb(scenes).add_argument
    add("output", type=require_path, metavar="OUTPUT", help="The directory to write to.")
    add("--train", type=non_negative, default=2_000, metavar="N", help="The number of training scenes (default: 2000).")
    add(
        "--test",
        type=non_negative,
        default=256,
        metavar="N",
        help="The number of scenes with unseen combinations (default: 256).",
    )
    add("--seed", type=non_negative, default=0, metavar="N", help="The seed of the scenes (default: 0).")

    added = verb(tokenizer)
    added.usage = (
        "slap tokenizer (DIR[:SPLIT] ... | --config FILE.py[:ARG] [--config.NAME.NAME=VALUE ...]) "
        "--vocab-size N --output FILE [options]"
    )
    add = added.add_argument
    add("data", nargs="*", metavar="DIR[:SPLIT]", help="Prepared directories and their splits (default: train).")
    add(
        "--config", type=require_path, metavar="FILE.py[:ARG]", help="A config file, whose training mixture is sampled."
    )
    add("--vocab-size", type=positive, required=True, metavar="N", help="The most pieces in the vocabulary.")
    add("--output", type=require_path, required=True, metavar="FILE", help="The .model file to write.")
    add(
        "--max-captions",
        type=positive,
        default=1_000_000,
        metavar="N",
        help="The most captions to read (default: 1000000).",
    )
    add(
        "--character-coverage",
        type=float,
        default=1.0,
        metavar="X",
        help="The fraction of the characters to cover (default: 1.0).",
    )
    add("--seed", type=non_negative, default=0, metavar="N", help="The seed of the sample of captions (default: 0).")

    added = verb(stats)
    added.usage = "slap stats (DIR [SPLIT] | --config FILE.py[:ARG] [--config.NAME.NAME=VALUE ...]) [options]"
    add = added.add_argument
    add("data", nargs="?", type=require_path, metavar="DIR", help="A prepared directory.")
    add(
        "split", nargs="?", metavar="SPLIT", default="train", help="A split, or several like val+test (default: train)."
    )
    add(
        "--config",
        type=require_path,
        metavar="FILE.py[:ARG]",
        help="A config file, whose training mixture is measured.",
    )
    add(
        "--tokenizer",
        type=require_path,
        metavar="FILE",
        help="The vocabulary to count tokens with (default: the config's, or tokenizer.model in DIR or next to it).",
    )
    add("--columns", type=int, metavar="C", help="The columns of a row (default: the config's, or 512).")
    add("--slots", type=int, metavar="K", help="The clip slots of a row (default: the config's, or 32).")
    add("--text-tokens", type=int, metavar="T", help="The text tokens of a row (default: the config's, or 1024).")
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help="The duration to which longer clips are cropped (default: the config's, or 30).",
    )
    add(
        "--max-caption-tokens",
        type=int,
        metavar="N",
        help="The number of tokens at which captions are truncated (default: the config's, or 128).",
    )
    add(
        "--packing-bins",
        type=int,
        metavar="N",
        help="The rows that are open at the same time (default: the config's, or 16).",
    )
    add(
        "--clips",
        type=positive,
        default=1_000,
        metavar="N",
        help="The number of clips to measure in each source (default: 1000).",
    )
    add("--seed", type=non_negative, default=0, metavar="N", help="The seed of the sample of clips (default: 0).")
    add("--output", type=path, metavar="DIR", help="Write stats.json and stats.png into this folder.")
    add("--json", action="store_true", help="Print JSON.")

    added = data_verb(check)
    added.usage = "slap data check SOURCE [--dataset NAME] [--option NAME=VALUE] [options]"
    add = added.add_argument
    add("source", type=require_path, metavar="SOURCE", help=_SOURCE_HELP)
    add("folder", type=require_path, nargs="?", help=argparse.SUPPRESS)  # of `slap data check NAME DIR`
    _add_source_options(added)
    add("--decode", type=non_negative, default=50, metavar="N", help="The number of clips to decode (default: 50).")
    add("--json", action="store_true", help="Print JSON.")

    added = data_verb(show)
    added.usage = "slap data show --config FILE.py[:ARG] --output DIR [--config.NAME.NAME=VALUE ...] [options]"
    add = added.add_argument
    add("--config", type=require_path, required=True, metavar="FILE.py[:ARG]", help="A config file with its argument.")
    add("--output", required=True, type=path, metavar="DIR", help="The folder for pictures, WAV files and clips.jsonl.")
    add(
        "--rows",
        type=int,
        metavar="N",
        help="Show the first N rows (default: the two rows of the step with most clips).",
    )
    add(
        "--step",
        type=non_negative,
        metavar="S",
        help="The training step of the first row (default: 0, or the step of the checkpoint of --run-dir).",
    )
    add(
        "--run-dir",
        type=require_path,
        metavar="DIR",
        help="Start at the data state of the newest checkpoint of this run, up to the step.",
    )
