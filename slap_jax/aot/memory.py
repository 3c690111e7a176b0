"""Bytes on one device: exact ones from shapes and shardings, the others as the compiler reports them."""

import dataclasses
import math
import re
from typing import Any

import jax

from slap_jax.training.step import StepProgram

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B)?"


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """The compiler's memory report for one device.

    Attributes:
        temporaries: bytes that belong neither to an argument nor to a result; None if not reported.
        arguments: bytes of state and batch, including the padding of their layout; None if not reported.
        in_place: bytes of the arguments that results overwrite: the donated state.
        code: bytes of the program itself.
        capacity: bytes that the compiler would have allowed; None if not reported.
        message: first line of the error for a step that does not fit; "" if it compiled.
    """

    temporaries: int | None
    arguments: int | None = None
    in_place: int = 0
    code: int = 0
    capacity: int | None = None
    message: str = ""


def argument_bytes(program: StepProgram) -> dict[str, int]:
    """Returns the bytes on each device of the state, by kind, and of the batch; the new state overwrites the old."""
    state = program.state
    return {
        "parameters": device_bytes(state.params),
        "optimizer": device_bytes(state.optimizer),
        "teacher": device_bytes(state.teacher),
        "batch": device_bytes(program.batch),
    }


def device_bytes(tree: Any) -> int:
    """Returns the bytes on each device of a pytree of arrays, or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_memory(compiled: jax.stages.Compiled) -> StepMemory:
    """Reads the memory analysis of a compiled step."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return StepMemory(None)
    # Results that overwrite no argument (metrics) are allocated like temporaries.
    results = max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0)
    return StepMemory(
        temporaries=analysis.temp_size_in_bytes + results,
        arguments=analysis.argument_size_in_bytes,
        in_place=analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def out_of_memory(error: Exception) -> StepMemory | None:
    """Reads the compiler's error for a step that does not fit; None for any other error."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return None
    temporaries = _bytes_after(r"HLO temp(?:oraries)?[^\d(]*\(?\s*", text)
    if temporaries is None:  # "Used 21.5G of 15.75G hbm": arguments included
        temporaries = _bytes_after(r"[Uu]sed\s+", text)
    capacity = _bytes_after(r"available HBM \(", text) or _bytes_after(r"[Uu]sed\s+[\d.]+[KMGT]? of\s+", text)
    return StepMemory(temporaries, capacity=capacity, message=text.strip().splitlines()[0])


def _bytes_after(pattern: str, text: str) -> int | None:
    match = re.search(pattern + _SIZE, text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
