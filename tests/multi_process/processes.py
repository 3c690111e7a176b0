"""Starts the processes of one run, with a free port for their coordinator."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def started(
    commands: Sequence[Sequence[str]], devices: int = 1, count: int | None = None
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yields one process per command, and kills the remaining ones at the end.

    Args:
        commands: arguments for Python, of process 0 first.
        devices: fake devices of each.
        count: number of processes of the run; by default the number of commands.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = count or len(commands)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "SLAP_TEST_DEVICES": str(devices)}
    if count > 1:
        environment |= {"SLAP_COORDINATOR": f"127.0.0.1:{port}", "SLAP_NUM_PROCESSES": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**environment, "SLAP_PROCESS_ID": str(index)} if count > 1 else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, command in enumerate(commands)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def outputs_of(processes: Sequence[subprocess.Popen[str]], timeout: float = 300) -> list[str]:
    """Waits for all processes and returns the output of each."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    for index, output in enumerate(outputs):
        print(f"process {index} of {len(processes)}:\n{output[-6000:]}")  # shown when the test fails
    return outputs
