"""The verbs of the `slap` command that make data and look at them; imports are inside, as `slap --help` is instant."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slap_jax.cli.files import AddVerb, ArgumentError, positive


def prepare(options: argparse.Namespace) -> None:
    """Writes the records of a manifest, a folder, tars, tables or a named data set."""
    import functools

    from slap_jax.data.collections.open_collection import open_collection
    from slap_jax.data.datasets.registry import open_dataset
    from slap_jax.data.preparation.prepare import prepare
    from slap_jax.data.preparation.runners import run_beam

    if options.dataset and (options.audio_root or options.name):
        raise ArgumentError("--audio-root and --name are for collections without a name; leave out these or --dataset")
    if options.runner and options.workers:
        raise ArgumentError("--workers is for this machine; the engine of --runner has flags of its own")
    given = _options(options.option)
    if options.dataset:
        collection = open_dataset(options.dataset, options.source, **given)
    else:
        collection = open_collection(options.source, audio_root=options.audio_root, name=options.name, **given)
    flags = ["--runner", options.runner, *options.rest]
    prepare(
        collection,
        options.output,
        exclude=options.exclude,
        drop_duplicates=options.drop_duplicates,
        max_rejected=options.max_rejected,
        clips_per_shard=options.shard_records,
        workers=options.workers,
        runner=functools.partial(run_beam, flags=flags) if options.runner else None,
    )


def scenes(options: argparse.Namespace) -> None:
    """Writes synthetic scenes: a train split, and a test split of combinations that it never has."""
    from slap_jax.data.datasets.synthetic_scenes import prepare_scenes

    prepare_scenes(options.output, seed=options.seed, train=options.train, test=options.test)


def tokenizer(options: argparse.Namespace) -> None:
    """Trains a vocabulary on the captions of prepared data, or of a config's training mixture."""
    from slap_jax.config.defaults import default_config, source
    from slap_jax.config.files import read_config
    from slap_jax.data.inspect.caption_sample import sample_captions
    from slap_jax.data.tokenizer import train_tokenizer

    if bool(options.data) == (options.config is not None):
        raise ArgumentError("give prepared directories, or --config FILE: one of the two")
    if options.config:
        data = read_config(options.config, options.rest).data
    else:
        data = default_config().data
        data.temperature = 1.0  # every clip counts the same
        for number, argument in enumerate(options.data):
            path, colon, split = argument.rpartition(":")
            data.train[f"data_{number}"] = source(path, split) if colon else source(argument, "train")
    captions = list(sample_captions(data, options.max_captions, options.seed))
    trained = train_tokenizer(captions, options.output, options.vocab_size, options.character_coverage)
    print(f"{options.output}: {trained.vocab_size} pieces from {len(captions)} captions")
    print(f"set config.data.tokenizer={options.output} and config.model.vocab_size={trained.vocab_size}")


def stats(options: argparse.Namespace) -> None:
    """Measures a split, or the mixture of a config: durations, captions, loudness, log-mel, how full rows will be."""
    from slap_jax.config.defaults import default_config, source
    from slap_jax.config.files import read_config
    from slap_jax.config.rules import ConfigError
    from slap_jax.config.validate import validate
    from slap_jax.data.inspect.figure import save_figure
    from slap_jax.data.inspect.measure import measure
    from slap_jax.data.inspect.summary import summarise, summary_lines
    from slap_jax.data.tokenizer import load_tokenizer
    from slap_jax.drawing.theme import PRINT, drawing

    if (options.data is None) == (options.config is None):
        raise ConfigError("give a prepared directory with its split, or --config FILE: one of the two")
    if options.config:
        config = read_config(options.config, options.rest)
    else:
        config = default_config()
        config.data.train.data = source(options.data, options.split)
    sizes = ("tokenizer", "columns", "slots", "text_tokens", "max_seconds", "max_caption_tokens", "packing_bins")
    config.data.update({name: getattr(options, name) for name in sizes if getattr(options, name) is not None})
    validate(config)
    if options.output:
        with drawing(PRINT):
            pass  # a missing matplotlib is an error before minutes of measuring
    tokenizer = load_tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    statistics = measure(config, tokenizer, options.clips, options.seed)
    summary = summarise(statistics, config.audio)
    print(json.dumps(summary, indent=2) if options.json else "\n".join(summary_lines(summary)))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "stats.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_figure(statistics, options.output / "stats.png")
        if not options.json:
            print(f"wrote {options.output}/stats.json and stats.png")


def check(options: argparse.Namespace) -> int:
    """Says what is missing or odd about a collection, before hours are spent on preparing it."""
    from slap_jax.data.inspect.check import check

    return check(
        options.name, options.folder, options=_options(options.option), decode=options.decode, as_json=options.json
    )


def show(options: argparse.Namespace) -> None:
    """Prints and draws packed rows as training gets them, and writes their clips as WAV."""
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
    """Reads ["splits=train+val"]."""
    options = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not name or not value:
            raise ArgumentError(
                f"--option {argument} is not NAME=VALUE; docs/datasets.md and docs/collections.md list the options"
            )
        options[name] = value
    return options


