"""Memory of the devices: what the running step uses, and what its program was compiled to need."""

from collections.abc import Sequence
from typing import Any

import jax

_STATISTICS = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}


def device_memory(devices: Sequence[Any] | None = None) -> dict[str, float]:
    """Returns `memory/in_use_gib`, `memory/peak_gib` and `memory/limit_gib`, of the fullest device of this process.

    Only asks the allocator, so it does not wait for the devices. Empty where there are no statistics, as on CPU.

    Args:
        devices: those of this process by default.
    """
    statistics = [device.memory_stats() or {} for device in (jax.local_devices() if devices is None else devices)]
    memory = {}
    for name, key in _STATISTICS.items():
        values = [device[key] for device in statistics if key in device]
        if values:
            memory[f"memory/{name}_gib"] = max(values) / 2**30
    return memory


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes per device that a compiled program needs, by kind; {} where the compiler does not tell.

    `arguments` holds state and batch, of which the state is given back in place; `temporaries` the activations,
    gradients and everything else that lives inside a step only.
    """
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    names = ("arguments", "outputs", "in_place", "temporaries", "code")
    if analysis is None:
        return {}
    return {name: int(getattr(analysis, f"{kind}_size_in_bytes")) for kind, name in zip(kinds, names, strict=True)}


def describe_program_memory(memory: dict[str, int]) -> str:
    """Returns the sentence for the log: what a device holds while a step runs."""
    if not memory:
        return "the compiler does not tell how much memory the step needs"
    total = memory["arguments"] + memory["outputs"] - memory["in_place"] + memory["temporaries"] + memory["code"]
    kinds = ", ".join(f"{name} {size / 2**30:.3f}" for name, size in memory.items())
    return f"a step needs {total / 2**30:.3f} GiB per device ({kinds})"
