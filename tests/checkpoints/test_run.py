"""Checkpoints: bit-exact on any mesh, untouched by later steps, complete or absent, and readable errors."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from slap_jax.checkpoints import run as checkpoints
from slap_jax.checkpoints.run import CheckpointError, Checkpoints, merge_data_states, restore_params
from slap_jax.parallel.sharding import create_mesh, shardings, with_shardings

pytestmark = pytest.mark.compile

META = {"config": {"seed": 0, "model": {"layers": (1, 2)}, "objectives": {"init_scale": None}}}
DATA = {"num_shards": 2, "fingerprint": {"train": "abc"}, "states": {"0": {"next": 5}, "1": {"next": 7}}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A state with the structure of the training state: nested dicts, optax's named tuples, counters."""

    step: Any
    params: Any
    teacher: Any
    optimizer: Any
    bad_steps: Any


def _create(width: int = 16) -> State:
    def values(number: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), number), shape)

    params = {
        "model": {
            "mlp": {"up": {"kernel": values(0, 3, 8, width)}, "down": {"kernel": values(1, 3, width, 8)}},
            "embedding": {"table": values(2, 10, 8)},
            "norm": {"scale": values(3, 5)},
        },
        "objectives": {"contrastive": {"log_scale": values(4)}},
    }
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    counter = jnp.zeros((), jnp.int32)
    teacher = {"model": {"norm": jax.tree.map(jnp.copy, params["model"]["norm"])}}
    return State(counter + 7, params, teacher, transform.init(params), counter)


def _mesh(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    sizes = ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor})
    return create_mesh(sizes, jax.devices()[: data * fsdp * tensor])


def _placed(mesh: jax.sharding.Mesh) -> State:
    return jax.jit(_create, out_shardings=shardings(jax.eval_shape(_create), mesh))()


def _abstract(mesh: jax.sharding.Mesh) -> State:
    return with_shardings(jax.eval_shape(_create), mesh)


