"""A process joins the others of its run, and leaves them: what it says when one of them is lost.

JAX's coordinator ends the processes that are left when one gives no sign of life for
`config.distributed.heartbeat_timeout` seconds. Everything here is about saying so in plain words, and about a failed
process not keeping the others waiting.
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
from slap_jax.parallel.distributed import ProcessLostError, meet

EXIT_LOST = 84  # another process was lost; launch scripts start the run again when they see it
_SECONDS_TO_FAIL_ALIKE = 5.0  # an error that all processes have, they have at about the same time


@contextlib.contextmanager
def process_group(settings: ConfigDict, run_dir: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Makes the process part of its run while the body runs; nothing special where it is the only one.

    An error in the body that other processes do not have ends this one at once, so that they notice; otherwise it would
    wait for them while they wait for it.

    Args:
        settings: `config.distributed`.
        run_dir: named in messages, with its newest checkpoint.
        environment: `os.environ` by default.

    Raises:
        ConfigError: see `distributed.launch_kind`.
    """
    environment = os.environ if environment is None else environment
    if distributed.launch_kind(environment) == "single":
        distributed.initialize(settings, environment)
        yield
        return
    last_words = CrashMessage()
    try:
        last_words.become(not_found(distributed.others(environment), settings), killed("the others had come", run_dir))
        distributed.initialize(settings, environment)
        last_words.become(lost(settings, run_dir), killed("the run was over", run_dir))
        yield
    except BaseException as error:
        if jax.process_count() == 1 or meet("failed alike", _SECONDS_TO_FAIL_ALIKE):
            raise
        # Buffers are written here: there is no other way to end without waiting for the processes that are left.
        code = leave(error, settings, run_dir)
        last_words.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        last_words.close()


def leave(error: BaseException, settings: ConfigDict, run_dir: Path) -> int:
    """Prints why this process leaves the others, and returns its exit code."""
    if isinstance(error, jax.errors.JaxRuntimeError | ProcessLostError):
        traceback.print_exception(error)
        print(f"\nslap: {lost(settings, run_dir)}", file=sys.stderr)
        return EXIT_LOST
    explains_itself = isinstance(error, (UserError, OSError))
    if not explains_itself:
        traceback.print_exception(error)
    print(
        f"\nslap: {_this_process()} leaves the run because of an error that the others do not have: "
        f"{type(error).__name__}: {error}\nThe others end within {settings.heartbeat_timeout} s. {go_on(run_dir)}",
        file=sys.stderr,
    )
    return 2 if explains_itself else 1


def not_found(others: str, settings: ConfigDict) -> str:
    """What a process says that waited in vain at the start."""
    return (
        f"on host {socket.gethostname()}: waited in vain for {others}: not all came within "
        f"{settings.initialization_timeout} s (config.distributed.initialization_timeout). Check that every process "
        "was started and still runs (the first error is in the log of one that does not), that all were given the same "
        "coordinator and number of processes, each a number of its own from 0, and that this host reaches the "
        "coordinator's address and port"
    )


def lost(settings: ConfigDict, run_dir: Path) -> str:
    """What a process says that ends because another one is gone."""
    return (
        f"{_this_process()} ends: another process of the run was lost. It failed, was killed, gave no sign of life "
        f"for {settings.heartbeat_timeout} s (config.distributed.heartbeat_timeout), or its network is down; the "
        f"reason is in its own log. {go_on(run_dir)}"
    )


def killed(before: str, run_dir: Path) -> str:
    """What the companion of a process says that ended without a word of its own."""
    return (
        f"a process on host {socket.gethostname()} was killed before {before}: by kill -9, by the kernel because "
        f"memory ran out (see dmesg), or by a crash (see above). {go_on(run_dir)}"
    )


def go_on(run_dir: Path) -> str:
    """How to go on with the run."""
    return f"The same command on all hosts goes on from the newest checkpoint in {run_dir / 'checkpoints'}"


def _this_process() -> str:
    return f"process {jax.process_index()} of {jax.process_count()} (host {socket.gethostname()})"
