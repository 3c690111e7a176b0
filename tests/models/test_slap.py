"""Packing changes neither embeddings nor gradients, and on many devices no tokens are sent."""

import re
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from slap_jax.models.slap import Slap
from slap_jax.parallel.sharding import batch_sharding, create_mesh, with_shardings

pytestmark = pytest.mark.compile

COLUMN, COLUMNS, SLOTS, TEXT = 2_560, 24, 4, 36
BACKENDS = ["auto", "dense", "blocked", "chunked"]
CLIP_SAMPLES, CAPTION_TOKENS = 7 * COLUMN + 900, 9


def noise(samples: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def caption(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 40, tokens).astype(np.int32)


CLIP = (noise(CLIP_SAMPLES, 1), caption(CAPTION_TOKENS, 1))
NEIGHBOURS = [
    (noise(5 * COLUMN, 2), caption(6, 2)),
    (noise(30, 3), caption(2, 3)),
    (noise(8 * COLUMN, 4), caption(12, 4)),
]
SILENCE = (np.zeros(5 * COLUMN, np.float32), NEIGHBOURS[0][1])
BROKEN = (np.full(5 * COLUMN, np.nan, np.float32), NEIGHBOURS[0][1])


def rows_of(*rows: list) -> tuple[np.ndarray, ...]:
    """Packs (samples, tokens) pairs: waveform, audio segments and columns, text tokens, segments and positions."""
    waveform = np.zeros((len(rows), COLUMNS * COLUMN), np.float32)
    audio, text = np.zeros((2, len(rows), COLUMNS), np.int32), np.zeros((3, len(rows), TEXT), np.int32)
    for row, clips in enumerate(rows):
        column = position = 0
        for slot, (samples, tokens) in enumerate(clips):
            waveform[row, column * COLUMN : column * COLUMN + len(samples)] = samples
            count = max(1, -(-len(samples) // COLUMN))
            audio[:, row, column : column + count] = np.full(count, slot + 1), np.arange(count)
            text[:, row, position : position + len(tokens)] = (
                tokens,
                np.full(len(tokens), slot + 1),
                np.arange(len(tokens)),
            )
            column, position = column + count, position + len(tokens)
    return waveform, *audio, *text


def build(config, backend: str) -> tuple[Callable, dict]:
    """Returns a function of (params, *pack) to audio and text embeddings, and the parameters."""
    config.model.attention = backend
    graphdef, params = nnx.split(Slap(config, rngs=nnx.Rngs(0)))

    def embed(params, waveform, segments, columns, tokens, text_segment_ids, positions):
        model = nnx.merge(graphdef, params)
        features = model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)
        audio = model.audio_embeddings(features, segments, SLOTS)
        text = model.text_tokens(tokens, text_segment_ids, positions)
        return audio, model.text_embeddings(text, text_segment_ids, SLOTS)

    return embed, nnx.to_pure_dict(params)


@pytest.fixture(scope="module")
def with_gradient() -> Callable:
    """Compiled by config and backend: (params, pack, row, slot) -> embeddings and the gradient of one slot."""
    compiled = {}

    def create(config, backend: str) -> tuple[Callable, dict]:
        if backend not in compiled:
            embed, params = build(config, backend)

            @jax.jit
            def both(params, pack, row, slot):
                def loss(params):
                    audio, text = embed(params, *pack)
                    direction = jnp.cos(jnp.arange(audio.shape[-1]))
                    return jnp.sum((audio + 2 * text)[row, slot] * direction), (audio, text)

                (_, embeddings), gradient = jax.value_and_grad(loss, has_aux=True)(params)
                return embeddings, gradient

            compiled[backend] = both, params
        return compiled[backend]

    return create


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clip_is_the_same_alone_and_in_any_pack(tiny_config, with_gradient, backend):
    both, params = with_gradient(tiny_config, backend)
    first, second, third = NEIGHBOURS
    alone, alone_gradient = both(params, rows_of([CLIP], []), 0, 0)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(alone_gradient)) > 1e-2
    packs = [
        (rows_of([first], [second, CLIP, third]), 1, 1),
        (rows_of([first, second, third, CLIP], [third, third, third]), 0, 3),
        (rows_of([CLIP, CLIP, CLIP], [first]), 0, 1),
    ]
    for pack, row, slot in packs:
        embeddings, gradient = both(params, pack, row, slot)
        for packed, single in zip(embeddings, alone, strict=True):
            np.testing.assert_allclose(packed[row, slot], single[0, 0], atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(packed[row, slot]), 1.0, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, alone_gradient)


def test_backends_agree(tiny_config, with_gradient):
    pack = rows_of([CLIP, *NEIGHBOURS], NEIGHBOURS)
    results = {}
    for backend in BACKENDS:
        both, params = with_gradient(tiny_config, backend)
        results[backend] = both(params, pack, 0, 0)
    for result in results.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result, results["dense"])


