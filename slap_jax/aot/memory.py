"""Bytes of one device by kind: what the step is given, exact from shapes and shardings, and what it needs beside it."""

import dataclasses
import math
import re
from typing import Any

import jax

from slap_jax.compile_step import StepProgram

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B)?"


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What the compiler says of one device.

    Attributes:
        temporaries: everything that is neither argument nor result; None where the compiler does not tell.
        arguments: state and batch as they lie in memory, padding of their layout included; None as above.
        in_place: of the arguments, what results are written over: the donated state.
        code: the program itself.
        capacity: what the compiler would have allowed, where it told so.
        message: the first line of the compiler's refusal; "" if it compiled.
    """

    temporaries: int | None
    arguments: int | None = None
    in_place: int = 0
    code: int = 0
    capacity: int | None = None
    message: str = ""


def argument_bytes(program: StepProgram) -> dict[str, int]:
    """Bytes on each device of the state, by kind, and of the batch; the new state takes the place of the old one."""
    state = program.state
    return {
        "parameters": device_bytes(state.params),
        "optimizer": device_bytes(state.optimizer),
        "teacher": device_bytes(state.teacher),
        "batch": device_bytes(program.batch),
    }


def device_bytes(tree: Any) -> int:
    """Bytes on each device of arrays or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_memory(compiled: jax.stages.Compiled) -> StepMemory:
    """Reads a compiled step."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return StepMemory(None)
    # Results that are not written over an argument (metrics) lie beside the temporaries.
    added = max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0)
    return StepMemory(
        analysis.temp_size_in_bytes + added,
        analysis.argument_size_in_bytes,
        analysis.alias_size_in_bytes,
        analysis.generated_code_size_in_bytes,
    )


def out_of_memory(error: Exception) -> StepMemory | None:
    """Reads the compiler's refusal of a step that does not fit; None if the error is another one."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return None
    first = text.strip().splitlines()[0]
    temporaries = _bytes_after(r"HLO temp(?:oraries)?[^\d(]*\(?\s*", text)
    if temporaries is None:  # "Used 21.5G of 15.75G hbm": arguments included
        temporaries = _bytes_after(r"[Uu]sed\s+", text)
    capacity = _bytes_after(r"available HBM \(", text) or _bytes_after(r"[Uu]sed\s+[\d.]+[KMGT]? of\s+", text)
    return StepMemory(temporaries, capacity=capacity, message=first)


def _bytes_after(before: str, text: str) -> int | None:
    match = re.search(before + _SIZE, text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
