"""Makes shards on one machine: in this process if there is one shard, else in several, with a progress bar.

Makes shards as an Apache Beam pipeline, on the engine that its flags name: Flink, Spark, Dataflow.
"""

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

_SECONDS_BETWEEN_LOOKS = 0.2


class WorkerError(UserError, ValueError):
    """A worker process that ended without saying why."""


class _Stopped(Exception):
    """Leaves a shard because another process failed or was interrupted."""


def run_local(plans: Sequence[ShardPlan], staging: Path, workers: int) -> None:
    """Makes shards, as many at a time as there are workers; with fewer shards, each decodes in several threads.

    Args:
        plans: the shards to make.
        staging: folder of the preparation.
        workers: processes and threads together.

    Raises:
        ShardError: a shard could not be written.
        WorkerError: a worker was killed, as systems do that run out of memory.
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
    context = multiprocessing.get_context("spawn")  # safe beside threads, and the same on every system
    done, stop = context.Value("q", 0), context.Event()
    with concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, (done, stop)) as pool:
        try:
            with block_signals(signal.SIGINT):  # submitting starts the workers; they leave Ctrl-C to this process
                waiting = {pool.submit(_prepare, plan, staging, threads) for plan in plans}
            while waiting:
                finished, waiting = concurrent.futures.wait(
                    waiting, _SECONDS_BETWEEN_LOOKS, concurrent.futures.FIRST_EXCEPTION
                )
                for future in finished:
                    future.result()
                progress.update(done.value - progress.n)
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process was killed, probably because the memory is full: try fewer --workers; finished "
                "shards are kept"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_done: Any = None
_stop: Event | None = None


def _start_worker(done: Any, stop: Event) -> None:
    """Prepares a worker process, which ends with its parent."""
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


# What Beam itself means by these would download a program first.
_IN_PROCESS = "FnApiRunner"
_NAMES_OF_IN_PROCESS = ("direct", "directrunner")


class BeamError(UserError, ValueError):
    """Beam is not installed, cannot start the pipeline, or the pipeline failed."""


def run_beam(plans: Sequence[ShardPlan], staging: Path, flags: Sequence[str]) -> None:
    """Makes shards, each an element of the pipeline; those that are finished are kept whatever happens.

    Args:
        plans: the shards to make.
        staging: folder of the preparation, which every worker sees under this name, like the audio files.
        flags: of the pipeline, `--runner` among them. `DirectRunner` runs in this process.

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
    if (runner.runner or "").lower() in _NAMES_OF_IN_PROCESS:
        runner.runner = _IN_PROCESS
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
        raise BeamError(f"the pipeline ended as {state}; the engine's log says why, and finished shards are kept")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam from telling which cloud libraries it has not found."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
