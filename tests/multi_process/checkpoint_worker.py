"""One of two processes that share a run; started by `test_checkpoints.py` with `initialize`'s environment variables.

python checkpoint_worker.py save DIRECTORY      writes step 3
python checkpoint_worker.py preempt DIRECTORY   resumes from step 3 and trains until a SIGTERM reaches process 1
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slap_jax.checkpoints.run import EXIT_PREEMPTED, Checkpoints
from slap_jax.parallel import distributed
from slap_jax.parallel.sharding import create_mesh, replicated, shardings, with_shardings


def create() -> dict[str, Any]:
    """Returns a state whose kernel differs in every element."""
    kernel = jnp.arange(2 * 8 * 16, dtype=jnp.float32).reshape(2, 8, 16)
    return {"step": jnp.int32(3), "params": {"mlp": {"up": {"kernel": jnp.sin(kernel)}}, "scale": jnp.ones(3)}}


def data_state(process: int, position: int) -> dict[str, Any]:
    """Returns the virtual shards of one process, of four."""
    states = {str(shard): {"next": position + shard} for shard in (2 * process, 2 * process + 1)}
    return {"num_shards": 4, "fingerprint": {"train": "abc"}, "states": states}


def save(directory: Path) -> None:
    """Writes step 3; the step counter is a scalar that each process made for itself."""
    mesh = create_mesh(ConfigDict({"data": 1, "fsdp": -1, "tensor": 2}))
    state = jax.jit(create, out_shardings=shardings(jax.eval_shape(create), mesh))()
    state["step"] = jnp.int32(3)
    with Checkpoints(directory, every=1) as writer:
        assert writer.save(3, state, data_state(jax.process_index(), 10), {"config": {"seed": 1}})


def preempt(directory: Path) -> None:
    """Resumes on another mesh, then stops at the step that both processes agree on."""
    process = jax.process_index()
    mesh = create_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 1}))
    with Checkpoints(directory, every=1_000_000) as writer:
        state, restored_data, _ = writer.restore(with_shardings(jax.eval_shape(create), mesh))
        expected = np.sin(np.arange(2 * 8 * 16, dtype=np.float32)).reshape(2, 8, 16)
        for shard in state["params"]["mlp"]["up"]["kernel"].addressable_shards:
            np.testing.assert_allclose(np.asarray(shard.data), expected[shard.index], rtol=1e-6)
        assert sorted(restored_data["states"]) == ["0", "1", "2", "3"]
        train = jax.jit(
            lambda state: {**state, "step": state["step"] + 1}, donate_argnums=0, out_shardings=shardings(state, mesh)
        )
        state["step"] = jax.device_put(state["step"], replicated(mesh))
        for step in range(4, 2_000):
            state = train(state)
            if process == 1 and step == 10:
                os.kill(os.getpid(), signal.SIGTERM)
            if writer.reached_preemption(step):
                writer.save(step, state, data_state(process, step), {"config": {}}, force=True)
                writer.wait()
                (directory.parent / f"stopped_{process}.json").write_text(json.dumps(step))
                break
            time.sleep(0.02)
        else:
            raise AssertionError("never told to stop")
    sys.exit(EXIT_PREEMPTED)


if __name__ == "__main__":
    distributed.initialize()
    assert jax.process_count() == 2
    gathered = distributed.allgather_json({"process": jax.process_index(), "padding": "x" * 300 * jax.process_index()})
    assert [value["process"] for value in gathered] == [0, 1]
    distributed.barrier("start")
    {"save": save, "preempt": preempt}[sys.argv[1]](Path(sys.argv[2]))
