"""Memory of devices and of programs."""

import jax
import jax.numpy as jnp

from slap_jax.device_memory import describe_program_memory, device_memory, program_memory


class Device:
    def __init__(self, statistics):
        self.statistics = statistics

    def memory_stats(self):
        return self.statistics


def test_the_fullest_device_counts():
    devices = [
        Device({"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30, "bytes_limit": 16 * 2**30}),
        Device({"bytes_in_use": 2**31, "peak_bytes_in_use": 2**31, "bytes_limit": 16 * 2**30}),
    ]
    assert device_memory(devices) == {"memory/in_use_gib": 2.0, "memory/peak_gib": 3.0, "memory/limit_gib": 16.0}


def test_nothing_without_statistics():
    assert device_memory([Device(None)]) == {}
    assert device_memory() == {}  # CPU has none


def test_memory_of_a_program_by_kind():
    def add(x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y

    array = jax.ShapeDtypeStruct((1_024,), jnp.float32)
    memory = program_memory(jax.jit(add, donate_argnums=0).lower(array, array).compile())
    assert memory["arguments"] == 2 * 4_096
    assert memory["outputs"] == memory["in_place"] == 4_096
    sentence = describe_program_memory({**memory, "temporaries": 3 * 2**30, "code": 0})
    assert sentence.startswith("a step needs 3.000 GiB per device (arguments 0.000, ")
    assert "does not tell" in describe_program_memory({})
