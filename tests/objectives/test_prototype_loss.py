"""The loss in parts equals a plain one that keeps all scores, in value and gradient, on every mesh; its memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.objectives.prototype_loss import prototype_cross_entropy
from slap_jax.objectives.sinkhorn import balance
from slap_jax.parallel.mesh import batch_sharding, create_mesh

ROWS, PLACES, WIDTH, PROTOTYPES = 8, 10, 6, 16


def arrays(rows: int = ROWS, places: int = PLACES, width: int = WIDTH, prototypes: int = PROTOTYPES) -> dict:
    generator = np.random.default_rng(0)

    def unit(*shape: int, axis: int) -> jnp.ndarray:
        x = generator.standard_normal(shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=axis, keepdims=True), jnp.float32)

    valid = np.arange(places) < generator.integers(places // 3, places - 2, (rows, 1))
    return {
        "student": unit(rows, places, width, axis=-1),
        "prototypes": unit(width, prototypes, axis=0),
        "teacher": unit(rows, places, width, axis=-1),
        "teacher_prototypes": unit(width, prototypes, axis=0),
        "valid": jnp.asarray(valid),
        "weights": jnp.asarray(valid * generator.uniform(0.1, 1, valid.shape), jnp.float32),
    }


def in_parts(student, prototypes, rest: dict, chunk: int):
    teacher, teacher_prototypes = rest["teacher"], rest["teacher_prototypes"]
    potentials, _ = balance(teacher, teacher_prototypes, rest["valid"], 0.05, 3, chunk)
    return prototype_cross_entropy(
        student, prototypes, 0.1, teacher, teacher_prototypes, 0.05, potentials, rest["weights"], chunk
    )


def plain(student, prototypes, rest: dict):
    """All scores at once, Sinkhorn-Knopp on the whole matrix, gradients by JAX."""
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


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


@pytest.mark.parametrize("chunk", [0, 1, 3, 4, 10, 1_000])
def test_equals_the_plain_loss(chunk):
    of = arrays()
    found = value_and_gradient(in_parts, of, chunk=chunk)
    assert_close(found, value_and_gradient(plain, of))
    assert not np.any(np.asarray(found[1][0])[~np.asarray(of["valid"])])
    np.testing.assert_allclose(in_parts(of["student"], of["prototypes"], of, chunk), found[0], rtol=1e-6)


def test_the_gradient_is_scaled_by_what_follows():
    of = arrays()
    once = value_and_gradient(in_parts, of, chunk=4)[1]
    thrice = value_and_gradient(lambda *args: 3 * in_parts(*args, chunk=4), of)[1]
    assert_close(thrice, jax.tree.map(lambda x: 3 * x, once))


def test_nothing_valid_gives_zero_and_no_nan():
    of = arrays() | {"valid": jnp.zeros((ROWS, PLACES), bool), "weights": jnp.zeros((ROWS, PLACES))}
    loss, gradients = value_and_gradient(in_parts, of, chunk=4)
    assert loss == 0
    assert not any(np.any(np.asarray(leaf)) for leaf in gradients)


def test_places_after_the_last_weight_are_not_computed():
    of = arrays()
    spoilt = of | {name: of[name].at[:, PLACES - 2 :].set(jnp.nan) for name in ("student", "teacher")}
    assert_close(value_and_gradient(in_parts, spoilt, chunk=2), value_and_gradient(in_parts, of, chunk=2))


def mesh_of(*sizes: int):
    return create_mesh(ConfigDict(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))


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
        step = jax.jit(jax.value_and_grad(lambda both, rest: in_parts(both[0], both[1], rest, chunk)))
        return step.lower((of["student"], of["prototypes"]), rest).compile(), ((of["student"], of["prototypes"]), rest)


@pytest.mark.parametrize(("sizes", "prototypes"), [((8, 1, 1), 16), ((2, 2, 2), 16), ((2, 2, 2), 15)])
def test_is_the_same_on_every_mesh(sizes, prototypes):
    """15 prototypes cannot be split over two `tensor` ways."""
    of = arrays(prototypes=prototypes)
    program, arguments = compiled(mesh_of(*sizes), of, chunk=4)
    assert_close(jax.device_get(program(*arguments)), jax.device_get(value_and_gradient(plain, of)))


def test_devices_exchange_a_sum_per_prototype_and_round_and_nothing_of_tokens():
    program, _ = compiled(mesh_of(8, 1, 1), arrays(places=24, prototypes=48), chunk=4)
    shapes = re.findall(
        r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text_of(program)
    )
    assert {kind for _, kind in shapes} == {"all-reduce"}
    per_prototype = [len(re.findall(r"f32\[48\]", shape)) for shape, _ in shapes]
    assert sorted(per_prototype)[-4:] == [0, 1, 1, 1]  # one all-reduce in each round of Sinkhorn-Knopp
    assert {size for shape, _ in shapes for size in re.findall(r"\[([\d,]*)\]", shape)} == {"", "48", f"{WIDTH},48"}


def test_memory_does_not_grow_with_the_tokens_of_a_row():
    """No tensor of all tokens by prototypes, forward or backward."""
    mesh = mesh_of(8, 1, 1)
    temporary = []
    for places in (64, 512):
        of = arrays(places=places, prototypes=1_024)
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
