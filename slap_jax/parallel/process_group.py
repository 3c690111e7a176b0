"""A process joins the others of its run and leaves them, with an explanation when one of them is lost.

JAX's coordinator ends the remaining processes when one sends no heartbeat for `config.distributed.heartbeat_timeout`
seconds. This module explains such an end, and keeps a failed process from making the others wait.
"""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from slap_jax.errors import UserError
from slap_jax.parallel import distributed
from slap_jax.parallel.crash_message import CrashMessage
from slap_jax.parallel.distributed import ProcessLostError, try_barrier

EXIT_LOST = 84  # another process was lost; launch scripts restart the run when they see it
_SECONDS_TO_FAIL_TOGETHER = 5.0  # an error that all processes have reaches all of them at about the same time


@contextlib.contextmanager
def process_group(settings: ConfigDict, run_dir: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connects the process to its run for the body of the `with`; a run of one process needs nothing.

    If the body fails in this process only, the process exits at once, so that the others notice. Otherwise it would
    wait for them while they wait for it.

    Args:
        settings: `config.distributed`.
        run_dir: named in messages, with its newest checkpoint.
        environment: None for `os.environ`.

    Raises:
        ConfigError: see `distributed.launch_kind`.
    """
    environment = os.environ if environment is None else environment
    if distributed.launch_kind(environment) == "single":
        distributed.initialize(settings, environment)
        yield
        return
    message = CrashMessage()
    try:
        message.set(
            aborted=not_found(distributed.others(environment), settings), killed=killed("the others arrived", run_dir)
        )
        distributed.initialize(settings, environment)
        message.set(aborted=lost(settings, run_dir), killed=killed("the run ended", run_dir))
        yield
    except BaseException as error:
        if jax.process_count() == 1 or try_barrier("all failed", _SECONDS_TO_FAIL_TOGETHER):
            raise
        code = report_failure(error, settings, run_dir)
        message.close()
        # `os._exit` is the only way to end without waiting for the other processes; it flushes nothing.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        message.close()


def report_failure(error: BaseException, settings: ConfigDict, run_dir: Path) -> int:
    """Prints why this process leaves the run, and returns its exit code."""
    if isinstance(error, jax.errors.JaxRuntimeError | ProcessLostError):
        traceback.print_exception(error)
        print(f"\nslap: {lost(settings, run_dir)}", file=sys.stderr)
        return EXIT_LOST
    is_for_users = isinstance(error, (UserError, OSError))
    if not is_for_users:
        traceback.print_exception(error)
    print(
        f"\nslap: {_this_process()} leaves the run because of an error that the others do not have: "
        f"{type(error).__name__}: {error}\n"
        f"The others end within {settings.heartbeat_timeout} s. {how_to_resume(run_dir)}",
        file=sys.stderr,
    )
    return 2 if is_for_users else 1


def not_found(others: str, settings: ConfigDict) -> str:
    """Returns the message of a process that timed out at the start."""
    return (
        f"on host {socket.gethostname()}: timed out waiting for {others}: not all arrived within "
        f"{settings.initialization_timeout} s (config.distributed.initialization_timeout). Check that every process "
        "was started and is still running (the log of one that is not has the first error), that all have the same "
        "coordinator and number of processes and a different number from 0, and that this host can reach the "
        "coordinator's address and port"
    )


def lost(settings: ConfigDict, run_dir: Path) -> str:
    """Returns the message of a process that ends because another one was lost."""
    return (
        f"{_this_process()} ends: another process of the run was lost. It failed, was killed, sent no heartbeat "
        f"for {settings.heartbeat_timeout} s (config.distributed.heartbeat_timeout), or lost its network; see the log "
        f"of that process. {how_to_resume(run_dir)}"
    )


def killed(before: str, run_dir: Path) -> str:
    """Returns the message for a process that ended without printing one."""
    return (
        f"a process on host {socket.gethostname()} was killed before {before}: by kill -9, by the kernel for lack of "
        f"memory (see dmesg), or by a crash (see above). {how_to_resume(run_dir)}"
    )


def how_to_resume(run_dir: Path) -> str:
    """Returns the sentence that says how to resume the run."""
    return f"The same command on all hosts resumes from the newest checkpoint in {run_dir / 'checkpoints'}"


def _this_process() -> str:
    return f"process {jax.process_index()} of {jax.process_count()} (host {socket.gethostname()})"
