"""Makes shards on one machine: in this process if there is one shard, else in several, with a progress bar."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slap_jax.data.held_signals import held_signals
from slap_jax.data.preparation.plan import ShardPlan
from slap_jax.data.preparation.shard import prepare_shard

_SECONDS_BETWEEN_LOOKS = 0.2


class WorkerError(ValueError):
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
            with held_signals(signal.SIGINT):  # submitting starts the workers; they leave Ctrl-C to this process
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
