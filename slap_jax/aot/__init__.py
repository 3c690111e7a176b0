"""Ahead of time: compiles the training step for TPUs and GPUs that are not attached, and reports what it needs."""

from slap_jax.aot.compilation import find_max_rows, report
from slap_jax.aot.table import format_report
from slap_jax.aot.topology import CHIPS, TopologyError, parse_topology

__all__ = ["CHIPS", "TopologyError", "find_max_rows", "format_report", "parse_topology", "report"]
