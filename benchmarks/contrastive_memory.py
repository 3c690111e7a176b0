"""Temporary memory of the contrastive losses per device: tiled in a ring, compared with a dense implementation.

Run: python benchmarks/contrastive_memory.py [--devices cpu:8 v5e:2x4] [--clips 32768] > contrastive_memory.json

Nothing is executed. The gradient is compiled for 1 to 8 CPU devices, or for TPUs that need not be attached
(`slap-jax[aot]`), and the compiler reports what it would allocate, not counting the vector memory of a TPU. The dense
loss is the textbook one: it holds all scores at once, with the same precision of the products, and the compiler
partitions it over the devices.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from slap_jax.objectives.contrastive import ClipKeys, negatives_mask, sigmoid_loss, softmax_loss
from slap_jax.parallel.sharding import AXES, BATCH_SPEC

EMBED_DIM, BLOCK = 512, 1_024


def tiled(form: str, block: int) -> Callable[..., Array]:
    """Returns the package's loss of (audio, text, scale, bias, keys)."""
    if form == "softmax":
        return lambda audio, text, scale, bias, keys: softmax_loss(audio, text, scale, keys, None, block)
    return lambda audio, text, scale, bias, keys: sigmoid_loss(audio, text, scale, bias, keys, None, block)


def dense(form: str) -> Callable[..., Array]:
    """Returns a loss of (audio, text, scale, bias, keys) that holds all scores in memory."""

    def loss(
        audio: Float[Array, "N E"], text: Float[Array, "N E"], scale: Array, bias: Array, keys: ClipKeys
    ) -> Float[Array, ""]:
        scores = scale * jnp.matmul(audio, text.T, precision="highest")
        negatives, own = negatives_mask(keys, keys), jnp.diagonal(scores)
        if form == "softmax":
            masked = jnp.where(negatives | jnp.eye(len(own), dtype=bool), scores, -jnp.inf)
            losses = jax.nn.logsumexp(masked, axis=0) + jax.nn.logsumexp(masked, axis=1) - 2 * own
            return jnp.sum(jnp.where(keys.valid, losses, 0.0)) / (2 * jnp.sum(keys.valid))
        positive = jnp.where(keys.valid, jax.nn.softplus(-own - bias), 0.0)
        negative = jnp.where(negatives, jax.nn.softplus(scores + bias), 0.0)
        return (jnp.sum(positive) + jnp.sum(negative)) / jnp.sum(keys.valid)

    return loss


def compiled_gradient(loss: Callable[..., Array], clips: int, embed_dim: int, devices: Sequence[Any]) -> Any:
    """Compiles value and gradient of a loss of (audio, text, scale, bias, keys), clips sharded over devices."""
    grid = np.array(devices, dtype=object).reshape(-1, 1, 1)
    mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def shape(dimensions: tuple[int, ...], dtype: Any) -> Any:
        spec = BATCH_SPEC if dimensions else PartitionSpec()
        return jax.ShapeDtypeStruct(dimensions, dtype, sharding=NamedSharding(mesh, spec))

    vectors, scalar = shape((clips, embed_dim), jnp.float32), shape((), jnp.float32)
    keys = ClipKeys(shape((clips,), bool), shape((clips,), jnp.int32), shape((clips,), jnp.int32))
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    with jax.set_mesh(mesh):
        return gradient.lower(vectors, vectors, scalar, scalar, keys).compile()


def temporary_bytes(loss: Callable[..., Array], clips: int, embed_dim: int, devices: Sequence[Any]) -> int:
    """Returns the bytes that one device allocates in addition to arguments and results."""
    return compiled_gradient(loss, clips, embed_dim, devices).memory_analysis().temp_size_in_bytes


def mebibytes(loss: Callable[..., Array], clips: int, devices: Sequence[Any]) -> float | str:
    """Returns the size of the temporaries in MiB, or "does not fit"."""
    try:
        return round(temporary_bytes(loss, clips, EMBED_DIM, devices) / 2**20, 2)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "does not fit"


def main() -> None:
    """Prints the table as JSON."""
    from machine import machine  # next to this file; tests import this file as part of a package

    from slap_jax.aot.topology import described_devices, parse_topology

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[2_048, 8_192, 32_768])
    parser.add_argument("--devices", nargs="+", default=["cpu:1", "cpu:2", "cpu:4", "cpu:8"])
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)

    def devices_of(name: str) -> Sequence[Any]:
        platform, _, count = name.partition(":")
        return jax.devices()[: int(count)] if platform == "cpu" else described_devices(parse_topology(name))

    meshes = {name: devices_of(name) for name in options.devices}
    results = [
        {
            "form": form,
            "clips": clips,
            "devices": name,
            "tiled_mib": mebibytes(tiled(form, BLOCK), clips, devices),
            "dense_mib": mebibytes(dense(form), clips, devices),
        }
        for form in ("softmax", "sigmoid")
        for clips in options.clips
        for name, devices in meshes.items()
    ]
    facts = {"machine": machine("jax", "libtpu"), "embed_dim": EMBED_DIM, "block": BLOCK}
    print(json.dumps({**facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()
