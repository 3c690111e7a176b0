"""Checkpoints of a run: training state, data state and metadata, one atomic directory per step.

`docs/checkpoints.md` describes what a checkpoint holds and how a run resumes from it.
"""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from slap_jax.errors import UserError
from slap_jax.parallel.distributed import allgather_json
from slap_jax.parallel.preemption import StopRequest
from slap_jax.params import flatten, unflatten

EXIT_PREEMPTED = 83  # launch scripts restart a run that exits with it
_PACKAGES = ("slap_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SHOWN_DIFFERENCES = 8


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written, is missing, or does not match this run."""


class Checkpoints:
    """The checkpoints of one run: saves in the background, restores onto any mesh, watches for a request to stop.

    Attributes:
        directory: one sub-directory per step, named by its number.
        every: steps between two checkpoints.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, every: int = 1_000, handle_signals: bool = True):
        """Opens or creates the directory and removes the remains of an interrupted save.

        Args:
            directory: a local or mounted path.
            keep: number of newest checkpoints to keep; older ones are deleted.
            every: steps between two checkpoints.
            handle_signals: make `reached_preemption` report SIGTERM and Ctrl-C; `close` restores the old handlers.
        """
        self.directory = _absolute(directory)
        self.every = every
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )
        self._stop = StopRequest() if handle_signals else None

    def should_save(self, step: int) -> bool:
        """Whether `save` writes a checkpoint of this step."""
        return step % self.every == 0 and step not in self._manager.all_steps()

    def save(
        self, step: int, state: Any, data_state: dict[str, Any], meta: dict[str, Any], force: bool = False
    ) -> bool:
        """Starts writing a checkpoint if one is due. Every process calls it at the same steps.

        It returns once the arrays are copied from the devices, so the caller may donate `state` to the next step.

        Args:
            step: number of finished steps.
            state: pytree of arrays.
            data_state: JSON; where the batches after this step start. Each process passes its own part.
            meta: JSON; at least `config`. Versions, step and mesh are added.
            force: write even if the step is not due. A step that is already on disk is never written again.

        Returns:
            Whether a checkpoint is being written.

        Raises:
            CheckpointError: this save or the previous one failed (disk full, no permission ...), or two processes read
                different data.
        """
        if not (force or self.should_save(step)) or step in self._manager.all_steps():
            return False
        data_state = merge_data_states(allgather_json(data_state))
        meta = {**meta, "step": step, "versions": versions(), "mesh": _mesh_shape(state)}
        try:
            # Copying to the host is the point of this call, so the training loop's transfer guard must not apply.
            with jax.transfer_guard("allow"):
                return self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(jax.tree.map(_savable, unflatten(flatten(state)))),
                        data=ocp.args.JsonSave(data_state),
                        meta=ocp.args.JsonSave(meta),
                    ),
                    force=True,
                )
        except Exception as error:
            raise self._write_error(error) from error

    def delete_from(self, step: int) -> None:
        """Deletes the checkpoints of `step` and later steps. Every process calls it."""
        later = [saved for saved in self._manager.all_steps() if saved >= step]
        if later:
            self.wait()
        for saved in later:
            self._manager.delete(saved)

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Reads a checkpoint onto the mesh of this run. Another mesh and another number of hosts may have written it.

        Args:
            abstract_state: pytree of `jax.ShapeDtypeStruct`s with shardings.
            step: None for the newest.

        Returns:
            `(state, data_state, meta)`; the data state covers all processes.

        Raises:
            CheckpointError: there is no such checkpoint, it is unreadable, or it has another architecture.
        """
        step = _choose_step(self.directory, step)
        target = {path: _abstract(leaf) for path, leaf in flatten(abstract_state).items()}
        _check_same_architecture(_stored_arrays(self.directory, step), target, self.directory / str(step))
        try:
            with jax.transfer_guard("allow"):
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(unflatten(target)),
                        data=ocp.args.JsonRestore(),
                        meta=ocp.args.JsonRestore(),
                    ),
                )
        except Exception as error:
            raise _read_error(self.directory, step, error) from error
        flat = flatten(restored["state"])
        leaves = [flat[path] for path in target]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return state, restored["data"], restored["meta"]

    def reached_preemption(self, step: int) -> bool:
        """Whether to save now and exit with `EXIT_PREEMPTED`. Every process calls it once after every step.

        All processes of a run return True at the same step, even if only one of them received the signal.
        """
        return self._stop is not None and self._stop.reached(step)

    def wait(self) -> None:
        """Blocks until all saves are on disk.

        Raises:
            CheckpointError: the save failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Waits for the last save and restores the signal handlers."""
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._stop is not None:
                self._stop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_error(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"cannot write a checkpoint to {self.directory}: {error}; check the free space and permissions there, then "
            "run the same command again: it resumes from the newest complete checkpoint"
        )


def has_checkpoint(run_dir: str | os.PathLike) -> bool:
    """Whether a run directory holds a complete checkpoint."""
    return bool(_steps(_absolute(run_dir) / "checkpoints"))


def latest_step(run_dir: str | os.PathLike) -> int | None:
    """Returns the step of the newest complete checkpoint of a run, or None."""
    return max(_steps(_absolute(run_dir) / "checkpoints"), default=None)


def check_architecture(run_dir: str | os.PathLike, abstract_state: Any) -> None:
    """Compares the newest checkpoint of a run with a state, without reading its arrays.

    Args:
        run_dir: has a checkpoint.
        abstract_state: as for `Checkpoints.restore`.

    Raises:
        CheckpointError: the checkpoint has another architecture, or is unreadable.
    """
    root = _checkpoints_of(run_dir)
    step = _choose_step(root, None)
    target = {path: _abstract(leaf) for path, leaf in flatten(abstract_state).items()}
    _check_same_architecture(_stored_arrays(root, step), target, root / str(step))


def restore_params(directory: str | os.PathLike, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads only the parameters, as NumPy arrays, on one CPU. Any mesh may have written them.

    Args:
        directory: a run directory or its `checkpoints`.
        step: None for the newest.

    Returns:
        `(params, meta)`. The parameters are nested dicts of arrays; `meta` is that of `Checkpoints.save`, with step and
        versions.

    Raises:
        CheckpointError: there is no such checkpoint, or it is unreadable.
    """
    root = _checkpoints_of(directory)
    step = _choose_step(root, step)
    target = unflatten(
        {path: array for path, array in _stored_arrays(root, step).items() if path.startswith("params/")}
    )
    try:
        restored = ocp.PyTreeCheckpointHandler().restore(
            root / str(step) / "state",
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
                partial_restore=True,
            ),
        )
    except Exception as error:
        raise _read_error(root, step, error) from error
    return restored["params"], restore_meta(root, step)


