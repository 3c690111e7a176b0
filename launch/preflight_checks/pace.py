"""Whether the step fits into memory, its best possible speed, and whether the data pipeline is fast enough for it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.aot import parse_topology
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.tokenizer import load_tokenizer

from .finding import OK, PROBLEM, SKIPPED, Finding


def check_aot(config: str, overrides: Sequence[str], topology: str) -> tuple[list[Finding], dict[str, Any]]:
    """Compiles the step for a topology with `slap aot`, in a separate process because this one uses the devices.

    Args:
        config: config file with its argument.
        overrides: overrides of the config on the command line.
        topology: see `slap aot`.

    Returns:
        The findings, and the report ({} if there is none).
    """
    target = parse_topology(topology)
    findings = []
    devices = jax.device_count()
    if jax.default_backend() == target.platform and target.n_devices != devices:
        text = f"--topology {topology} has {target.n_devices} devices, but this run has {devices}"
        findings.append(Finding("topology", PROBLEM, text, "write the topology of this run"))
    command = [sys.executable, "-m", "slap_jax.cli", "aot", "--config", config, "--topology", topology, "--json"]
    child = subprocess.run(
        [*command, *overrides], env=_isolated_environment(), capture_output=True, text=True, check=False
    )
    try:
        report = json.loads(child.stdout)
    except json.JSONDecodeError:
        last = (child.stderr.strip() or child.stdout.strip() or "no output").splitlines()[-1]
        remedy = f"run it separately: slap aot --config {config} --topology {topology}"
        return [*findings, Finding("aot", PROBLEM, last, remedy)], {}
    return [*findings, *judge_report(report)], report


def judge_report(report: dict[str, Any]) -> list[Finding]:
    """Converts a report of `slap aot` to findings."""
    total, capacity = report["bytes_per_device"].get("total"), report["hbm_bytes"]
    bound = report.get("bound_step_seconds")
    at_best = f"; a step takes {bound * 1e3:.0f} ms at best" if bound else ""
    if report["fits"]:
        text = f"{report['topology']}: {total / 2**30:.2f} of {capacity / 2**30:.2f} GiB on each device{at_best}"
        return [Finding("aot", OK, text)]
    if total is None and report.get("compile_seconds") is None:
        return [Finding("aot", SKIPPED, f"{report.get('reason', 'the compiler is not installed')}{at_best}")]
    text = f"{report['topology']}: does not fit: {report.get('reason', '')}"
    remedy = (
        "lower config.data.rows, raise config.train.accumulate or config.parallel.fsdp, set config.model.remat=full, "
        "or use more devices; slap aot --find-max reports how many rows fit"
    )
    return [Finding("aot", PROBLEM, text, remedy)]


def check_read_speed(config: ConfigDict, seconds: float, step_seconds: float | None) -> list[Finding]:
    """Reads batches as training does, and compares the speed with that of the fastest possible step.

    Args:
        config: the whole config.
        seconds: how long to read; at least one batch is read after the first.
        step_seconds: lower bound on the duration of a step from `slap aot`; None if unknown.
    """
    tokenizer = load_tokenizer(config.data.tokenizer)
    processes = jax.process_count()
    with contextlib.closing(TrainBatches(config, tokenizer, jax.process_index(), processes)) as batches:
        next(batches)  # starts the readers
        started, columns, read = time.perf_counter(), 0, 0
        while read == 0 or time.perf_counter() - started < seconds:
            columns += int(np.count_nonzero(next(batches).audio_segment_ids))
            read += 1
        elapsed = time.perf_counter() - started
    column_seconds = samples_per_column(config.audio) / config.audio.sample_rate
    speed = columns * column_seconds / elapsed
    text = f"{speed:,.0f} s of audio per second on each host ({read} batches in {elapsed:.1f} s)"
    if step_seconds is None:
        return [Finding("read speed", OK, f"{text}; the speed of the step is unknown without --topology")]
    needed = columns / read * column_seconds / step_seconds
    text = f"{text}; the step uses at most {needed:,.0f}"
    if speed < needed:
        remedy = (
            "raise config.data.workers, config.data.decode_threads or config.data.read_threads, or copy the data to a "
            "faster disk; see docs/data_path.md"
        )
        return [Finding("read speed", PROBLEM, text, remedy)]
    return [Finding("read speed", OK, text)]


def _isolated_environment() -> dict[str, str]:
    """Returns the environment for a process that joins no run and uses no device."""
    prefixes = ("SLAP_", "MEGASCALE_", "TPU_WORKER", "TPU_PROCESS", "JAX_COORDINATOR", "JAX_LOCAL", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
