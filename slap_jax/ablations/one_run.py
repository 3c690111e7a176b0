"""One run of an ablation: trains, evaluates, and writes one JSON file with the outcome of every query."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.evaluation.evaluate import load_tasks, write_results
from slap_jax.evaluation.retrieval import caption_groups, rank_queries
from slap_jax.export.run import read_model
from slap_jax.inference.embedder import Embedder
from slap_jax.metrics import read_metrics
from slap_jax.train import main as train


class AblationError(ValueError):
    """An ablation that cannot go on; the message says what is in the way."""


def run_settings(config: ConfigDict) -> dict[str, Any]:
    """Every setting of a config but where the data lie, by its full name, as JSON values."""
    values: dict[str, Any] = json.loads(config.to_json_best_effort())
    values["data"]["tokenizer"] = ""
    for group in ("train", "evaluation"):
        for source in values["data"][group].values():
            source["path"] = ""
    return _leaves(values)


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def run(config: ConfigDict, variant: str, run_dir: Path, output: Path) -> int:
    """Trains, or goes on where an earlier call was stopped, then evaluates.

    Args:
        config: of the variant and the seed, with one evaluation set of captioned clips.
        variant: its name, for the record.
        run_dir: of the training.
        output: JSON file to write; it appears whole or not at all.

    Returns:
        The exit code of the training; the file is only written for 0.
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
        `clips` and `captions` (how many), `split_fingerprint`, `owner` of each caption, and for `t2a` and `a2t` the
        1-based `rank` of the best-ranked right candidate and the average precision at 10, `ap10`, of every query; the
        definitions are those of `slap_jax.evaluation.retrieval`.

    Raises:
        AblationError: not one evaluation set, or clips without a caption.
    """
    model = read_model(run_dir)
    tokenizer = load_tokenizer(model.tokenizer_path)
    tasks = load_tasks(config.data.evaluation, tokenizer, config.data.max_caption_tokens)
    if len(tasks) != 1:
        raise AblationError(f"config.data.evaluation has {len(tasks)} sets; an ablation compares on one")
    (task,) = tasks
    owner = np.asarray(task.owner)
    if len(np.unique(owner)) != len(task.clips):
        raise AblationError(f"evaluation set {task.name!r} has clips without captions; leave them out")
    embedder, params = Embedder(config), jax.device_put(model.params["model"])
    audio = embedder.audio(params, [clip.waveform for clip in task.clips])
    text = embedder.text(params, task.encode(task.captions))
    group = caption_groups(task.captions)
    owned = np.zeros((len(audio), int(group.max()) + 1), bool)
    owned[owner, group] = True
    relevant = owned[:, group]  # clip and caption: the clip owns a caption equal to it
    outcomes: dict[str, Any] = {
        "clips": len(audio),
        "captions": len(text),
        "split_fingerprint": task.fingerprint,
        "owner": owner.tolist(),
    }
    for direction, queries, candidates, right in (("t2a", text, audio, relevant.T), ("a2t", audio, text, relevant)):
        rank, precision = rank_queries(queries @ candidates.T, right)
        outcomes[direction] = {"rank": rank.tolist(), "ap10": np.round(precision, 6).tolist()}
    return outcomes
