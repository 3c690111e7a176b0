"""Starting parameters of a new run: those of another run or export, or a pretrained text tower."""

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
    """Reads the parameters of a run's newest checkpoint, or of an export.

    Raises:
        CheckpointError, ExportError: there are no parameters, or they cannot be read.
    """
    if (Path(path) / CONFIG).is_file() and not (Path(path) / "checkpoints").is_dir():
        return load_export(path).params
    params, _ = restore_params(path)
    return params


def check_start(config: ConfigDict, run_dir: Path) -> None:
    """Checks the folder `config.init_text_from`, if the run starts from it, before the step is compiled.

    Raises:
        ModernBertError: the folder does not hold the ModernBERT that the config describes.
    """
    if config.init_text_from and not config.init_from and not has_checkpoint(run_dir):
        check_modernbert(config.init_text_from, config.model)


def start_from(state: TrainState, config: ConfigDict) -> TrainState:
    """Returns the state with the parameters of `config.init_from`, else those of `config.init_text_from`, if any.

    Raises:
        CheckpointError, ExportError, ModernBertError: the parameters do not exist or cannot be read.
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
    """Returns the state with the shared parameters replaced, in the student and in the teacher.

    Args:
        state: a new run's first state.
        params: parameters of the other run; it may lack objectives, and may hold objectives that this run does not
            train.
        origin: the setting that they come from, for messages.

    Raises:
        ConfigError: a shared parameter has another shape, or no parameter is shared.
    """
    given = flatten(params)
    used: set[str] = set()

    def replace(path: Any, own: jax.Array) -> jax.Array:
        name = path_name(path)
        if name not in given:
            return own
        if given[name].shape != own.shape:
            if name.startswith("objectives/classification/"):
                return own  # a head for other classes starts from scratch
            raise ConfigError(
                f"{origin}: {name} has shape {list(given[name].shape)}, but this model expects {list(own.shape)}; set "
                "config.model to the values of that run"
            )
        used.add(name)
        return jax.device_put(given[name].astype(own.dtype), own.sharding)

    replaced = jax.tree_util.tree_map_with_path(replace, state.params)
    if not used:
        raise ConfigError(f"{origin} shares no parameter with this model; it holds {', '.join(params)}")
    total = len(jax.tree.leaves(state.params))
    logging.info("took %d of %d parameter arrays from %s", len(used), total, origin)
    teacher = jax.tree_util.tree_map_with_path(replace, state.teacher)
    return TrainState(state.step, replaced, teacher, state.optimizer, state.bad_steps)
