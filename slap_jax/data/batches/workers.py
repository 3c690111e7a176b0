"""Rows made in other processes: each worker drives whole virtual shards, so that their number changes no batch.

A worker writes finished rows into memory that both processes share and sends their state; the host copies them once
into its batch. A worker waits where the host does not take rows, and ends where the host ends.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import multiprocessing.shared_memory
import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.batch import LabelledBatch, PackedBatch
from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.batches.rows import ShardRows, open_sources
from slap_jax.data.packing import empty_rows
from slap_jax.data.processes import held_signals
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.errors import UserError

# Batches of rows that a worker may be ahead of the host.
_AHEAD = 2
_ALIGNMENT = 64
_STOP_SECONDS = 5.0


class WorkerError(UserError, RuntimeError):
    """A worker process that failed; the message holds what it told."""


class WorkerRows:
    """The rows of some shards, made by several processes; otherwise as `ShardRows`."""

    def __init__(self, config: ConfigDict, shares: Sequence[float], shards: Sequence[int], workers: int):
        """Starts no process before the first `next()`.

        Args:
            config: the whole config.
            shares: of each source in the stream.
            shards: numbers of the virtual shards.
            workers: processes; no more are started than there are shards.
        """
        self._config, self._shares = config, list(shares)
        self._parts = [part.tolist() for part in np.array_split(np.asarray(shards), min(workers, len(shards)))]
        self._rows_per_shard = config.data.rows // config.data.virtual_shards
        self._states: dict[str, dict[str, Any]] | None = None
        self._workers: list[_Worker] = []

    def __next__(self) -> PackedBatch:
        """Returns the next rows of all shards, in numpy."""
        if not self._workers:
            self._workers = [_Worker(self._config, self._shares, part, self._states) for part in self._parts]
        data, taken = self._config.data, {}
        total = self._rows_per_shard * sum(map(len, self._parts))
        sizes = (total, data.columns, data.slots, data.text_tokens, samples_per_column(self._config.audio))
        batch = empty_rows(*sizes, classes=classes_in_batch(self._config))
        row = 0
        for worker, part in zip(self._workers, self._parts, strict=True):
            rows = self._rows_per_shard * len(part)
            taken |= worker.take_into(batch, row)
            row += rows
        self._states = taken
        return batch

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard number -> state after the rows given."""
        if self._states is None:
            rows = ShardRows(
                self._config,
                load_tokenizer(self._config.data.tokenizer),
                open_sources(self._config),
                self._shares,
                [shard for part in self._parts for shard in part],
            )
            self._states = rows.get_state()
            rows.close()
        return self._states

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Continues after the rows that `states` has seen."""
        self.close()
        self._states = {str(shard): states[str(shard)] for part in self._parts for shard in part}

    def close(self) -> None:
        """Stops the processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker is told; everything is picklable."""

    config: ConfigDict
    shares: list[float]
    shards: list[int]
    states: dict[str, dict[str, Any]] | None
    memory: str


class _Worker:
    """One process, the memory shared with it, and the pipe between."""

    def __init__(
        self, config: ConfigDict, shares: list[float], shards: list[int], states: dict[str, dict[str, Any]] | None
    ):
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of JAX in any state
        self._memory = _reserve(_AHEAD * _batch_bytes(config, len(shards)))
        self._views = [_view(config, len(shards), self._memory, slot) for slot in range(_AHEAD)]
        self._connection, theirs = context.Pipe()
        job = _Job(config, shares, shards, states, self._memory.name)
        self._process = context.Process(target=_work, args=(theirs, job), name="slap data worker", daemon=True)
        # Ctrl-C and a scheduler's SIGTERM reach every process of the job; only the host decides when to stop.
        with held_signals(signal.SIGINT, signal.SIGTERM):
            self._process.start()
        theirs.close()
        for slot in range(_AHEAD):
            self._connection.send(slot)

    def take_into(self, batch: PackedBatch, row: int) -> dict[str, dict[str, Any]]:
        """Copies the worker's next rows to `row` and on; returns the states of its shards after them."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_STOP_SECONDS)
            raise WorkerError(
                f"a data worker ended with exit code {self._process.exitcode} without a word; -9 is most often a "
                "machine out of memory: write fewer config.data.workers or packing_bins"
            ) from None
        if isinstance(message, BaseException):
            raise message
        slot, states = message
        for field in dataclasses.fields(batch):
            source: np.ndarray = getattr(self._views[slot], field.name)
            getattr(batch, field.name)[row : row + len(source)] = source
        with contextlib.suppress(BrokenPipeError):  # the next call tells that the worker is gone
            self._connection.send(slot)
        return states

    def close(self) -> None:
        """Ends the process: closing the pipe tells it."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._views = []
        self._memory.close()
        self._memory.unlink()


def _work(connection: multiprocessing.connection.Connection, job: _Job) -> None:
    """The worker's loop: waits for a free part of the memory, fills it, says so."""
    try:
        memory = multiprocessing.shared_memory.SharedMemory(job.memory)
        rows = ShardRows(
            job.config, load_tokenizer(job.config.data.tokenizer), open_sources(job.config), job.shares, job.shards
        )
        if job.states is not None:
            rows.set_state(job.states)
        while True:
            slot = connection.recv()
            view = _view(job.config, len(job.shards), memory, slot)
            batch = next(rows)
            for field in dataclasses.fields(batch):
                getattr(view, field.name)[...] = getattr(batch, field.name)
            del view
            connection.send((slot, rows.get_state()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the host has closed, or is gone
    except Exception as error:
        told = error if isinstance(error, UserError) else WorkerError(traceback.format_exc())
        connection.send(told)
    finally:
        os._exit(0)  # threads that read ahead have nothing left to save


def _reserve(size: int) -> multiprocessing.shared_memory.SharedMemory:
    """Takes shared memory that is really there: beyond a container's limit, writing to it would end the process."""
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=size)
    try:
        if hasattr(os, "posix_fallocate"):
            descriptor = os.open(f"/dev/shm/{memory.name}", os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
    except OSError as error:
        memory.close()
        memory.unlink()
        raise WorkerError(
            f"{size / 2**20:.0f} MiB of shared memory for a data worker are not there ({error.strerror}); give the "
            "container more (docker run --shm-size=...), or write config.data.workers=0"
        ) from error
    return memory


def _fields(config: ConfigDict, shards: int) -> dict[str, np.ndarray]:
    """Returns empty arrays of no memory's worth: only their shapes and types are used."""
    data = config.data
    rows = data.rows // data.virtual_shards * shards
    sizes = (1, data.columns, data.slots, data.text_tokens, samples_per_column(config.audio))
    one = empty_rows(*sizes, classes=classes_in_batch(config))
    return {
        field.name: np.broadcast_to(getattr(one, field.name), (rows, *getattr(one, field.name).shape[1:]))
        for field in dataclasses.fields(one)
    }


def _batch_bytes(config: ConfigDict, shards: int) -> int:
    return sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in _fields(config, shards).values())


def _view(
    config: ConfigDict, shards: int, memory: multiprocessing.shared_memory.SharedMemory, slot: int
) -> PackedBatch:
    """Lays the arrays of a batch over one of the parts of the shared memory."""
    offset, arrays = slot * _batch_bytes(config, shards), {}
    for name, like in _fields(config, shards).items():
        arrays[name] = np.ndarray(like.shape, like.dtype, memory.buf, offset)
        offset += -(-like.nbytes // _ALIGNMENT) * _ALIGNMENT
    return LabelledBatch(**arrays) if classes_in_batch(config) else PackedBatch(**arrays)
