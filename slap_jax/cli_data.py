"""The verbs of the `slap` command that look at data; imports are inside, so that `slap --help` is instant."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

AddVerb = Callable[[Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]


def stats(options: argparse.Namespace) -> None:
    """Measures a split, or the mixture of a config: durations, captions, loudness, log-mel, how full rows will be."""
    from slap_jax.config import ConfigError, default_config, source, validate
    from slap_jax.config_file import read_config
    from slap_jax.data.statistics import measure
    from slap_jax.data.statistics_figure import save_figure
    from slap_jax.data.statistics_summary import summarise, summary_lines
    from slap_jax.data.tokenizer import Tokenizer
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
    tokenizer = Tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    statistics = measure(config, tokenizer, options.clips, options.seed)
    summary = summarise(statistics, config.audio)
    print(json.dumps(summary, indent=2) if options.json else "\n".join(summary_lines(summary)))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "stats.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_figure(statistics, options.output / "stats.png")
        if not options.json:
            print(f"wrote {options.output}/stats.json and stats.png")


def show(options: argparse.Namespace) -> None:
    """Prints and draws packed rows as training gets them, and writes their clips as WAV."""
    from slap_jax.config import validate
    from slap_jax.config_file import read_config
    from slap_jax.data.show import show
    from slap_jax.data.tokenizer import Tokenizer

    config = read_config(options.config, options.rest)
    validate(config)
    show(config, Tokenizer(config.data.tokenizer), options.output, options.rows, options.step)


def add_verbs(verb: AddVerb, data_verb: AddVerb) -> None:
    """Adds the verbs and their arguments.

    Args:
        verb: makes the parser of a verb from its function.
        data_verb: likewise, of a verb below `slap data`.
    """
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

    added = data_verb(show)
    added.usage = "slap data show --config FILE.py[:ARG] --output DIR [--config.NAME.NAME=VALUE ...] [options]"
    add = added.add_argument
    add("--config", required=True, metavar="FILE.py[:ARG]", help="config file, with its argument")
    add("--output", required=True, type=Path, metavar="DIR", help="for pictures, WAV files and clips.jsonl")
    add("--rows", type=int, default=2, metavar="N", help="to show (2)")
    add("--step", type=int, default=0, metavar="S", help="of training that the first row belongs to (0)")