@pytest.mark.parametrize(
    "backend, third",
    [("auto", SILENCE), ("dense", BROKEN), ("blocked", SILENCE), ("blocked", BROKEN), ("chunked", BROKEN)],
    ids=lambda value: value if isinstance(value, str) else "nan" if np.isnan(value[0][0]) else "silence",
)
def test_a_broken_or_silent_clip_leaves_every_other_slot(tiny_config, with_gradient, backend, third):
    both, params = with_gradient(tiny_config, backend)
    (audio, text), gradient = both(params, rows_of([CLIP, NEIGHBOURS[1], NEIGHBOURS[0], NEIGHBOURS[1]], []), 0, 0)
    (changed, same_text), changed_gradient = both(
        params, rows_of([CLIP, NEIGHBOURS[1], third, NEIGHBOURS[1]], []), 0, 0
    )
    others = [0, 1, 3]
    np.testing.assert_allclose(changed[0, others], audio[0, others], atol=1e-6)
    np.testing.assert_allclose(same_text, text, atol=1e-6)
    assert np.isfinite(changed).all()
    assert np.abs(changed[0, 2] - audio[0, 2]).max() > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), changed_gradient, gradient)


def test_empty_slots_are_finite_with_finite_gradients(tiny_config, with_gradient):
    both, params = with_gradient(tiny_config, "auto")
    (audio, text), gradient = both(params, rows_of([CLIP], []), 1, 2)
    assert np.isfinite(audio).all() and np.isfinite(text).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_int16_and_float_samples_give_the_same_embeddings(tiny_config):
    embed, params = build(tiny_config, "auto")
    waveform, *rest = rows_of([CLIP, NEIGHBOURS[0]])
    samples = np.round(waveform * 32_768).astype(np.int16)
    run = jax.jit(embed)
    from_integers, from_floats = run(params, samples, *rest)[0], run(params, np.float32(samples) / 32_768, *rest)[0]
    np.testing.assert_allclose(from_integers, from_floats, atol=1e-5)


def test_bfloat16_embeddings_are_fp32_and_close(tiny_config):
    embed, params = build(tiny_config, "auto")
    pack = rows_of([CLIP, *NEIGHBOURS])
    expected = jax.jit(embed)(params, *pack)
    tiny_config.model.compute_dtype = "bfloat16"
    half, _ = build(tiny_config, "auto")
    for result, target in zip(jax.jit(half)(params, *pack), expected, strict=True):
        assert result.dtype == jnp.float32
        assert np.sum(result * target, axis=-1).min() > 0.99


