"""AdamW with a learning-rate schedule, weight decay on matrices only, and learning-rate factors by path and by layer.

The update of a parameter θ at step t, with the schedule η, the rules' factor f and the layer's factor d:

    θ ← θ - η_t f d (m̂ / (√v̂ + ε) + λ θ)        λ is 0 for everything but matrices; f = 0 freezes

Layer-wise learning-rate decay (Clark et al. 2020, ELECTRA, arXiv 2003.10555; layers numbered as in BEiT, arXiv
2106.08254): in an encoder of L layers, layer l, counted from 1 at the input, has d = decay^(L + 1 - l). Embeddings and
the mask token have decay^(L + 1). The final norm and everything outside the two encoders have 1.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.params import flatten, path_name

Rules = Sequence[Sequence[Any]]  # (path regex, factor) pairs

# Weight decay applies to matrices, found by name, because stacked layers give every leaf one more axis.
DECAYED = re.compile(r"(^|/)(kernel|table|prototypes)$")


def learning_rate_schedule(optimizer: ConfigDict, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step, counted from 0.

    Args:
        optimizer: `config.optimizer`: linear warm-up, then `cosine`, `wsd` (constant, then linear decay over the last
            `decay_fraction` of the steps) or `constant`.
        steps: planned steps, warm-up included.
    """
    peak, end, warmup = (
        optimizer.learning_rate,
        optimizer.learning_rate * optimizer.final_factor,
        optimizer.warmup_steps,
    )
    rest = max(steps - warmup, 1)
    if optimizer.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=optimizer.final_factor)
    elif optimizer.schedule == "wsd":
        decay = max(1, min(rest, round(optimizer.decay_fraction * steps)))
        after = optax.linear_schedule(peak, end, decay, transition_begin=rest - decay)
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    # Step 0 already moves, at peak / warmup; step `warmup - 1` is the first at the peak.
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def path_tree(params: Any) -> Any:
    """Returns a tree of the same structure that holds each leaf's path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)


def decay_mask(params: Any) -> Any:
    """Returns True for the leaves that weight decay applies to."""
    return jax.tree.map(lambda path: bool(DECAYED.search(path)), path_tree(params))


def learning_rate_factors(params: Any, rules: Rules) -> Any:
    """Returns the factor of every leaf: that of the first rule whose regex matches its path, else 1.

    Raises:
        ConfigError: a rule matches no parameter, most likely a typo.
    """
    paths = path_tree(params)
    for pattern, _ in rules:
        if not any(re.search(pattern, path) for path in jax.tree.leaves(paths)):
            raise ConfigError(
                f"config.optimizer.learning_rate_factors: no parameter's path matches {pattern!r}; "
                "the paths are listed in params.txt of a run"
            )

    def factor(path: str) -> float:
        return next((float(value) for pattern, value in rules if re.search(pattern, path)), 1.0)

    return jax.tree.map(factor, paths)


def frozen(params: Any, rules: Rules) -> Any:
    """Returns True for the leaves that never change: those whose factor is 0."""
    return jax.tree.map(lambda factor: factor == 0.0, learning_rate_factors(params, rules))


def stop_frozen(params: Any, rules: Rules) -> Any:
    """Stops the gradient of frozen parameters, so that it is not computed and does not enter the gradient norm."""
    if all(factor > 0 for _, factor in rules):
        return params
    return jax.tree.map(
        lambda leaf, is_frozen: jax.lax.stop_gradient(leaf) if is_frozen else leaf, params, frozen(params, rules)
    )


def create_optimizer(optimizer: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Builds the update rule from `config.optimizer`; `steps` is `config.train.steps`."""
    rules = tuple(tuple(rule) for rule in optimizer.learning_rate_factors)
    transforms = [
        optax.clip_by_global_norm(optimizer.clip_norm),
        optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate_schedule(optimizer, steps)),
    ]
    if rules:
        transforms.append(_scale_by(lambda params: learning_rate_factors(params, rules)))
    if optimizer.layer_decay < 1:
        transforms.append(_scale_by(lambda params: layer_decay_factors(params, optimizer.layer_decay)))
    return optax.chain(*transforms)


def set_schedule_count(state: optax.OptState, step: Int[Array, ""]) -> optax.OptState:
    """Returns the optimiser's state with the learning-rate schedule at `step`, counted from 0."""
    assert isinstance(state, tuple)  # of `optax.chain`
    return tuple(
        inner._replace(count=step) if isinstance(inner, optax.ScaleByScheduleState) else inner for inner in state
    )


def _scale_by(factors_of: Callable[[Any], Any]) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(
            lambda update, factor: update * jnp.asarray(factor, update.dtype), updates, factors_of(updates)
        )

    return optax.stateless(scale)


# A leaf of a tower's stacked layers. Groups: the tower, and the layer inside the repeated super-block.
_STACKED = re.compile(r"(.*(?:audio_encoder|text_encoder))/transformer/blocks/layers/([^/]+)/")


def layer_decay_factors(params: Any, decay: float) -> Any:
    """Returns the layer factor d of every leaf.

    Axis 0 of a stacked leaf is the S super-blocks, so its factor is a vector along that axis, [S, 1, ...].

    Args:
        params: parameters, or their shapes.
        decay: the ratio of the factor of a layer to that of the layer above it.

    Raises:
        ConfigError: the model has no encoder layers.
    """
    leaves = flatten(params)
    stacks = {match.group(1): _Stack(leaves, match.group(1)) for path in leaves if (match := _STACKED.match(path))}
    if not stacks:
        raise ConfigError(f"config.optimizer.layer_decay is {decay}, but there are no encoder layers; write 1.0")

    def factor(key_path: Any, leaf: Any) -> Any:
        path = path_name(key_path)
        tower = next((tower for tower in stacks if path.startswith(tower + "/")), None)
        if tower is None:
            return 1.0
        return stacks[tower].factor(path, len(leaf.shape), decay)

    return jax.tree_util.tree_map_with_path(factor, params)


class _Stack:
    """The stacked layers of one tower."""

    def __init__(self, leaves: dict[str, Any], tower: str):
        self._tower = tower
        stacked = [(match.group(2), leaf) for path, leaf in leaves.items() if (match := self._stacked(path))]
        # A super-block is its local layers, in the order of their numbers, then the global layer.
        self._names = sorted({name for name, _ in stacked}, key=lambda name: (name == "global", len(name), name))
        self._super_blocks = stacked[0][1].shape[0]
        self._has_first = any(path.startswith(f"{tower}/transformer/first/") for path in leaves)
        self._layers = self._has_first + len(self._names) * self._super_blocks

    def _stacked(self, path: str) -> re.Match[str] | None:
        match = _STACKED.match(path)
        return match if match and match.group(1) == self._tower else None

    def factor(self, path: str, axes: int, decay: float) -> Any:
        if match := self._stacked(path):
            period = len(self._names)
            layer = 1 + self._has_first + self._names.index(match.group(2)) + period * np.arange(self._super_blocks)
            factors = decay ** (self._layers + 1.0 - layer)
            return factors.astype(np.float32).reshape(-1, *[1] * (axes - 1))
        if path.startswith(f"{self._tower}/transformer/first/"):
            return decay**self._layers
        if path.startswith(f"{self._tower}/transformer/"):  # the final norm
            return 1.0
        return decay ** (self._layers + 1)
