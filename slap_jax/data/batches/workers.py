"""Rows from worker processes: each worker drives whole virtual shards, so the number of workers changes no batch.

A worker writes finished rows into memory that it shares with the host process and sends the state of its shards; the
host copies the rows once, into its batch. A worker stays at most `_AHEAD` batches ahead and exits when the host exits.

Importing this module is most of the start of a worker, so it loads neither the trainer nor the writers of data.
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
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.rows import ShardRows, open_sources, planned_rows
from slap_jax.data.packing import empty_rows
from slap_jax.data.processes import block_signals, hide_main_module
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.errors import UserError

_AHEAD = 2
_ALIGNMENT = 64
_STOP_SECONDS = 5.0


class DataWorkerError(UserError, RuntimeError):
    """A worker process failed; the message holds its traceback."""


class WorkerRows:
    """The rows of some shards, produced by several processes; has the interface of `ShardRows`."""

    def __init__(self, config: ConfigDict, fractions: Sequence[float], shards: Sequence[int], workers: int):
        """Starts no process before the first `next()`.

        Args:
            config: the whole config.
            fractions: fraction of each source in the stream.
            shards: indices of the virtual shards.
            workers: number of processes; at most one per shard is started.
        """
        self._config, self._fractions = config, list(fractions)
        self._parts = [part.tolist() for part in np.array_split(np.asarray(shards), min(workers, len(shards)))]
        self._rows_per_shard = config.data.rows // config.data.virtual_shards
        self._states: dict[str, dict[str, Any]] | None = None
        self._workers: list[_Worker] = []

    def __next__(self) -> PackedBatch:
        """Returns the next rows of all shards, in NumPy."""
        if not self._workers:
            self._workers = [_Worker(_Job(self._config, self._fractions, part, self._states)) for part in self._parts]
        batch = _empty_rows(self._config, self._rows_per_shard * sum(map(len, self._parts)))
        states: dict[str, dict[str, Any]] = {}
        row = 0
        for worker, part in zip(self._workers, self._parts, strict=True):
            states |= worker.copy_into(batch, row)
            row += self._rows_per_shard * len(part)
        self._states = states
        return batch

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard -> state after the rows returned."""
        if self._states is None:
            shards = [shard for part in self._parts for shard in part]
            tokenizer = load_tokenizer(self._config.data.tokenizer)
            rows = planned_rows(self._config, tokenizer, open_sources(self._config), self._fractions, shards)
            self._states = rows.get_state()
            rows.close()
        return self._states

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Resumes after the rows that `states` describes."""
        self.close()
        self._states = {str(shard): states[str(shard)] for part in self._parts for shard in part}

    def close(self) -> None:
        """Stops the processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []


@dataclasses.dataclass(frozen=True)
class _Job:
    """The task of a worker; picklable."""

    config: ConfigDict
    fractions: list[float]
    shards: list[int]
    states: dict[str, dict[str, Any]] | None


class _Worker:
    """The host's side of a worker: the process, the shared memory, and the pipe.

    The memory holds `_AHEAD` buffers, each of one batch of the worker's rows. The host sends the index of a buffer that
    the worker may fill; the worker answers with the index and the states of its shards, or with an exception.
    """

    def __init__(self, job: _Job):
        context = multiprocessing.get_context("spawn")  # a fork would copy JAX's locks in any state
        self._memory = _reserve(_AHEAD * _buffer_bytes(job))
        self._buffers = [_buffer(job, self._memory, index) for index in range(_AHEAD)]
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, job, self._memory.name), name="slap data worker", daemon=True
        )
        # Ctrl-C and a scheduler's SIGTERM reach every process of the job; only the host decides when to stop.
        with block_signals(signal.SIGINT, signal.SIGTERM), hide_main_module():
            self._process.start()
        theirs.close()
        for index in range(_AHEAD):
            self._connection.send(index)

    def copy_into(self, batch: PackedBatch, row: int) -> dict[str, dict[str, Any]]:
        """Copies the worker's next rows into the batch from `row` on; returns the states of its shards after them."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_STOP_SECONDS)
            raise DataWorkerError(
                f"a data worker ended with exit code {self._process.exitcode} and without a message; -9 usually means "
                "that the machine ran out of memory: write fewer config.data.workers or packing_bins"
            ) from None
        if isinstance(message, BaseException):
            raise message
        index, states = message
        for field in dataclasses.fields(batch):
            source: np.ndarray = getattr(self._buffers[index], field.name)
            getattr(batch, field.name)[row : row + len(source)] = source
        with contextlib.suppress(BrokenPipeError):  # the next call reports that the worker is gone
            self._connection.send(index)
        return states

    def close(self) -> None:
        """Stops the process by closing the pipe."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._buffers = []
        self._memory.close()
        self._memory.unlink()


def _work(connection: multiprocessing.connection.Connection, job: _Job, memory_name: str) -> None:
    """Runs in the worker: waits for a buffer, fills it, reports it."""
    config = job.config
    try:
        memory = multiprocessing.shared_memory.SharedMemory(memory_name)
        rows = ShardRows(
            config,
            load_tokenizer(config.data.tokenizer),
            open_sources(config),
            job.fractions,
            job.shards,
            Augmenter(config.data.augment),
        )
        if job.states is not None:
            rows.set_state(job.states)
        while True:
            index = connection.recv()
            buffer = _buffer(job, memory, index)
            batch = next(rows)
            for field in dataclasses.fields(batch):
                getattr(buffer, field.name)[...] = getattr(batch, field.name)
            del buffer
            connection.send((index, rows.get_state()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the host has closed the pipe, or is gone
    except Exception as error:
        connection.send(error if isinstance(error, UserError) else DataWorkerError(traceback.format_exc()))
    finally:
        os._exit(0)  # threads that read ahead have nothing to save


def _reserve(size: int) -> multiprocessing.shared_memory.SharedMemory:
    """Creates shared memory and allocates it at once: writing beyond a container's limit would kill the process."""
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
        raise DataWorkerError(
            f"cannot allocate {size / 2**20:.0f} MiB of shared memory for a data worker ({error.strerror}); give the "
            "container more (docker run --shm-size=...), or write config.data.workers=0"
        ) from error
    return memory


def _buffer(job: _Job, memory: multiprocessing.shared_memory.SharedMemory, index: int) -> PackedBatch:
    """Returns the arrays of a batch whose data are one of the buffers in shared memory."""
    offset, arrays = index * _buffer_bytes(job), {}
    for name, array in _shapes(job).items():
        arrays[name] = np.ndarray(array.shape, array.dtype, memory.buf, offset)
        offset += _aligned(array.nbytes)
    return LabelledBatch(**arrays) if classes_in_batch(job.config) else PackedBatch(**arrays)


def _buffer_bytes(job: _Job) -> int:
    return sum(_aligned(array.nbytes) for array in _shapes(job).values())


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _shapes(job: _Job) -> dict[str, np.ndarray]:
    """Returns arrays with the shapes and types of the worker's batch that share the memory of a single row."""
    rows = job.config.data.rows // job.config.data.virtual_shards * len(job.shards)
    one = _empty_rows(job.config, 1)
    arrays = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return {name: np.broadcast_to(array, (rows, *array.shape[1:])) for name, array in arrays.items()}


def _empty_rows(config: ConfigDict, rows: int) -> PackedBatch:
    data = config.data
    sizes = (rows, data.columns, data.slots, data.text_tokens, samples_per_column(config.audio))
    return empty_rows(*sizes, classes=classes_in_batch(config))
