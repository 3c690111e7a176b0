"""Starts a new run from parameters of another one, or its text tower from a pretrained one."""

import logging
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import CONFIG, load_export
from slap_jax.checkpoints.run import has_checkpoint, restore_params
from slap_jax.config.rules import ConfigError
from slap_jax.models.modernbert import check_modernbert, read_modernbert
from slap_jax.params import flatten, path_name
from slap_jax.training.state import TrainState


def read_params(path: str | Path) -> dict[str, Any]:
    """Reads the parameters of a run directory's newest checkpoint, or of an export directory.

    Raises:
        CheckpointError, ExportError: there are none, or they cannot be read.
    """
    if (Path(path) / CONFIG).is_file() and not (Path(path) / "checkpoints").is_dir():
        return load_export(path).params
    params, _ = restore_params(path)
    return params


def check_start(config: ConfigDict, run_dir: Path) -> None:
    """Looks at the folder of `config.init_text_from`, if the run starts from it, before minutes of compiling.

    Raises:
        ModernBertError: it is not the ModernBERT that the config describes.
    """
    if config.init_text_from and not config.init_from and not has_checkpoint(run_dir):
        check_modernbert(config.init_text_from, config.model)


def start_from(state: TrainState, config: ConfigDict) -> TrainState:
    """Exchanges what `config.init_from` names, else what `config.init_text_from` names, else nothing.

    Raises:
        CheckpointError, ExportError, ModernBertError: there is nothing, or it cannot be read.
        ConfigError: see `replace_params`.
    """
    if config.init_from:
        return replace_params(state, read_params(config.init_from), f"config.init_from={config.init_from}")
    if config.init_text_from:
        tower = read_modernbert(config.init_text_from, config.model)
        origin = f"config.init_text_from={config.init_text_from}"
        return replace_params(state, {"model": {"text_encoder": tower}}, origin)
    return state


def replace_params(state: TrainState, params: dict[str, Any], origin: str) -> TrainState:
    """Exchanges the parameters that `params` holds too, in the student and in the teacher; the others stay as they are.

    Args:
        state: a new run's first state.
        params: of the other run; may lack whole objectives, and may hold ones that this run does not train.
        origin: the setting that names where they come from, for messages.

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
            if name.startswith("objectives/classification/"):
                return own  # of other classes: this head begins anew
            raise ConfigError(
                f"{origin}: {name} has shape {list(found[name].shape)}, this model's has "
                f"{list(own.shape)}; set config.model as that run had it"
            )
        used.add(name)
        return jax.device_put(found[name].astype(own.dtype), own.sharding)

    exchanged = jax.tree_util.tree_map_with_path(exchange, state.params)
    if not used:
        raise ConfigError(f"{origin} shares no parameter with this model; it holds {', '.join(params)}")
    total = len(jax.tree.leaves(state.params))
    logging.info("took %d of %d parameter arrays from %s", len(used), total, origin)
    teacher = jax.tree_util.tree_map_with_path(exchange, state.teacher)
    return TrainState(state.step, exchanged, teacher, state.optimizer, state.bad_steps)