def restore_meta(directory: str | os.PathLike, step: int | None = None) -> dict[str, Any]:
    """Reads only the `meta` of `Checkpoints.save`; arguments and errors as in `restore_params`."""
    root = _checkpoints_of(directory)
    return _read_json(root, _choose_step(root, step), "meta")


def restore_data_state(directory: str | os.PathLike, at_most: int | None = None) -> tuple[int, dict[str, Any]]:
    """Reads only the data state of a run.

    Args:
        directory: a run directory or its `checkpoints`.
        at_most: take the newest checkpoint up to this step; None for the newest of all.

    Returns:
        `(step, data_state)`; the data state covers all processes.

    Raises:
        CheckpointError: there is no such checkpoint, or it is unreadable.
    """
    root = _checkpoints_of(directory)
    step = _choose_step(root, None)
    if at_most is not None:
        steps = _steps(root)
        step = max((step for step in steps if step <= at_most), default=-1)
        if step < 0:
            raise CheckpointError(
                f"no checkpoint up to step {at_most} in {root}; available steps: {', '.join(map(str, steps))}"
            )
    return step, _read_json(root, step, "data")


def merge_data_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Merges the data states of all processes: `states` maps virtual shard -> state, everything else must be equal.

    Raises:
        CheckpointError: two processes differ, for example because they read different files.
    """
    merged = {key: value for key, value in states[0].items() if key != "states"}
    shards: dict[str, Any] = {}
    for process, state in enumerate(states):
        rest = {key: value for key, value in state.items() if key != "states"}
        if rest != merged:
            raise CheckpointError(
                f"process {process} reads other data than process 0: {rest}, expected {merged}; give every host the "
                "same config and the same prepared files"
            )
        shards.update(state.get("states", {}))
    return {**merged, "states": shards} if "states" in states[0] else merged


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run depends on."""
    result = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
            continue
    return result


