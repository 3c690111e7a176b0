"""Compares the gradients of the objectives in the shared audio tower: their norms, and the angles between them.

    python benchmarks/objective_gradients.py runs/corpus/all --batches 8

Reads the newest checkpoint of a run and its training data, and prints JSON. The norms are those of the weighted terms,
as the training step adds them. A cosine near 0 means that two objectives pull in unrelated directions, a negative one
that they conflict.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import TrainState, abstract_learner, create_state, graph_of
from slap_jax.training.step import StepLoss


def restore(config: ConfigDict, run_dir: Path) -> TrainState:
    transform = create_optimizer(config.optimizer, config.train.steps)
    abstract = jax.eval_shape(lambda: create_state(config, transform))
    with Checkpoints(run_dir / "checkpoints", handle_signals=False) as checkpoints:
        return checkpoints.restore(abstract)[0]


def audio_tower_gradients(config: ConfigDict, state: TrainState) -> Any:
    """Returns a jitted `batch -> {objective: gradient of its weighted loss in the audio tower}`."""
    graph = graph_of(abstract_learner(config))
    names = [name for name, settings in config.objectives.items() if settings.weight > 0]

    def gradients(batch: Any) -> dict[str, Any]:
        def terms(params: Any) -> dict[str, Any]:
            _, metrics = StepLoss(config, graph, state.teacher, state.step)(params, batch)
            return {name: config.objectives[name].weight * metrics[f"loss/{name}"] for name in names}

        return {
            name: jax.grad(lambda params, name=name: terms(params)[name])(state.params)["model"]["audio_encoder"]
            for name in names
        }

    return jax.jit(gradients)


def compare(gradients: dict[str, Any]) -> dict[str, float]:
    flat = {
        name: np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])
        for name, tree in gradients.items()
    }
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in flat.items()}
    result = {f"norm/{name}": norm for name, norm in norms.items()}
    for first, second in itertools.combinations(flat, 2):
        result[f"cosine/{first}/{second}"] = float(flat[first] @ flat[second]) / (norms[first] * norms[second])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--batches", type=int, default=8)
    options = parser.parse_args()
    config = ConfigDict(json.loads((options.run_dir / "config.json").read_text()))
    state = restore(config, options.run_dir)
    compute = audio_tower_gradients(config, state)
    batches = TrainBatches(config, load_tokenizer(config.data.tokenizer))
    results = [compare(compute(next(batches))) for _ in range(options.batches)]
    batches.close()
    mean = {name: round(float(np.mean([result[name] for result in results])), 4) for name in results[0]}
    print(json.dumps({"step": int(state.step), "batches": options.batches, **mean}, indent=2))


if __name__ == "__main__":
    main()
