"""Ahead of time: the training step compiled for TPUs and GPUs that are not there."""

from slap_jax.aot.report import find_max_rows, report
from slap_jax.aot.table import format_report
from slap_jax.aot.topology import CHIPS, TopologyError, parse_topology

__all__ = ["CHIPS", "TopologyError", "find_max_rows", "format_report", "parse_topology", "report"]
