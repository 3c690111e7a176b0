"""Starts a new run from the parameters of another one: a checkpoint or an export."""

import logging
from pathlib import Path
from typing import Any

import jax

from slap_jax.checkpoints import restore_params
from slap_jax.config import ConfigError
from slap_jax.export.safetensors import CONFIG, load_export
from slap_jax.paths import flatten, path_name
from slap_jax.train_state import TrainState


def read_params(path: str | Path) -> dict[str, Any]:
    """Reads the parameters of a run directory's newest checkpoint, or of an export directory.

    Raises:
        CheckpointError, ExportError: there are none, or they cannot be read.
    """
    if (Path(path) / CONFIG).is_file() and not (Path(path) / "checkpoints").is_dir():
        return load_export(path).params
    params, _ = restore_params(path)
    return params


def replace_params(state: TrainState, params: dict[str, Any], origin: str) -> TrainState:
    """Exchanges the parameters that `params` holds too, in the student and in the teacher; the others stay as they are.

    Args:
        state: a new run's first state.
        params: of the other run; may lack whole objectives, and may hold ones that this run does not train.
        origin: where they come from, for messages.

    Raises:
        ConfigError: a shared parameter has another shape, or none is shared.
    """
    found = flatten(params)
    used: set[str] = set()

    def exchange(path: Any, own: jax.Array) -> jax.Array:
        name = path_name(path)
        if name not in found:
            return own
        if found[name].shape != own.shape:
            raise ConfigError(
                f"config.init_from={origin}: {name} has shape {list(found[name].shape)}, this model's has "
                f"{list(own.shape)}; set config.model as that run had it"
            )
        used.add(name)
        return jax.device_put(found[name].astype(own.dtype), own.sharding)

    exchanged = jax.tree_util.tree_map_with_path(exchange, state.params)
    if not used:
        raise ConfigError(
            f"config.init_from={origin} shares no parameter with this model; it holds {', '.join(params)}"
        )
    total = len(jax.tree.leaves(state.params))
    logging.info("%s: took %d of %d parameter arrays from %s", "init_from", len(used), total, origin)
    teacher = jax.tree_util.tree_map_with_path(exchange, state.teacher)
    return TrainState(state.step, exchanged, teacher, state.optimizer, state.bad_steps)
