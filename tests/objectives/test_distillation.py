"""Self-distillation: its head and schedules; Sinkhorn-Knopp and the loss against versions that keep all scores."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.config.defaults import default_config
from slap_jax.objectives.base import random_mask
from slap_jax.objectives.distillation import (
    PrototypeHead,
    SelfDistillation,
    gather_positions,
    masked_positions,
    prototype_cross_entropy,
    sinkhorn_knopp,
)
from slap_jax.parallel.sharding import batch_sharding

pytestmark = pytest.mark.compile


def test_head_gives_unit_vectors_and_frozen_prototypes_get_no_gradient():
    head = PrototypeHead(8, 16, 4, 10, jnp.float32, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (6, 8))
    for lengths in (
        jnp.linalg.norm(head.normalized_tokens(tokens), axis=-1),
        jnp.linalg.norm(head.normalized_prototypes(), axis=0),
    ):
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    for freeze in (True, False):
        gradients = nnx.grad(
            lambda head, freeze=freeze: jnp.sum(
                (head.normalized_tokens(tokens) @ head.normalized_prototypes(freeze)) ** 2
            )
        )(head)
        assert bool(np.any(np.asarray(gradients.prototypes[...]) != 0)) is not freeze
        assert np.any(np.asarray(gradients.input.kernel[...]) != 0)


def test_schedules_run_from_start_to_end():
    config = default_config()
    with config.unlocked():
        config.model.audio_encoder.width = 24
    settings = config.objectives.distillation
    settings.hidden, settings.bottleneck, settings.prototypes = 8, 4, 8
    objective = SelfDistillation(config, rngs=nnx.Rngs(0))
    momentum = [float(objective.teacher_momentum(jnp.float32(p))) for p in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(momentum, [0.994, 0.997, 1.0], atol=1e-6)
    temperature = [float(objective.teacher_temperature(jnp.float32(p))) for p in (0.0, 0.05, 0.1, 1.0)]
    np.testing.assert_allclose(temperature, [0.04, 0.055, 0.07, 0.07], atol=1e-6)


def test_gathers_exactly_the_masked_positions():
    segment_ids = jnp.array([[1] * 8 + [2] * 4 + [3] * 12 + [0] * 8, [1] * 5 + [2] * 20 + [3] * 7])
    mask = random_mask(jax.random.split(jax.random.key(1), 2), segment_ids, 3, 0.5)
    positions, valid = masked_positions(mask, 3, 0.5)
    for row in range(2):
        np.testing.assert_array_equal(np.sort(positions[row][valid[row]]), np.flatnonzero(mask[row]))
    assert positions.shape[1] == 18  # 0.5 * 32 + 0.5 * 3 rounded down, and one


def test_gathered_tokens_pass_their_gradient_back_to_their_positions():
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 3))
    positions = jnp.array([[3, 0, 4], [1, 2, 0]])
    expected, expected_vjp = jax.vjp(lambda x: jnp.take_along_axis(x, positions[..., None], axis=1), tokens)
    result, vjp = jax.vjp(lambda x: gather_positions(x, positions), tokens)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(vjp(result)[0], expected_vjp(expected)[0])


# Sinkhorn-Knopp and the cross-entropy.


def numpy_sinkhorn(scores: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """Equation 5 of the method, tokens as columns, in float64."""
    q = np.exp((scores.astype(np.float64) - scores.max()) / temperature).T
    prototypes, tokens = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def scores_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def assign(scores: np.ndarray, valid: np.ndarray, temperature: float, iterations: int, chunk: int = 0) -> np.ndarray:
    """Returns the assignment [R, M, P] of given scores, using the unit matrix as prototypes."""
    prototypes = jnp.eye(scores.shape[-1])
    potentials, _ = sinkhorn_knopp(jnp.asarray(scores), prototypes, jnp.asarray(valid), temperature, iterations, chunk)
    return softmax(scores / temperature - np.asarray(potentials))


# One chunk (0, or a size beyond the row), chunks of one token, and chunks that do not divide the row.
@pytest.mark.parametrize(("iterations", "chunk"), [(1, 0), (3, 0), (1, 3), (3, 3), (3, 1), (3, 64)])
def test_sinkhorn_equals_numpy(iterations, chunk):
    scores = scores_of((4, 10, 16))
    ours = assign(scores, np.ones((4, 10), bool), 0.05, iterations, chunk)
    expected = numpy_sinkhorn(scores.reshape(40, 16), 0.05, iterations)
    np.testing.assert_allclose(ours.reshape(40, 16), expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [0, 4])
def test_padding_does_not_count(chunk):
    scores = scores_of((3, 10, 16))
    valid = np.arange(30).reshape(3, 10) % 3 != 0
    scores[~valid] = 1e3  # beyond what any token has
    ours = assign(scores, valid, 0.05, 3, chunk)
    np.testing.assert_allclose(ours[valid], numpy_sinkhorn(scores[valid], 0.05, 3), atol=1e-6)


def test_positions_after_the_last_valid_one_are_not_computed():
    scores = scores_of((2, 12, 16))
    valid = np.broadcast_to(np.arange(12) < 5, (2, 12))
    scores[:, 6:] = np.nan  # a product with them would spoil every sum
    ours = assign(scores, valid, 0.05, 3, chunk=3)
    np.testing.assert_allclose(ours[valid], numpy_sinkhorn(scores[valid], 0.05, 3), atol=1e-6)


def test_assignments_are_balanced_over_the_prototypes():
    assignment = assign(scores_of((1, 64, 8)), np.ones((1, 64), bool), 0.05, 10)[0]
    np.testing.assert_allclose(assignment.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(assignment.sum(axis=0), 8.0, rtol=0.05)


@pytest.mark.parametrize("chunk", [0, 2])
def test_no_valid_token_gives_no_nan(chunk):
    potentials, usage = sinkhorn_knopp(
        jnp.asarray(scores_of((1, 5, 8))), jnp.eye(8), jnp.zeros((1, 5), bool), 0.05, 3, chunk
    )
    assert np.all(np.isfinite(potentials))
    np.testing.assert_array_equal(np.stack(usage), 0.0)


def test_usage_of_the_prototypes_is_that_before_balancing():
    scores = scores_of((3, 10, 16))
    valid = np.arange(30).reshape(3, 10) % 4 != 0
    scores[1, 2, 3] = scores[1, 2, 9] = 2.0  # of equal scores the first is chosen
    _, usage = sinkhorn_knopp(jnp.asarray(scores), jnp.eye(16), jnp.asarray(valid), 0.05, 3, 4)
    np.testing.assert_allclose(usage.mean_probability, softmax(scores[valid] / 0.05).mean(axis=0), atol=1e-6)
    chosen = np.bincount(scores[valid].argmax(axis=-1), minlength=16) / valid.sum()
    np.testing.assert_allclose(usage.top_fraction, chosen, atol=1e-7)


@pytest.mark.parametrize(("sizes", "prototypes"), [((8, 1, 1), 16), ((2, 2, 2), 16)])
def test_sinkhorn_is_the_same_on_every_mesh(mesh_of, sizes, prototypes):
    mesh = mesh_of(*sizes)
    generator = np.random.default_rng(1)
    tokens = generator.standard_normal((8, 6, 4)).astype(np.float32)
    tokens[0, 0] = 0.0  # equal scores everywhere
    tokens = jnp.asarray(tokens)
    vectors = jnp.asarray(generator.standard_normal((4, prototypes)), jnp.float32)
    valid = jnp.asarray(generator.uniform(size=(8, 6)) < 0.7)
    expected = sinkhorn_knopp(tokens, vectors, valid, 0.5, 3, 4)
    with jax.set_mesh(mesh):
        placed = jax.device_put((tokens, valid), batch_sharding(mesh))
        ours = jax.jit(lambda tokens, valid: sinkhorn_knopp(tokens, vectors, valid, 0.5, 3, 4))(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, expected)


ROWS, LENGTH, WIDTH, PROTOTYPES = 8, 10, 6, 16


def arrays(rows: int = ROWS, length: int = LENGTH, width: int = WIDTH, prototypes: int = PROTOTYPES) -> dict:
    generator = np.random.default_rng(0)

    def unit(*shape: int, axis: int) -> jnp.ndarray:
        x = generator.standard_normal(shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=axis, keepdims=True), jnp.float32)

    valid = np.arange(length) < generator.integers(length // 3, length - 2, (rows, 1))
    return {
        "student": unit(rows, length, width, axis=-1),
        "prototypes": unit(width, prototypes, axis=0),
        "teacher": unit(rows, length, width, axis=-1),
        "teacher_prototypes": unit(width, prototypes, axis=0),
        "valid": jnp.asarray(valid),
        "weights": jnp.asarray(valid * generator.uniform(0.1, 1, valid.shape), jnp.float32),
    }


def in_chunks(student, prototypes, rest: dict, chunk: int):
    teacher, teacher_prototypes = rest["teacher"], rest["teacher_prototypes"]
    potentials, _ = sinkhorn_knopp(teacher, teacher_prototypes, rest["valid"], 0.05, 3, chunk)
    return prototype_cross_entropy(
        student, prototypes, 0.1, teacher, teacher_prototypes, 0.05, potentials, rest["weights"], chunk
    )


def plain(student, prototypes, rest: dict):
    """The loss with all scores in memory, Sinkhorn-Knopp on the whole matrix, and gradients by JAX."""
    scores = rest["teacher"] @ rest["teacher_prototypes"] / 0.05
    valid = rest["valid"][..., None]
    assignment = jnp.where(valid, jnp.exp(scores - jnp.max(jnp.where(valid, scores, -jnp.inf))), 0.0)
    for _ in range(3):
        assignment /= jnp.sum(assignment, axis=(0, 1)) * assignment.shape[-1]
        assignment /= jnp.maximum(jnp.sum(assignment, axis=-1, keepdims=True), 1e-30) * jnp.sum(valid)
    assignment = jax.lax.stop_gradient(assignment * jnp.sum(valid))
    prediction = jax.nn.log_softmax(student @ prototypes / 0.1)
    return -jnp.sum(rest["weights"] * jnp.sum(assignment * prediction, axis=-1))


def value_and_gradient(loss, of: dict, **options):
    rest = {name: value for name, value in of.items() if name not in ("student", "prototypes")}
    function = functools.partial(loss, **options)
    return jax.jit(jax.value_and_grad(lambda both: function(*both, rest)))((of["student"], of["prototypes"]))


def assert_close(result, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), result, expected)


@pytest.mark.parametrize("chunk", [0, 3])  # 3 does not divide the row
def test_loss_equals_the_plain_one(chunk):
    of = arrays()
    result = value_and_gradient(in_chunks, of, chunk=chunk)
    assert_close(result, value_and_gradient(plain, of))
    assert not np.any(np.asarray(result[1][0])[~np.asarray(of["valid"])])
    np.testing.assert_allclose(in_chunks(of["student"], of["prototypes"], of, chunk), result[0], rtol=1e-6)


def test_the_gradient_is_scaled_by_the_cotangent():
    of = arrays()
    once = value_and_gradient(in_chunks, of, chunk=4)[1]
    thrice = value_and_gradient(lambda *args: 3 * in_chunks(*args, chunk=4), of)[1]
    assert_close(thrice, jax.tree.map(lambda x: 3 * x, once))


def test_no_valid_token_gives_zero_and_no_nan():
    of = arrays() | {"valid": jnp.zeros((ROWS, LENGTH), bool), "weights": jnp.zeros((ROWS, LENGTH))}
    loss, gradients = value_and_gradient(in_chunks, of, chunk=4)
    assert loss == 0
    assert not any(np.any(np.asarray(leaf)) for leaf in gradients)


def test_positions_after_the_last_weight_are_not_computed():
    of = arrays()
    spoilt = of | {name: of[name].at[:, LENGTH - 2 :].set(jnp.nan) for name in ("student", "teacher")}
    assert_close(value_and_gradient(in_chunks, spoilt, chunk=2), value_and_gradient(in_chunks, of, chunk=2))


def text_of(program) -> str:
    text = program.as_text()
    assert text is not None
    return text


def compiled(mesh, of: dict, chunk: int):
    rows = batch_sharding(mesh)
    placed = {name: jax.device_put(of[name], rows) for name in ("student", "teacher", "valid", "weights")}
    of = of | placed
    with jax.set_mesh(mesh):
        rest = {name: value for name, value in of.items() if name not in ("student", "prototypes")}
        step = jax.jit(jax.value_and_grad(lambda both, rest: in_chunks(both[0], both[1], rest, chunk)))
        return step.lower((of["student"], of["prototypes"]), rest).compile(), ((of["student"], of["prototypes"]), rest)


@pytest.mark.parametrize(("sizes", "prototypes"), [((8, 1, 1), 16), ((2, 2, 2), 15), ((1, 1, 8), 16)])
def test_loss_and_sinkhorn_are_the_same_on_every_mesh(mesh_of, sizes, prototypes):
    """15 prototypes cannot be sharded over two `tensor` devices."""
    of = arrays(prototypes=prototypes)
    program, arguments = compiled(mesh_of(*sizes), of, chunk=4)
    assert_close(jax.device_get(program(*arguments)), jax.device_get(value_and_gradient(plain, of)))


def test_devices_sum_one_number_per_prototype_and_iteration_and_send_no_tokens(mesh_of):
    program, _ = compiled(mesh_of(8, 1, 1), arrays(length=24, prototypes=48), chunk=4)
    shapes = re.findall(
        r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text_of(program)
    )
    assert {kind for _, kind in shapes} == {"all-reduce"}
    per_prototype = [len(re.findall(r"f32\[48\]", shape)) for shape, _ in shapes]
    assert sorted(per_prototype)[-4:] == [0, 1, 1, 1]  # one all-reduce in each iteration of Sinkhorn-Knopp
    assert {size for shape, _ in shapes for size in re.findall(r"\[([\d,]*)\]", shape)} == {"", "48", f"{WIDTH},48"}


def test_memory_does_not_grow_with_the_tokens_of_a_row(mesh_of):
    """No pass, forward or backward, has a tensor of all tokens by prototypes."""
    mesh = mesh_of(8, 1, 1)
    temporary = []
    for length in (64, 512):
        of = arrays(length=length, prototypes=1_024)
        program, _ = compiled(mesh, of, chunk=8)
        largest = max(
            np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", text_of(program))
        )
        assert largest < 64 * 1_024  # of 8 x 1,024 scores at a time
        memory = program.memory_analysis()
        assert memory is not None
        temporary.append(memory.temp_size_in_bytes)
    vectors = 448 * WIDTH * 4  # of one device's one row
    assert temporary[1] - temporary[0] < 8 * vectors < 448 * 1_024 * 4