def test_state_is_only_parameters_and_survives_a_pure_dict(tiny_config):
    model = Slap(tiny_config, rngs=nnx.Rngs(0))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    pure = nnx.to_pure_dict(params)

    def check_keys(tree):
        for key, value in tree.items():
            assert isinstance(key, str)
            if isinstance(value, dict):
                check_keys(value)
            else:
                assert value.dtype == jnp.float32

    check_keys(pure)
    assert set(pure) == {
        f"{tower}_{part}" for tower in ("audio", "text") for part in ("encoder", "pooling", "projection")
    }
    merged = nnx.to_pure_dict(nnx.split(nnx.merge(nnx.split(model)[0], pure))[1])
    jax.tree.map(np.testing.assert_array_equal, merged, pure)
    # Two models of one config share one graph definition, so a compiled step serves teacher and student.
    other = nnx.split(nnx.eval_shape(lambda: Slap(tiny_config, rngs=nnx.Rngs(1))))[0]
    assert hash(other) == hash(nnx.split(model)[0]) and other == nnx.split(model)[0]


@pytest.mark.process
def test_import_touches_no_device():
    code = """
import pkgutil, importlib
import jax._src.xla_bridge as bridge
def refuse(*arguments, **names):
    raise AssertionError("a device was asked for")
bridge.backends = bridge._get_backend_uncached = refuse
import slap_jax.models
for module in pkgutil.walk_packages(slap_jax.models.__path__, "slap_jax.models."):
    importlib.import_module(module.name)
assert not bridge._backends
try:
    import jax.numpy; jax.numpy.zeros(())
except AssertionError:
    print("guard works")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "guard works" in result.stdout


# Lengths that no other dimension has, so that a shape shows whether it is one of tokens.
ROWS, SHARDED_COLUMNS, SHARDED_TEXT = 8, 13, 37
COLLECTIVE = re.compile(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_tokens_are_not_communicated(tiny_config, tower):
    """Without constraints XLA shards the features of tokens like the weights, and sums products over devices."""
    mesh = create_mesh(ConfigDict({"data": 1, "fsdp": 8, "tensor": 1}))
    graph, state = nnx.split(nnx.eval_shape(lambda: Slap(tiny_config, rngs=nnx.Rngs(0))))
    params = with_shardings(nnx.to_pure_dict(state), mesh)

    def sharded(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((ROWS, *shape), dtype, sharding=batch_sharding(mesh))

    def loss(params: dict, *batch: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        tokens = model.audio_tokens(*batch) if tower == "audio" else model.text_tokens(*batch)
        return jnp.sum(tokens**2)

    if tower == "audio":
        batch = (
            sharded(4 * SHARDED_COLUMNS, 256, dtype=jnp.float32),
            sharded(SHARDED_COLUMNS),
            sharded(SHARDED_COLUMNS),
        )
        length, width = 4 * SHARDED_COLUMNS, tiny_config.model.audio_encoder.width
    else:
        batch, length, width = (sharded(SHARDED_TEXT),) * 3, SHARDED_TEXT, tiny_config.model.text_encoder.width
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(params, *batch).compile().as_text()
    assert text is not None
    sent = {shape for result in COLLECTIVE.findall(text) for shape in re.findall(r"(?:f32|bf16)\[([\d,]+)\]", result)}
    assert f"{width},{width}" in sent  # weights are gathered
    in_layers = [shape for shape in sent if {str(length), str(ROWS * length)} & set(shape.split(","))]
    # Looking up a table that is sharded over its features sends the embeddings, once.
    assert len(in_layers) <= (tower == "text"), in_layers


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_the_front_end_does_not_communicate(tiny_config, sizes):
    mesh = create_mesh(ConfigDict(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    model = nnx.eval_shape(lambda: Slap(tiny_config, rngs=nnx.Rngs(0)))
    generator = np.random.default_rng(0)
    waveform = generator.integers(-9_000, 9_000, (ROWS, SHARDED_COLUMNS * 2_560), np.int16)
    segments = np.repeat(np.arange(1, SHARDED_COLUMNS + 1, dtype=np.int32)[None] // 5, ROWS, axis=0)
    expected = model.audio_mel(jnp.asarray(waveform), jnp.asarray(segments))
    placed = jax.device_put((waveform, segments), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        program = jax.jit(model.audio_mel).lower(*placed).compile()
    assert not COLLECTIVE.findall(program.as_text() or "")
    np.testing.assert_allclose(program(*placed), expected, atol=1e-4)
