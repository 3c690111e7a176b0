"""Runs the shards of a plan: in worker processes on this machine, or as an Apache Beam pipeline on a cluster."""

import concurrent.futures
import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slap_jax.data.preparation.plan import ShardPlan
from slap_jax.data.preparation.shards import ShardError, prepare_shard
from slap_jax.data.processes import block_signals
from slap_jax.errors import UserError

_POLL_SECONDS = 0.2

# Beam's own direct runner would download a program first.
_IN_PROCESS_RUNNER = "FnApiRunner"
_DIRECT_RUNNERS = ("direct", "directrunner")


class WorkerKilledError(UserError, ValueError):
    """A worker process died without an exception."""


class BeamError(UserError, ValueError):
    """Beam is not installed, cannot start the pipeline, or the pipeline failed."""


class _Stopped(Exception):
    """Ends the work on a shard because another process failed or was interrupted."""


def run_local(plans: Sequence[ShardPlan], staging: Path, workers: int) -> None:
    """Makes shards in one process per worker; with fewer shards than workers, each process decodes in several threads.

    Args:
        plans: the shards to make.
        staging: folder of the preparation.
        workers: number of clips to decode concurrently.

    Raises:
        ShardError: a shard could not be written.
        WorkerKilledError: a worker was killed, for example because memory ran out.
    """
    if not plans:
        return
    processes = min(workers, len(plans))
    threads = -(-workers // processes)
    clips = sum(plan.clips for plan in plans)
    with tqdm(total=clips, desc="prepare", unit=" clips", disable=None) as progress:
        if processes == 1:
            for plan in plans:
                prepare_shard(plan, staging, threads, progress.update)
        else:
            _run_processes(plans, staging, processes, threads, progress)


def _run_processes(
    plans: Sequence[ShardPlan], staging: Path, processes: int, threads: int, progress: "tqdm[Any]"
) -> None:
    context = multiprocessing.get_context("spawn")  # safe with threads, and equal on every system
    done, stop = context.Value("q", 0), context.Event()
    with concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, (done, stop)) as pool:
        try:
            with block_signals(signal.SIGINT):  # starts the workers, which leave Ctrl-C to this process
                waiting = {pool.submit(_prepare, plan, staging, threads) for plan in plans}
            while waiting:
                finished, waiting = concurrent.futures.wait(waiting, _POLL_SECONDS, concurrent.futures.FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                progress.update(done.value - progress.n)
        except BrokenProcessPool as error:
            raise WorkerKilledError(
                "a worker process was killed, probably because memory ran out; repeat the command with fewer --workers "
                "(finished shards are kept)"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_done: Any = None
_stop: Event | None = None


def _start_worker(done: Any, stop: Event) -> None:
    """Initialises a worker process, which ends with its parent."""
    global _done, _stop
    _done, _stop = done, stop
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _prepare(plan: ShardPlan, staging: Path, threads: int) -> None:
    def on_clip() -> None:
        assert _stop is not None
        if _stop.is_set():
            raise _Stopped
        with _done.get_lock():
            _done.value += 1

    prepare_shard(plan, staging, threads, on_clip)


def run_beam(plans: Sequence[ShardPlan], staging: Path, flags: Sequence[str]) -> None:
    """Makes shards as elements of a Beam pipeline on Flink, Spark or Dataflow; finished shards survive a failure.

    Args:
        plans: the shards to make.
        staging: folder of the preparation; every worker must see it and the audio files under the same paths.
        flags: flags of the pipeline, including `--runner`. `DirectRunner` runs in this process.

    Raises:
        BeamError: Beam is not installed, cannot start the pipeline, or the pipeline failed.
        ShardError: a shard could not be written.
    """
    try:
        with _quiet():
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
            from apache_beam.runners.runner import PipelineState
    except ImportError as error:
        raise BeamError("--runner needs Apache Beam, which is not installed: pip install 'slap-jax[beam]'") from error
    options = PipelineOptions(list(flags))
    runner = options.view_as(StandardOptions)
    if (runner.runner or "").lower() in _DIRECT_RUNNERS:
        runner.runner = _IN_PROCESS_RUNNER
    try:
        pipeline = beam.Pipeline(options=options)
        shards = pipeline | "plans" >> beam.Create(list(plans)) | "spread" >> beam.Reshuffle()
        _ = shards | "make shards" >> beam.Map(functools.partial(prepare_shard, staging=staging))
        state = pipeline.run().wait_until_finish()
    except ShardError:
        raise
    except (RuntimeError, ValueError, ImportError, AttributeError) as error:
        raise BeamError(f"the Beam pipeline failed: {error}") from error
    if state != PipelineState.DONE:
        raise BeamError(
            f"the Beam pipeline ended as {state}; see the log of the engine, then repeat the command: finished shards "
            "are kept"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Beam's warnings about missing cloud libraries."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
