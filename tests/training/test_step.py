"""The step is equal on every mesh and deterministic, skips non-finite gradients, and omits objectives of weight 0."""

import dataclasses
import functools
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slap_jax
from slap_jax.config.defaults import source
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.parallel.distributed import place_batch
from slap_jax.parallel.sharding import AXES, batch_sharding, create_mesh, shardings
from slap_jax.training.optimizer import create_optimizer, learning_rate_schedule
from slap_jax.training.state import TrainState, abstract_learner, create_state
from slap_jax.training.step import batch_counts, make_train_step, step_program, update_teacher
from tests.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.compile


def build(config):
    transform = create_optimizer(config.optimizer, config.train.steps)
    step = make_train_step(config, abstract_learner(config), transform)
    return lambda: create_state(config, transform), step


@dataclasses.dataclass
class OnMesh:
    """One step on a mesh."""

    start: Any  # the state before it, as NumPy, like the state and the metrics after it
    state: Any
    metrics: Any
    compiled: jax.stages.Compiled


def on_mesh(config, batch, sizes, start=None):
    """One step on a mesh of the given sizes, from the state that the mesh makes itself or from `start`."""
    config.parallel.update(dict(zip(AXES, sizes, strict=True)))
    mesh = create_mesh(config.parallel, jax.devices()[: int(np.prod(sizes))])
    init, step = build(config)
    abstract = jax.eval_shape(init)
    layout = shardings(abstract, mesh)
    state = jax.jit(init, out_shardings=layout)() if start is None else jax.device_put(start, layout)
    start = jax.device_get(state)
    batch = jax.device_put(batch, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        state, metrics = compiled(state, batch)
    return OnMesh(start, jax.device_get(state), jax.device_get(metrics), compiled)


@pytest.fixture(scope="module")
def one_device():
    config = tiny_config()
    return on_mesh(config, tiny_batch(config), (1, 1, 1))


@pytest.fixture(scope="module")
def plain():
    """A state, a batch and the step, without a mesh and without donation."""
    config = tiny_config()
    init, step = build(config)
    return jax.jit(init)(), tiny_batch(config), jax.jit(step)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)])
def test_loss_gradient_and_update_do_not_depend_on_the_mesh(one_device, sizes):
    config = tiny_config()
    # Initialising takes half as long to compile as the step; one mesh, which splits every axis, makes its own state.
    start = None if sizes == (2, 2, 2) else one_device.start
    result = on_mesh(config, tiny_batch(config), sizes, start)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), result.start, one_device.start)
    state, metrics = result.state, result.metrics
    expected_state, expected = one_device.state, one_device.metrics
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    # Adam's first moment is the clipped gradient itself, without the sign-like normalisation of the update.
    gradients, expected_gradients = (jax.tree.leaves(s.optimizer[1].mu) for s in (state, expected_state))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_same_state_and_batch_give_the_same_bits(plain):
    state, batch, step = plain
    first, second = step(state, batch), step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_state_is_donated_whole(one_device):
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one_device.start))
    memory = one_device.compiled.memory_analysis()
    assert memory is not None and memory.alias_size_in_bytes >= size


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(plain):
    state, batch, step = plain
    poisoned = jax.tree.map(jnp.copy, state.params)
    poisoned["model"]["audio_projection"]["kernel"] = (
        poisoned["model"]["audio_projection"]["kernel"].at[0, 0].set(jnp.nan)
    )
    bad = TrainState(state.step, poisoned, state.teacher, state.optimizer, state.bad_steps)
    after, metrics = step(bad, batch)
    assert int(after.bad_steps) == 1 and int(after.step) == 1 and not np.isfinite(metrics["loss/total"])
    for part in ("params", "teacher", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(bad, part))
    healed, _ = step(TrainState(after.step, state.params, after.teacher, after.optimizer, after.bad_steps), batch)
    assert int(healed.bad_steps) == 0


