"""With parameters split over `fsdp`, the towers gather weights; tokens stay on the devices that hold their rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from slap_jax.models.slap import Slap
from slap_jax.parallel.sharding import batch_sharding, create_mesh, with_shardings

BATCH_SPEC, COLUMNS, TEXT = 8, 13, 37
COLLECTIVE = re.compile(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_no_tensor_of_tokens_is_sent(tiny_config, tower):
    """Left to itself, the compiler splits the tokens' features as the weights are, and sums products over devices."""
    mesh = create_mesh(ConfigDict({"data": 1, "fsdp": 8, "tensor": 1}))
    graph, state = nnx.split(nnx.eval_shape(lambda: Slap(tiny_config, rngs=nnx.Rngs(0))))
    params = with_shardings(nnx.to_pure_dict(state), mesh)

    def of_rows(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((BATCH_SPEC, *shape), dtype, sharding=batch_sharding(mesh))

    def loss(params: dict, *batch: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        tokens = model.audio_tokens(*batch) if tower == "audio" else model.text_tokens(*batch)
        return jnp.sum(tokens**2)

    if tower == "audio":
        batch = (of_rows(4 * COLUMNS, 256, dtype=jnp.float32), of_rows(COLUMNS), of_rows(COLUMNS))
        length, width = 4 * COLUMNS, tiny_config.model.audio_encoder.width
    else:
        batch, length, width = (of_rows(TEXT),) * 3, TEXT, tiny_config.model.text_encoder.width
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(params, *batch).compile().as_text()
    assert text is not None
    sent = {shape for found in COLLECTIVE.findall(text) for shape in re.findall(r"(?:f32|bf16)\[([\d,]+)\]", found)}
    assert f"{width},{width}" in sent  # weights are gathered
    in_layers = [shape for shape in sent if {str(length), str(BATCH_SPEC * length)} & set(shape.split(","))]
    # The look-up of a table that is split over its features sends what was found, once.
    assert len(in_layers) <= (tower == "text"), in_layers


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_the_front_end_sends_nothing(tiny_config, sizes):
    mesh = create_mesh(ConfigDict(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    model = nnx.eval_shape(lambda: Slap(tiny_config, rngs=nnx.Rngs(0)))
    generator = np.random.default_rng(0)
    waveform = generator.integers(-9_000, 9_000, (BATCH_SPEC, COLUMNS * 2_560), np.int16)
    segments = np.repeat(np.arange(1, COLUMNS + 1, dtype=np.int32)[None] // 5, BATCH_SPEC, axis=0)
    expected = model.audio_mel(jnp.asarray(waveform), jnp.asarray(segments))
    placed = jax.device_put((waveform, segments), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        program = jax.jit(model.audio_mel).lower(*placed).compile()
    assert not COLLECTIVE.findall(program.as_text() or "")
    np.testing.assert_allclose(program(*placed), expected, atol=1e-4)
