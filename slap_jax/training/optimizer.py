"""AdamW with schedules, weight decay on matrices only, and learning-rate factors by parameter path and by layer.

Layer-wise learning-rate decay for fine-tuning: the lower a layer of an encoder, the slower it learns.

Clark et al. 2020 (ELECTRA, arXiv 2003.10555), as BEiT (arXiv 2106.08254) numbers the layers: with L of them, layer l
(1 is the lowest) has the factor decay^(L + 1 - l); what lies below the first layer (patch or token embedding, mask
token) decay^(L + 1); what lies above the last one, and everything outside the two encoders, 1.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.params import flatten, path_name

Rules = Sequence[Sequence[Any]]  # (path regex, factor) pairs

# Leaves that weight decay pulls on: matrices, by name, because stacked layers give every leaf one more axis.
DECAYED = re.compile(r"(^|/)(kernel|table|prototypes)$")


def learning_rate_schedule(optimizer: ConfigDict, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the update's index.

    Args:
        optimizer: `config.optimizer`: linear warm-up, then `cosine`, `wsd` (constant, then linear decay over the last
            `decay_fraction` of the steps) or `constant`.
        steps: planned updates, warm-up included.
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
    # The first update already moves: warm-up reaches the peak at update `warmup`, from 1/warmup of it.
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def path_tree(params: Any) -> Any:
    """Returns a tree of the same structure that holds each leaf's path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay applies to."""
    return jax.tree.map(lambda path: bool(DECAYED.search(path)), path_tree(params))


def learning_rate_factors(params: Any, rules: Rules) -> Any:
    """The factor of the first rule whose regex is found in the leaf's path; 1 where none is.

    Raises:
        ConfigError: a rule that no parameter matches, which would be a silent mistake.
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
    """True for the leaves that never change: those whose factor is 0."""
    return jax.tree.map(lambda factor: factor == 0.0, learning_rate_factors(params, rules))


def stop_frozen(params: Any, rules: Rules) -> Any:
    """Takes frozen parameters out of the gradient, so that neither its computation nor its norm knows them."""
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


def _scale_by(factors_of: Callable[[Any], Any]) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(
            lambda update, factor: update * jnp.asarray(factor, update.dtype), updates, factors_of(updates)
        )

    return optax.stateless(scale)


# The layers of a tower are stacked. Groups: the tower, and the layer inside the repeated super-block.
_STACKED = re.compile(r"(.*(?:audio_encoder|text_encoder))/transformer/blocks/layers/([^/]+)/")


def layer_decay_factors(params: Any, decay: float) -> Any:
    """Returns the factor of every leaf.

    Axis 0 of a stacked leaf goes over the S super-blocks, so its factor is a vector along that axis, [S, 1, ...].

    Args:
        params: parameters, or anything of their structure with shapes.
        decay: from one layer to the one below.

    Raises:
        ConfigError: there is no encoder.
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
    """The layers of one tower."""

    def __init__(self, leaves: dict[str, Any], tower: str):
        self._tower = tower
        found = [(match.group(2), leaf) for path, leaf in leaves.items() if (match := self._stacked(path))]
        # A super-block from below: the local layers in the order of their numbers, then the global one.
        self._names = sorted({name for name, _ in found}, key=lambda name: (name == "global", len(name), name))
        self._super_blocks = found[0][1].shape[0]
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
        if path.startswith(f"{self._tower}/transformer/"):  # the norm above the last layer
            return 1.0
        return decay ** (self._layers + 1)
