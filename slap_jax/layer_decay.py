"""Layer-wise learning-rate decay for fine-tuning: the lower a layer of an encoder, the slower it learns.

Clark et al. 2020 (ELECTRA, arXiv 2003.10555), as BEiT (arXiv 2106.08254) numbers the layers: with L of them, layer l
(1 is the lowest) has the factor decay^(L + 1 - l); what lies below the first layer (patch or token embedding, mask
token) decay^(L + 1); what lies above the last one, and everything outside the two encoders, 1.
"""

import re
from typing import Any

import jax
import numpy as np

from slap_jax.config_checks import ConfigError
from slap_jax.paths import flatten, path_name

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