def add_verbs(verb: AddVerb, data_verb: AddVerb) -> None:
    """Adds the verbs and their arguments.

    Args:
        verb: makes the parser of a verb from its function.
        data_verb: likewise, of a verb below `slap data`.
    """
    option: dict[str, Any] = {
        "action": "append",
        "default": [],
        "metavar": "NAME=VALUE",
        "help": "of the named data set, or of the kind of collection; repeatable",
    }
    added = verb(prepare)
    added.usage = (
        "slap prepare SOURCE OUTPUT [--dataset NAME] [--option NAME=VALUE] [options] [--runner RUNNER [flags]]"
    )
    add = added.add_argument
    add("source", metavar="SOURCE", help="manifest, folder, tars or tables, or with --dataset the publisher's folder")
    add("output", metavar="OUTPUT", help="directory to write to")
    add("--dataset", metavar="NAME", help="named data set, as docs/datasets.md lists them")
    add("--option", **option)
    add("--audio-root", metavar="DIR", help="what a manifest's paths are relative to (its folder)")
    add("--name", default="", help="name of the collection (its folder)")
    add("--exclude", action="append", default=[], metavar="PATH:SPLIT", help="leave out clips of prepared data")
    add("--drop-duplicates", action="store_true", help="keep only the first of clips with the same audio")
    add("--max-rejected", type=int, metavar="N", help="bad clips to accept (1 %% of all, at least 10)")
    add("--shard-records", type=positive, default=1_024, metavar="N", help="the most clips of a shard (1024)")
    add("--workers", type=positive, metavar="N", help="clips decoded at a time (one per core)")
    add("--runner", help="of Apache Beam: FlinkRunner, SparkRunner, DataflowRunner, DirectRunner; with its flags")

    add = verb(scenes).add_argument
    add("output", help="directory to write to")
    add("--train", type=int, default=2_000, metavar="N", help="training scenes (2000)")
    add("--test", type=int, default=256, metavar="N", help="scenes of unseen combinations (256)")
    add("--seed", type=int, default=0, help="of the scenes (0)")

    added = verb(tokenizer)
    added.usage = (
        "slap tokenizer (DIR[:SPLIT] ... | --config FILE.py[:ARG] [--config.NAME.NAME=VALUE ...]) "
        "--vocab-size N --output FILE [options]"
    )
    add = added.add_argument
    add(
        "data", nargs="*", metavar="DIR[:SPLIT]", help="prepared directories; of each the train split, or the one named"
    )
    add("--config", metavar="FILE.py[:ARG]", help="the training sources of a config, by their shares of the mixture")
    add("--vocab-size", type=int, required=True, metavar="N", help="the most pieces")
    add("--output", required=True, metavar="FILE", help=".model file to write")
    add("--max-captions", type=positive, default=1_000_000, metavar="N", help="to read at most (1000000)")
    add("--character-coverage", type=float, default=1.0, metavar="SHARE", help="of the characters to keep (1.0)")
    add("--seed", type=int, default=0, help="of the choice of captions (0)")

    added = verb(stats)
    added.usage = "slap stats (DIR [SPLIT] | --config FILE.py[:ARG] [--config.NAME.NAME=VALUE ...]) [options]"
    add = added.add_argument
    add("data", nargs="?", metavar="DIR", help="prepared directory")
    add("split", nargs="?", metavar="SPLIT", default="train", help="name, or several like val+test (train)")
    add("--config", metavar="FILE.py[:ARG]", help="measure every training source of a config, and their mixture")
    add("--tokenizer", metavar="FILE", help="to count tokens with (the config's)")
    add("--columns", type=int, metavar="C", help="of a row (the config's, or 512)")
    add("--slots", type=int, metavar="K", help="of a row (the config's, or 32)")
    add("--text-tokens", type=int, metavar="T", help="of a row (the config's, or 1024)")
    add("--max-seconds", type=float, metavar="S", help="longer clips are cropped (the config's, or 30)")
    add("--max-caption-tokens", type=int, metavar="N", help="longer captions are cut (the config's, or 128)")
    add("--packing-bins", type=int, metavar="N", help="rows open at a time (the config's, or 16)")
    add("--clips", type=int, default=1_000, metavar="N", help="of each source to measure (1000)")
    add("--seed", type=int, default=0, help="of the sample (0)")
    add("--output", type=Path, metavar="DIR", help="write stats.json and stats.png there")
    add("--json", action="store_true", help="print as JSON")

    add = data_verb(check).add_argument
    add("name", metavar="NAME", help="of a data set as docs/datasets.md lists them, or `collection` for anything else")
    add("folder", metavar="DIR", help="the publisher's folder; or a manifest, folder, tars or tables")
    add("--option", **option)
    add("--decode", type=int, default=50, metavar="N", help="clips to decode (50)")
    add("--json", action="store_true", help="print as JSON")

    added = data_verb(show)
    added.usage = "slap data show --config FILE.py[:ARG] --output DIR [--config.NAME.NAME=VALUE ...] [options]"
    add = added.add_argument
    add("--config", required=True, metavar="FILE.py[:ARG]", help="config file, with its argument")
    add("--output", required=True, type=Path, metavar="DIR", help="for pictures, WAV files and clips.jsonl")
    add("--rows", type=int, default=2, metavar="N", help="to show (2)")
    add("--step", type=int, metavar="S", help="of training that the first row belongs to (0, or the run's newest)")
    add("--run-dir", metavar="DIR", help="a run with this config: plan from its newest checkpoint up to the step")
