"""Compiles for TPUs that are not attached, in a separate process, and prints the results as one line of JSON."""

import functools
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slap_jax.aot import report
from slap_jax.aot.compilation import network_islands
from slap_jax.aot.hlo import find_collectives
from slap_jax.aot.topology import described_devices, parse_topology
from tests.aot.small_config import small_config

LOOPS, VALUES = 5, 1_024


def summed_in_a_loop() -> dict:
    """Returns the collectives of a loop that sums 1,024 numbers over the devices, five times."""
    devices = described_devices(parse_topology("v5e:2x2"))
    mesh = Mesh(np.array(devices), ("data",))

    def step(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.lax.psum(jnp.sin(total + x), "data"), None

    split, whole = PartitionSpec("data"), PartitionSpec()
    body = functools.partial(jax.shard_map, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    program = jax.jit(body(lambda start, xs: jax.lax.scan(step, start, xs)[0]))
    start = jax.ShapeDtypeStruct((4 * VALUES,), jnp.float32, sharding=NamedSharding(mesh, split))
    xs = jax.ShapeDtypeStruct((LOOPS,), jnp.float32, sharding=NamedSharding(mesh, whole))
    text = program.lower(start, xs).compile().as_text()
    assert text is not None
    return find_collectives(text, len(devices)).by_kind()


def islands(name: str) -> list[int]:
    """Returns the slice of each device of a topology."""
    topology = parse_topology(name)
    return network_islands(Mesh(np.array(described_devices(topology)), ("data",)), topology)


def main() -> None:
    """Prints the results."""
    large = small_config()
    large.data.rows = 400_000
    results = {
        "step": report(small_config(fsdp=2), "2*v5e:2x2"),
        "large": report(large, "v5e:2x2"),
        "loop": summed_in_a_loop(),
        "islands": {name: islands(name) for name in ("v5e:4x4", "2*v5e:2x2")},
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