def _assert_same_bits(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, State]:
    """A checkpoint of step 7, written on a mesh of 8 x 1 x 1."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    state = _placed(_mesh(8, 1, 1))
    with Checkpoints(directory, every=5) as writer:
        assert writer.latest() is None
        assert writer.save(7, state, DATA, META, force=True)
    return directory, state


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 1)])
def test_restores_bit_for_bit_onto_another_mesh(saved, sizes):
    directory, state = saved
    mesh = _mesh(*sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Checkpoints(directory) as reader:
            assert reader.latest() == 7
            restored, data_state, meta = reader.restore(_abstract(mesh))
    _assert_same_bits(restored, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == shardings(restored, mesh)
    assert data_state == DATA
    assert meta["config"] == {"seed": 0, "model": {"layers": [1, 2]}, "objectives": {"init_scale": None}}
    assert meta["step"] == 7
    assert meta["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert {"jax", "orbax-checkpoint", "python"} <= set(meta["versions"])


def test_a_chain_of_meshes_changes_nothing(saved, tmp_path):
    directory, state = saved
    current = state
    for step, sizes in enumerate([(2, 2, 2), (1, 1, 1), (1, 4, 2)], start=8):
        with Checkpoints(directory) as reader:
            current, data_state, _ = reader.restore(_abstract(_mesh(*sizes)))
        directory = tmp_path / str(step)
        with Checkpoints(directory) as writer:
            writer.save(step, current, data_state, META, force=True)
    _assert_same_bits(current, state)


def test_parameters_alone_as_numpy(saved):
    directory, state = saved
    for place in (directory, directory.parent):  # the checkpoints, or the run that holds them
        params, meta = restore_params(place)
        _assert_same_bits(params, jax.tree.map(np.asarray, state.params))
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
        assert meta["step"] == 7


@pytest.mark.process
def test_parameters_alone_on_a_machine_with_one_device(saved):
    directory, state = saved
    program = f"""
        import jax, numpy as np
        from slap_jax.checkpoints.run import restore_params
        params, _ = restore_params({str(directory)!r})
        assert jax.device_count() == 1
        print(params["model"]["mlp"]["up"]["kernel"].tobytes().hex()[:64])
    """
    environment = {**os.environ, "XLA_FLAGS": ""}
    output = _python(program, environment).stdout.strip()
    assert output == np.asarray(state.params["model"]["mlp"]["up"]["kernel"]).tobytes().hex()[:64]


def test_a_donated_step_right_after_the_save_does_not_reach_the_file(tmp_path):
    """The write happens in the background but contains the values at the time of the call."""
    increase = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"params": {f"w{i}": jnp.full((512, 512), float(i)) for i in range(8)}}
    with Checkpoints(tmp_path) as writer:
        writer.save(1, state, {}, {}, force=True)
        for _ in range(20):
            state = increase(state)
        jax.block_until_ready(state)
    params, _ = restore_params(tmp_path)
    for i in range(8):
        assert (params[f"w{i}"] == i).all()


def test_save_works_under_a_transfer_guard(tmp_path):
    state = _placed(_mesh(2, 2, 2))
    with Checkpoints(tmp_path) as writer, jax.transfer_guard("disallow"):
        assert writer.save(1, state, DATA, META, force=True)
    _assert_same_bits(restore_params(tmp_path)[0], jax.tree.map(np.asarray, state.params))


def test_saves_every_n_steps_and_keeps_the_newest(tmp_path):
    state = {"params": {"w": jnp.ones(3)}}
    with Checkpoints(tmp_path, keep=2, every=5) as writer:
        written = [step for step in range(1, 18) if writer.save(step, state, {}, {})]
        assert written == [5, 10, 15]
        assert writer.save(17, state, {}, {}, force=True)
        assert not writer.save(17, state, {}, {}, force=True)
        assert not writer.should_save(15)
        assert writer.should_save(20)
        writer.wait()
        assert writer.latest() == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["15", "17"]


def test_restores_a_chosen_step(tmp_path):
    with Checkpoints(tmp_path) as writer:
        for step in (1, 2):
            writer.save(step, {"params": {"w": jnp.full(3, float(step))}}, {}, {}, force=True)
    assert restore_params(tmp_path, step=1)[0]["w"].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 in .*available steps: 1, 2"):
        restore_params(tmp_path, step=3)


@pytest.mark.process
def test_a_save_killed_in_the_middle_is_ignored_and_cleaned(tmp_path):
    program = f"""
        import os, signal
        import jax.numpy as jnp
        from slap_jax.checkpoints.run import Checkpoints
        writer = Checkpoints({str(tmp_path)!r})
        writer.save(1, {{"params": {{"w": jnp.ones(4)}}}}, {{}}, {{}}, force=True)
        writer.wait()
        writer.save(2, {{"params": {{"w": jnp.ones((64, 1024, 1024))}}}}, {{}}, {{}}, force=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert _python(program, dict(os.environ), check=False).returncode == -signal.SIGKILL
    leftovers = [path.name for path in tmp_path.iterdir() if path.name != "1"]
    assert leftovers, "the save ended before the kill; write more"
    assert restore_params(tmp_path)[1]["step"] == 1
    with Checkpoints(tmp_path) as reader:
        assert reader.latest() == 1
        reader.save(2, {"params": {"w": jnp.ones(4)}}, {}, {}, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def _python(program: str, environment: dict[str, str], check: bool = True) -> subprocess.CompletedProcess:
    root = str(Path(checkpoints.__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, env=environment, check=check, capture_output=True, text=True, timeout=120)


def test_another_architecture_names_the_first_differences(saved):
    directory, _ = saved
    target = jax.eval_shape(lambda: _create(width=32))
    target = dataclasses.replace(target, params={**target.params, "extra": jax.ShapeDtypeStruct((3,), jnp.bfloat16)})
    with Checkpoints(directory) as reader, pytest.raises(CheckpointError) as caught:
        reader.restore(target)
    message = str(caught.value)
    lines = message.splitlines()
    assert "has another architecture" in lines[0]
    assert "  params/extra: found absent, expected bfloat16[3]" in lines
    assert "  params/model/mlp/down/kernel: found float32[3, 16, 8], expected float32[3, 32, 8]" in lines
    # The same differences in the optimiser come after those of the parameters.
    assert lines[1].startswith("  params/")
    assert lines[-1].startswith("start in another run directory, or set config.model")


def test_many_differences_are_counted_not_listed(saved):
    directory, _ = saved
    target = {"params": {f"w{i:02}": jax.ShapeDtypeStruct((2,), jnp.float32) for i in range(30)}}
    with Checkpoints(directory) as reader, pytest.raises(CheckpointError, match=r"\.\.\. and \d\d more"):
        reader.restore(target)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no complete checkpoint in .*; train first, or correct the path"):
        restore_params(tmp_path / "nowhere")
    with Checkpoints(tmp_path) as reader, pytest.raises(CheckpointError, match="no complete checkpoint"):
        reader.restore({})


def test_a_damaged_checkpoint_says_which_directory_to_delete(saved, tmp_path):
    directory, _ = saved
    copy = tmp_path / "checkpoints"
    shutil.copytree(directory, copy)
    for file in (copy / "7" / "state").rglob("*"):
        if file.is_file() and "d" in file.parent.name:  # the arrays' bytes
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoints/7 cannot be read: .*delete that directory"):
        restore_params(copy)


@pytest.mark.parametrize("moment", ["save", "wait_until_finished"])
def test_a_full_disk_is_an_error_of_this_save_or_the_next(tmp_path, monkeypatch, moment):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    writer = Checkpoints(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"No space left.*check the free space"):
        patch.setattr(writer._manager, moment, fail)
        writer.save(1, {"params": {"w": jnp.ones(3)}}, {}, {}, force=True)
        writer.wait()
    writer.close()


def test_data_states_of_all_processes_are_merged():
    first = {"num_shards": 4, "fingerprint": {"a": 1}, "states": {"0": {"next": 1}, "1": {"next": 2}}}
    second = {"num_shards": 4, "fingerprint": {"a": 1}, "states": {"2": {"next": 3}, "3": {"next": 4}}}
    merged = merge_data_states([first, second])
    assert merged == {**first, "states": {**first["states"], **second["states"]}}
    with pytest.raises(CheckpointError, match="process 1 reads other data than process 0"):
        merge_data_states([first, {**second, "fingerprint": {"a": 2}}])