def _absolute(directory: str | os.PathLike) -> epath.Path:
    return epath.Path(directory).resolve()


def _checkpoints_of(directory: str | os.PathLike) -> epath.Path:
    """Returns the `checkpoints` of a run directory, or the directory itself."""
    root = _absolute(directory)
    return root / "checkpoints" if (root / "checkpoints").is_dir() else root


def _steps(directory: epath.Path) -> list[int]:
    """Returns the steps with a complete checkpoint, in increasing order."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


def _choose_step(directory: epath.Path, step: int | None) -> int:
    steps = _steps(directory)
    if not steps:
        raise CheckpointError(f"no complete checkpoint in {directory}; train first, or correct the path")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise CheckpointError(
            f"no checkpoint of step {step} in {directory}; available steps: {', '.join(map(str, steps))}"
        )
    return step


def _read_json(root: epath.Path, step: int, item: str) -> dict[str, Any]:
    try:
        return dict(ocp.JsonCheckpointHandler().restore(root / str(step) / item, args=ocp.args.JsonRestore()))
    except Exception as error:
        raise _read_error(root, step, error) from error


def _stored_arrays(directory: epath.Path, step: int) -> dict[str, Any]:
    """Returns path -> metadata (shape, dtype) of every stored array without reading the arrays."""
    try:
        return flatten(ocp.StandardCheckpointHandler().metadata(directory / str(step) / "state").tree)
    except Exception as error:
        raise _read_error(directory, step, error) from error


def _read_error(directory: epath.Path, step: int, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {directory / str(step)} cannot be read: {error}; if it lost files, delete that directory to "
        "resume from the previous checkpoint"
    )


def _check_same_architecture(stored: Mapping[str, Any], target: Mapping[str, Any], path: epath.Path) -> None:
    def describe(array: Any) -> str:
        return "absent" if array is None else f"{np.dtype(array.dtype).name}{list(array.shape)}"

    names = [*target, *(name for name in stored if name not in target)]
    pairs = [(name, describe(stored.get(name)), describe(target.get(name))) for name in names]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if not different:
        return
    # Parameters first: the optimizer and the teacher repeat the same differences.
    different.sort(key=lambda pair: not pair[0].startswith("params/"))
    shown = "\n".join(
        f"  {name}: found {found}, expected {expected}" for name, found, expected in different[:_SHOWN_DIFFERENCES]
    )
    more = len(different) - _SHOWN_DIFFERENCES
    raise CheckpointError(
        f"checkpoint {path} has another architecture:\n{shown}\n"
        + (f"  ... and {more} more\n" if more > 0 else "")
        + "start in another run directory, or set config.model, config.objectives and config.optimizer back to what "
        f"{path / 'meta' / 'metadata'} holds"
    )


def _savable(leaf: Any) -> Any:
    """Converts an array that lives in one process to NumPy, because Orbax rejects such arrays in a multi-process run.

    Only scalars with the same value in every process are stored like that.
    """
    if jax.process_count() > 1 and isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
        return np.asarray(leaf)
    return leaf


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _mesh_shape(state: Any) -> dict[str, int]:
    for leaf in jax.tree.leaves(state):
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
        if mesh is not None:
            return dict(mesh.shape)
    return {}
