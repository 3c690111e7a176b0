"""The verbs of the `slap` command that score models."""

import argparse
from pathlib import Path

from slap_jax.cli_data import AddVerb


def evaluate(options: argparse.Namespace) -> None:
    """Scores a model on its run's evaluation sets or on the named ones."""
    import jax

    from slap_jax.config import ConfigError
    from slap_jax.data.tokenizer import load_tokenizer
    from slap_jax.evaluation.evaluate import evaluate, load_tasks, parse_data_argument, write_results
    from slap_jax.evaluation.text_table import table
    from slap_jax.export.run import read_model
    from slap_jax.inference.embedder import Embedder

    model = read_model(options.model, options.step)
    sources = dict(map(parse_data_argument, options.data)) if options.data else model.config.data.get("evaluation", {})
    if not sources:
        raise ConfigError("nothing to evaluate on: name a set with --data NAME=PATH:SPLIT[:LABEL]")
    vocabulary = load_tokenizer(model.tokenizer_path)
    tasks = load_tasks(sources, vocabulary, model.config.data.max_caption_tokens, options.template)
    params = jax.device_put(model.params["model"])
    results = evaluate(Embedder(model.config), params, tasks, seed=options.seed)
    results["model"] = {"path": str(options.model), "step": model.step}
    print(table(results))
    is_run = (Path(options.model) / "checkpoints").is_dir()
    output = options.output or (Path(options.model) / "evaluation.json" if is_run else None)
    if output:
        write_results(results, output)
        print(f"wrote {output}")


def add_verbs(verb: AddVerb) -> None:
    """Adds the verbs and their arguments; `verb` makes the parser of one from its function."""
    add = verb(evaluate).add_argument
    add("model", metavar="DIR", help="run directory or export")
    add("--data", action="append", metavar="NAME=PATH:SPLIT[:LABEL]", help="instead of the run's sets; repeatable")
    add("--output", metavar="FILE", help="JSON results (evaluation.json of a run directory)")
    add("--template", default="ensemble", help="name of the zero-shot prompts, or a prompt with {} (ensemble)")
    add("--step", type=int, help="of a run's checkpoint (the newest)")
    add("--seed", type=int, default=0, help="of the bootstrap (0)")
