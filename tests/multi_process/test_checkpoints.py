"""Two real processes connected by Gloo: a shared checkpoint, restored by one and by two, and a shared stop."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from slap_jax.checkpoints import run as checkpoints
from slap_jax.checkpoints.run import EXIT_PREEMPTED, Checkpoints, restore_params

pytestmark = pytest.mark.process

WORKER = Path(__file__).parent / "checkpoint_worker.py"


def _run_two(mode: str, directory: Path) -> list[int]:
    """Starts both processes, two fake devices each, and returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(checkpoints.__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "SLAP_COORDINATOR": f"127.0.0.1:{port}",
        "SLAP_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(directory)],
            env={**environment, "SLAP_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for index, output in enumerate(outputs):
        print(f"process {index}:\n{output}")  # shown when the test fails
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A checkpoint of step 3, written by two processes."""
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    assert _run_two("save", path) == [0, 0]
    return path


def _abstract() -> dict:
    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    kernel = array(np.float32, 2, 8, 16)
    return {
        "step": array(np.int32),
        "params": {"mlp": {"up": {"kernel": kernel}}, "scale": array(np.float32, 3)},
    }


def test_one_process_restores_what_two_wrote(directory):
    with Checkpoints(directory) as reader:
        state, data_state, meta = reader.restore(_abstract(), step=3)
    expected = np.sin(np.arange(2 * 8 * 16, dtype=np.float32)).reshape(2, 8, 16)
    np.testing.assert_allclose(np.asarray(state["params"]["mlp"]["up"]["kernel"]), expected, rtol=1e-6)
    assert int(state["step"]) == 3
    assert data_state == {
        "num_shards": 4,
        "fingerprint": {"train": "abc"},
        "states": {str(shard): {"next": 10 + shard} for shard in range(4)},
    }
    assert meta["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
    np.testing.assert_array_equal(restore_params(directory, step=3)[0]["scale"], np.ones(3, np.float32))


def test_a_sigterm_to_one_stops_both_at_the_same_step(directory):
    assert _run_two("preempt", directory) == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    stopped = [json.loads((directory.parent / f"stopped_{index}.json").read_text()) for index in range(2)]
    assert stopped[0] == stopped[1]
    assert stopped[0] > 10
    with Checkpoints(directory) as reader:
        assert reader.latest() == stopped[0]
        state, data_state, _ = reader.restore(_abstract())
    assert int(state["step"]) == stopped[0]
    assert data_state["states"]["3"] == {"next": stopped[0] + 3}
