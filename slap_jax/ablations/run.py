"""Runs an ablation: every variant with every seed, each in its own process. Finished runs are not repeated.

One run trains, evaluates, and writes a JSON file with the outcome of every query.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.ablations.table import AblationError, Outcome, damaged_result, markdown, put_into
from slap_jax.checkpoints.read_model import read_model
from slap_jax.config.files import read_config
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.evaluation.evaluate import write_results
from slap_jax.evaluation.retrieval import caption_groups, rank_queries
from slap_jax.evaluation.task import load_tasks
from slap_jax.inference.embedder import Embedder
from slap_jax.train import main as train
from slap_jax.training.metrics import read_metrics


def run_settings(config: ConfigDict) -> dict[str, Any]:
    """Returns all settings except the paths of the data, by full name, as JSON values."""
    values: dict[str, Any] = json.loads(config.to_json_best_effort())
    values["data"]["tokenizer"] = ""
    for group in ("train", "evaluation"):
        for source in values["data"][group].values():
            source["path"] = ""
    return _leaves(values)


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in values.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def run(config: ConfigDict, variant: str, run_dir: Path, output: Path) -> int:
    """Trains, resuming an interrupted training, and evaluates.

    Args:
        config: Config of the variant and the seed, with one evaluation set of captioned clips.
        variant: Name of the variant.
        run_dir: Run directory of the training.
        output: JSON file to write atomically.

    Returns:
        The exit code of the training. The file is written only if it is 0.
    """
    start = time.perf_counter()
    code = train(config, run_dir)
    if code:
        return code
    seconds = time.perf_counter() - start
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "loss/total" in line]
    result = {
        "variant": variant,
        "seed": config.seed,
        "settings": run_settings(config),
        "steps": config.train.steps,
        "seconds": round(seconds, 1),
        "audio_seconds": float(np.mean([line["audio_seconds"] for line in lines])) * config.train.steps,
        "losses": {name: value for name, value in lines[-1].items() if name.startswith("loss/")},
        **query_outcomes(config, run_dir),
    }
    write_results(result, output)
    return 0


def query_outcomes(config: ConfigDict, run_dir: Path) -> dict[str, Any]:
    """Embeds the evaluation set with the newest checkpoint and ranks it.

    Returns:
        The numbers of `clips` and `captions`, the `split_fingerprint`, the `owner` of each caption, and for `t2a` and
        `a2t` the 1-based `rank` of the best-ranked relevant candidate and the average precision at 10, `ap10`, of each
        query, as defined in `slap_jax.evaluation.retrieval`.

    Raises:
        AblationError: There is not exactly one evaluation set, or a clip has no caption.
    """
    model = read_model(run_dir)
    tokenizer = load_tokenizer(model.tokenizer_path)
    tasks = load_tasks(config.data.evaluation, tokenizer, config.data.max_caption_tokens)
    if len(tasks) != 1:
        raise AblationError(f"config.data.evaluation has {len(tasks)} sets; an ablation compares on one")
    data = tasks[0].data
    owner = np.asarray(data.owner)
    if len(np.unique(owner)) != len(data.clips):
        raise AblationError(f"evaluation set {data.name!r} has clips without captions; leave them out")
    embedder, params = Embedder(config), jax.device_put(model.params["model"])
    audio = embedder.audio(params, [clip.waveform for clip in data.clips])
    text = embedder.text(params, data.encode(data.captions))
    group = caption_groups(data.captions)
    owned = np.zeros((len(audio), int(group.max()) + 1), bool)
    owned[owner, group] = True
    relevant = owned[:, group]  # clip and caption: the clip owns a caption equal to it
    outcomes: dict[str, Any] = {
        "clips": len(audio),
        "captions": len(text),
        "split_fingerprint": data.fingerprint,
        "owner": owner.tolist(),
    }
    for direction, queries, candidates, right in (("t2a", text, audio, relevant.T), ("a2t", audio, text, relevant)):
        rank, precision = rank_queries(queries @ candidates.T, right)
        outcomes[direction] = {"rank": rank.tolist(), "ap10": np.round(precision, 6).tolist()}
    return outcomes


def variant_argument(config: str, variant: str, seed: int) -> str:
    """Returns the --config argument of one run: `FILE.py:data=D` becomes `FILE.py:data=D,variant=V,seed=S`."""
    return f"{config}{',' if ':' in config else ':'}variant={variant},seed={seed}"


def run_all(
    config: str,
    run_dir: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    start: Callable[[Sequence[str]], int] | None = None,
) -> list[Outcome]:
    """Runs the unfinished runs seed by seed, so that the variants of a seed can be compared early.

    Args:
        config: Config file that takes the arguments `variant` and `seed`, with its other arguments.
        run_dir: Directory for `results/VARIANT-seedN.json` and the run directories.
        variants: Names of the variants; the first is the baseline.
        seeds: Seeds of the parameters and of the data order.
        overrides: `--config.a.b=value` for all runs.
        start: Runs a `slap` command and returns its exit code; by default in a new process.

    Returns:
        The outcomes of all runs, including those that were finished before.

    Raises:
        AblationError: A run failed, or a result in the directory has other settings.
        ConfigError: The config file does not take the arguments.
    """
    start = start or _process
    for seed in seeds:
        for variant in variants:
            argument = variant_argument(config, variant, seed)
            settings = run_settings(read_config(argument, overrides))
            output = result_file(run_dir, variant, seed)
            if output.is_file():
                _require_same(output, settings)
                continue
            logging.info("%s, seed %d", variant, seed)
            command = ["ablations", "--config", argument, "--run-dir", str(run_dir)]
            code = start([*command, "--only", f"{variant}:{seed}", *overrides])
            if code:
                raise AblationError(
                    f"the run of {variant} with seed {seed} ended with exit code {code}; its output is above, and the "
                    "same command resumes it"
                )
    return read_outcomes(run_dir, variants, seeds)


def result_file(run_dir: Path, variant: str, seed: int) -> Path:
    """Returns the file of the outcome of a run."""
    return run_dir / "results" / f"{variant}-seed{seed}.json"


def read_outcomes(run_dir: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[Outcome]:
    """Reads the outcomes of the runs that are finished."""
    files = [result_file(run_dir, variant, seed) for variant in variants for seed in seeds]
    return [Outcome.read(file) for file in files if file.is_file()]


def write_table(run_dir: Path, variants: Sequence[str], seeds: Sequence[int], command: str, output: Path) -> None:
    """Writes the table of the finished runs into a Markdown page, keeping the rest of the page.

    Raises:
        AblationError: No run of the baseline is finished, or runs were evaluated on different clips.
    """
    outcomes = read_outcomes(run_dir, variants, seeds)
    put_into(output, markdown(outcomes, variants, seeds, command))


def _require_same(file: Path, settings: dict[str, Any]) -> None:
    """Raises if a finished run had another value of a setting. Settings that did not exist then are ignored."""
    try:
        stored: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_result(file, error) from None
    for name, value in stored.items():
        if settings.get(name, value) != value:
            raise AblationError(
                f"{file} belongs to a run with {name}={value!r}, but now it is {settings[name]!r}; use another "
                "--run-dir, or delete that file and the run directory of the same name"
            )


def _process(arguments: Sequence[str]) -> int:
    """Runs `slap` in a new process, so that each run starts with all memory free."""
    return subprocess.run([sys.executable, "-m", "slap_jax.cli", *arguments], check=False).returncode
