"""Checkpoints: training state, data state and meta, one atomic directory per step, written in the background.

What a checkpoint holds and what resumes from it: `docs/checkpoints.md`.
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

EXIT_PREEMPTED = 83  # launch scripts start the run again when they see it
_PACKAGES = ("slap_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SHOWN_DIFFERENCES = 8


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written, found or fitted to this run; the message says what to do."""


class Checkpoints:
    """The checkpoints of one run: saves in the background, restores onto any mesh, notices a request to stop.

    Attributes:
        directory: one sub-directory per step, named by its number.
        every: steps between two checkpoints.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, every: int = 1_000, handle_signals: bool = True):
        """Opens or creates the directory and removes what an interrupted save left there.

        Args:
            directory: local, or anything that Orbax writes to (`gs://...`).
            keep: newest checkpoints that stay; older ones are deleted.
            every: steps between two checkpoints.
            handle_signals: turn SIGTERM and Ctrl-C into `reached_preemption`; `close` restores the old handlers.
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
        """Whether `save` would write a checkpoint of that step."""
        return step % self.every == 0 and step not in self._manager.all_steps()

    def save(
        self, step: int, state: Any, data_state: dict[str, Any], meta: dict[str, Any], force: bool = False
    ) -> bool:
        """Starts to write a checkpoint if one is due; every process calls it at the same steps.

        It returns once the arrays are copied from the devices, so the caller may donate `state` to the next step.

        Args:
            step: finished steps.
            state: pytree of arrays.
            data_state: JSON; where the batches after this step start. Processes hand in theirs, one file holds all.
            meta: JSON; `config` at least. Versions, step and mesh are added.
            force: write although it is not due (a step that is already written stays as it is).

        Returns:
            Whether it writes.

        Raises:
            CheckpointError: this save, or the one before it, failed (disk full, no permission ...), or two processes
                read different data.
        """
        if not (force or self.should_save(step)) or step in self._manager.all_steps():
            return False
        data_state = merge_data_states(allgather_json(data_state))
        meta = {**meta, "step": step, "versions": versions(), "mesh": _mesh_shape(state)}
        try:
            # The copy to the host is the point of the call: a guard on transfers in the loop does not concern it.
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

    def latest(self) -> int | None:
        """The newest complete step, None if there is none."""
        return self._manager.latest_step()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Reads a checkpoint onto the mesh of this run, whatever mesh and however many hosts wrote it.

        Args:
            abstract_state: the structure wanted, of `jax.ShapeDtypeStruct`s with shardings.
            step: None for the newest.

        Returns:
            `(state, data_state, meta)`; the data state is that of all processes together.

        Raises:
            CheckpointError: no such checkpoint, unreadable, or of another architecture.
        """
        step = _choose_step(self.directory, step)
        wanted = {path: _abstract(leaf) for path, leaf in flatten(abstract_state).items()}
        found = _stored_arrays(self.directory, step)
        _check_same_architecture(found, wanted, self.directory / str(step))
        try:
            with jax.transfer_guard("allow"):
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(unflatten(wanted)),
                        data=ocp.args.JsonRestore(),
                        meta=ocp.args.JsonRestore(),
                    ),
                )
        except Exception as error:
            raise _read_error(self.directory, step, error) from error
        flat = flatten(restored["state"])
        leaves = [flat[path] for path in wanted]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return state, restored["data"], restored["meta"]

    def reached_preemption(self, step: int) -> bool:
        """Whether to save now and leave with `EXIT_PREEMPTED`; every process calls it once after every step.

        In a run of several processes all of them answer True at the same step, even if only one was told to stop.
        """
        return self._stop is not None and self._stop.reached(step)

    def wait(self) -> None:
        """Blocks until everything that was saved is on disk.

        Raises:
            CheckpointError: the save failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Waits for the last save and gives the signals back."""
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
            f"cannot write a checkpoint to {self.directory}: {error}; look at free space and permissions there, then "
            "start the same command again: it resumes from the newest complete checkpoint"
        )


def _checkpoints_of(directory: str | os.PathLike) -> epath.Path:
    """Returns the `checkpoints` of a run directory, or the directory itself."""
    root = _absolute(directory)
    return root / "checkpoints" if (root / "checkpoints").is_dir() else root


def restore_params(directory: str | os.PathLike, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads only the parameters, as NumPy arrays, on one CPU, whatever mesh wrote them.

    Args:
        directory: a run directory or its `checkpoints`.
        step: None for the newest.

    Returns:
        `(params, meta)`: nested dict of arrays, and what `Checkpoints.save` was given, with step and versions.

    Raises:
        CheckpointError: no such checkpoint, or unreadable.
    """
    root = _checkpoints_of(directory)
    step = _choose_step(root, step)
    found = _stored_arrays(root, step)
    params = {path: array for path, array in found.items() if path.startswith("params/")}
    wanted = unflatten(params)
    try:
        restored = ocp.PyTreeCheckpointHandler().restore(
            root / str(step) / "state",
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
                partial_restore=True,
            ),
        )
        meta = ocp.JsonCheckpointHandler().restore(root / str(step) / "meta", args=ocp.args.JsonRestore())
    except Exception as error:
        raise _read_error(root, step, error) from error
    return restored["params"], dict(meta)


