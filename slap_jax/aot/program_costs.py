"""What one device must compute and move in a step, counted in the traced program: scans as often as they run.

The loss and its gradient are traced for the rows of one device, without a mesh, so that every shape is a device's own
(split by `tensor` it would be smaller still: `roofline` divides by that). Counted are the matrix products: their
FLOPs, padding and rematerialisation included, and the bytes of their operands and results, as if everything between
two products were fused into them. XLA's own `cost_analysis` counts a scan's body once and nothing in a kernel.
Kernels (Pallas) and loops of unknown length are only seen here: `roofline` adds what they compute.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from slap_jax.aot.chips import Chip
from slap_jax.compile_step import global_batch_shapes
from slap_jax.optimizer import create_optimizer
from slap_jax.train_state import abstract_learner, create_state, graph_of
from slap_jax.train_step import make_loss


@dataclasses.dataclass(frozen=True)
class Costs:
    """Sums over a program, for one device.

    Attributes:
        flops: of matrix products.
        seconds: that they take at the device's peak for their types and precision.
        bytes: of their operands and results, and of the kernels'.
        kernels: calls of Pallas kernels.
        open_loops: loops of unknown length that hold matrix products; those are not in the sums.
    """

    flops: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0
    open_loops: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def times(self, count: float) -> "Costs":
        """The costs of running it several times."""
        return Costs(*(count * value for value in dataclasses.astuple(self)))


def gradient_costs(config: ConfigDict, rows: int, chip: Chip) -> Costs:
    """Counts the loss of some rows and its gradient; wrap it in `compiling_for`, so that kernels are the platform's.

    Args:
        config: the whole configuration.
        rows: of the device.
        chip: for the speed of each type.
    """
    loss, arguments = _loss_of_rows(config, rows)
    return count(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr, chip)


def kept_for_backward(config: ConfigDict, rows: int) -> int:
    """Estimates the bytes that the forward pass of some rows keeps for the backward pass.

    The residuals of `jax.vjp`, as far as they grow with the rows: the others are parameters in another type. The
    compiler may keep less: what is cheap it may compute again.
    """
    return _residual_bytes(config, 2 * rows) - _residual_bytes(config, rows)


def _residual_bytes(config: ConfigDict, rows: int) -> int:
    loss, (params, *rest) = _loss_of_rows(config, rows)

    def residuals(params: Any, *rest: Any) -> list[Any]:
        _, pull = jax.vjp(lambda params: loss(params, *rest), params)
        return jax.tree.leaves(pull)

    found = jax.eval_shape(residuals, params, *rest)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found)


def _loss_of_rows(config: ConfigDict, rows: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loss as a function of parameters, teacher, batch and step, and their shapes for that many rows."""
    local = config.copy_and_resolve_references()
    local.data.rows = rows
    local.train.accumulate = 1
    transform = create_optimizer(local.optimizer, local.train.steps)
    state = jax.eval_shape(functools.partial(create_state, local, transform))
    loss = make_loss(local, graph_of(abstract_learner(local)))

    def scalar_loss(*arguments: Any) -> Any:
        return loss(*arguments)[0]

    return scalar_loss, (state.params, state.teacher, global_batch_shapes(local), state.step)


def count(jaxpr: Any, chip: Chip) -> Costs:
    """Counts a traced program and everything in it."""
    total = Costs()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product(equation, chip)
            continue
        if name == "pallas_call":
            total += Costs(bytes=sum(map(_bytes, (*equation.invars, *equation.outvars))), kernels=1)
            continue
        inner = [count(getattr(sub, "jaxpr", sub), chip) for sub in jaxprs_in_params(equation.params)]
        if name == "scan":
            total += sum(inner, Costs()).times(equation.params["length"])
        elif name == "while":
            total += Costs(open_loops=float(any(costs.flops for costs in inner)))
        elif name == "cond":
            total += max(inner, key=lambda costs: costs.seconds)
        else:
            total += sum(inner, Costs())
    return total


def _product(equation: Any, chip: Chip) -> Costs:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, right = (variable.aval for variable in equation.invars)
    depth = math.prod(left.shape[axis] for axis in contracted)
    flops = 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
    moved = sum(map(_bytes, (*equation.invars, *equation.outvars)))
    share = 1.0
    if left.dtype == right.dtype == jnp.float32:
        share = _fp32_share(equation.params["precision"], chip)
    return Costs(flops, flops / (share * chip.peak_flops), moved)


def _fp32_share(precision: Any, chip: Chip) -> float:
    """Speed of an fp32 product relative to bf16: by default TPUs round to bf16, and GPUs to TF32 at half the speed."""
    if isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision:
        return chip.fp32_share
    return 1.0 if chip.platform == "tpu" else 0.5


def _bytes(variable: Any) -> float:
    aval = variable.aval
    return float(math.prod(aval.shape) * aval.dtype.itemsize) if hasattr(aval, "shape") else 0.0