def test_the_schedule_follows_the_step_after_a_skipped_one(plain):
    config = tiny_config()
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    state, batch, step = plain
    # Half of the steps were skipped: the optimiser has made no update.
    late = jnp.asarray(config.train.steps // 2, jnp.int32)
    rate = float(np.asarray(schedule(late)))
    assert rate != pytest.approx(float(np.asarray(schedule(0))), rel=0.1)
    after, metrics = step(TrainState(late, state.params, state.teacher, state.optimizer, state.bad_steps), batch)
    assert float(metrics["learning_rate"]) == pytest.approx(rate)
    # Adam's first update moves a parameter without weight decay by the learning rate that is used.
    scale = state.params["model"]["audio_encoder"]["transformer"]["norm"]["scale"]
    moved = after.params["model"]["audio_encoder"]["transformer"]["norm"]["scale"] - scale
    assert float(jnp.max(jnp.abs(moved))) == pytest.approx(rate, rel=1e-3)


def test_teacher_follows_as_numpy_says(plain):
    state, batch, step = plain
    after, _ = step(state, batch)
    momentum = 1 - (1 - 0.994) * (1 + np.cos(0.0)) / 2
    old, new = (s["model"]["audio_encoder"]["patch_embedding"]["kernel"] for s in (state.teacher, after.params))
    moved = after.teacher["model"]["audio_encoder"]["patch_embedding"]["kernel"]
    np.testing.assert_allclose(moved, momentum * np.asarray(old) + (1 - momentum) * np.asarray(new), atol=1e-7)
    assert set(state.teacher) == {"model", "objectives"} and set(state.teacher["model"]) == {"audio_encoder"}


def test_update_teacher_leaves_other_paths_alone():
    teacher = {"a": {"x": jnp.zeros(2)}, "b": {"y": jnp.zeros(2)}}
    params = {"a": {"x": jnp.ones(2)}, "b": {"y": jnp.ones(2)}, "c": jnp.ones(2)}
    moved = update_teacher(teacher, params, {"a/x": lambda progress: jnp.float32(0.75)}, jnp.float32(0.0))
    np.testing.assert_allclose(moved["a"]["x"], 0.25)
    np.testing.assert_allclose(moved["b"]["y"], 0.0)


def dots(traced) -> int:
    """Matrix products in a traced step."""
    return str(traced.jaxpr).count("dot_general[")


def traced_step(config):
    init, step = build(config)
    return jax.jit(step).trace(jax.eval_shape(init), tiny_batch(config))


@pytest.fixture(scope="module")
def dots_of_everything() -> int:
    return dots(traced_step(tiny_config()))


def test_clips_and_seconds_are_counted_by_source():
    config = tiny_config()
    batch = tiny_batch(config)
    assert not any("/" in name for name in batch_counts(batch, config))  # of one source they are the batch's
    config.data.train.more = source("unused", "train")  # sources are numbered in the order of their names
    sources = np.arange(batch.clip_valid.size).reshape(batch.clip_valid.shape) % 3 == 0
    counts = jax.device_get(batch_counts(batch.replace(clip_source=sources.astype(np.int32)), config))
    assert counts["clips/more"] == np.sum(batch.clip_valid & ~sources)
    assert counts["clips/scenes"] == np.sum(batch.clip_valid & sources)
    columns = [
        np.sum(batch.audio_segment_ids[row] == slot + 1) for row, slot in np.argwhere(batch.clip_valid & sources)
    ]
    np.testing.assert_allclose(counts["audio_seconds/scenes"], 0.16 * np.sum(columns), rtol=1e-6)
    total = counts["audio_seconds/scenes"] + counts["audio_seconds/more"]
    np.testing.assert_allclose(total, counts["audio_seconds"], rtol=1e-6)


def test_weight_zero_takes_the_objective_out_of_the_program(dots_of_everything):
    without_caption = dots(traced_step(tiny_config(captioning=0.0)))
    contrastive_only = dots(traced_step(tiny_config(captioning=0.0, distillation=0.0)))
    assert contrastive_only < without_caption < dots_of_everything
    config = tiny_config(captioning=0.0, distillation=0.0)
    state = jax.eval_shape(build(config)[0])
    assert set(state.params["objectives"]) == {"contrastive"} and state.teacher == {}
    config = tiny_config(contrastive=0.0, captioning=0.0)
    init, step = build(config)
    gradients = jax.eval_shape(step, jax.eval_shape(init), tiny_batch(config))[1]
    assert "loss/contrastive" not in gradients and "loss/distillation" in gradients


def test_bfloat16_computes_about_the_same_loss(one_device):
    config = tiny_config()
    config.model.compute_dtype = "bfloat16"
    init, step = build(config)
    state, metrics = jax.jit(step)(one_device.start, tiny_batch(config))  # parameters are float32 for all that
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(init)) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    for name in ("loss/contrastive", "loss/distillation", "loss/captioning"):
        np.testing.assert_allclose(metrics[name], one_device.metrics[name], rtol=0.03, err_msg=name)


def test_sigmoid_form_and_shared_view_train_too(dots_of_everything):
    config = tiny_config()
    config.objectives.contrastive.form = "sigmoid"
    config.objectives.distillation.view = "shared"
    init, step = build(config)
    state, batch = jax.jit(init)(), tiny_batch(config)
    traced = jax.jit(step).trace(state, batch)
    assert dots(traced) < dots_of_everything  # one pass of the audio tower less
    step = traced.lower().compile()
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss/total"]))
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]


def test_one_batch_through_one_step_runs_code_of_few_files(train_data, capsys):
    """Counts the files whose functions run, from the record shards to the updated state. Importing does not count."""
    config = tiny_config(str(train_data))
    tokenizer = load_tokenizer(config.data.tokenizer)
    mesh = create_mesh(config.parallel, jax.devices()[:1])
    package = f"{Path(slap_jax.__file__).parent}/"
    files: set[str] = set()

    def profile(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(package):
            files.add(code.co_filename.removeprefix(package))

    jax.clear_caches()  # a trace that is cached would run nothing
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        batches = TrainBatches(config, tokenizer)
        batch = place_batch(next(batches), mesh)
        program = step_program(config, mesh)
        state = jax.jit(program.init, out_shardings=program.state_shardings)()
        state, metrics = program.traced.lower().compile()(state, batch)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    batches.close()
    assert int(state.step) == 1 and np.isfinite(metrics["loss/total"])
    with capsys.disabled():
        print(f"\none batch through one step runs code of {len(files)} files")
    assert {"data/packing.py", "models/encoders.py", "training/step.py"} <= files
    assert len(files) <= 36, "\n".join(sorted(files))