def restore_data_state(directory: str | os.PathLike, at_most: int | None = None) -> tuple[int, dict[str, Any]]:
    """Reads only where the data of a run stood.

    Args:
        directory: a run directory or its `checkpoints`.
        at_most: the newest checkpoint up to this step; None for the newest of all.

    Returns:
        `(step, data_state)`; the data state is that of all processes together.

    Raises:
        CheckpointError: no such checkpoint, or unreadable.
    """
    root = _checkpoints_of(directory)
    step = _choose_step(root, None)
    if at_most is not None:
        steps = sorted(ocp.utils.checkpoint_steps(root))
        step = max((step for step in steps if step <= at_most), default=-1)
        if step < 0:
            there = ", ".join(map(str, steps))
            raise CheckpointError(f"no checkpoint up to step {at_most} in {root}; there are: {there}")
    try:
        return step, dict(ocp.JsonCheckpointHandler().restore(root / str(step) / "data", args=ocp.args.JsonRestore()))
    except Exception as error:
        raise _read_error(root, step, error) from error


def merge_data_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Joins the data states of all processes: `states` maps virtual shard -> state, everything else must agree.

    Raises:
        CheckpointError: two processes disagree, for example because they read different files.
    """
    merged = {key: value for key, value in states[0].items() if key != "states"}
    shards: dict[str, Any] = {}
    for process, state in enumerate(states):
        rest = {key: value for key, value in state.items() if key != "states"}
        if rest != merged:
            raise CheckpointError(
                f"process {process} reads other data than process 0: {rest} against {merged}; give every host the same "
                "config and the same prepared files"
            )
        shards.update(state.get("states", {}))
    return {**merged, "states": shards} if "states" in states[0] else merged


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return found


def _absolute(directory: str | os.PathLike) -> epath.Path:
    path = epath.Path(directory)
    return path if "://" in os.fspath(directory) else path.resolve()


def _choose_step(directory: epath.Path, step: int | None) -> int:
    steps = sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []
    if not steps:
        raise CheckpointError(f"no complete checkpoint in {directory}; train first, or correct the path")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise CheckpointError(f"no checkpoint of step {step} in {directory}; there are: {', '.join(map(str, steps))}")
    return step


def _stored_arrays(directory: epath.Path, step: int) -> dict[str, Any]:
    """Path -> metadata (shape, dtype) of every stored array, without reading any."""
    try:
        return flatten(ocp.StandardCheckpointHandler().metadata(directory / str(step) / "state").tree)
    except Exception as error:
        raise _read_error(directory, step, error) from error


def _read_error(directory: epath.Path, step: int, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {directory / str(step)} cannot be read: {error}; if files of it are lost, delete that "
        "directory to go on from the checkpoint before it"
    )


def _check_same_architecture(found: Mapping[str, Any], wanted: Mapping[str, Any], path: epath.Path) -> None:
    def describe(array: Any) -> str:
        return "absent" if array is None else f"{np.dtype(array.dtype).name}{list(array.shape)}"

    names = [*wanted, *(name for name in found if name not in wanted)]
    pairs = [(name, describe(found.get(name)), describe(wanted.get(name))) for name in names]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if not different:
        return
    # Parameters first: optimiser and teacher repeat the same differences.
    different.sort(key=lambda pair: not pair[0].startswith("params/"))
    shown = "\n".join(f"  {name}: found {have}, expected {want}" for name, have, want in different[:_SHOWN_DIFFERENCES])
    more = len(different) - _SHOWN_DIFFERENCES
    raise CheckpointError(
        f"checkpoint {path} is of another architecture:\n{shown}\n"
        + (f"  ... and {more} more\n" if more > 0 else "")
        + "start in another run directory, or set config.model, config.objectives and config.optimizer back to what "
        f"{path / 'meta' / 'metadata'} holds"
    )


def _savable(leaf: Any) -> Any:
    """Orbax refuses arrays of one process in a run of several; such scalars are equal everywhere, so NumPy does."""
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
