"""Checks everything that a run needs before it starts, and says what to fix.

    launch/gpu_single.sh -- preflight --config configs/slap_base.py:data=DATA --run-dir RUN --topology h100:8
    python launch/preflight.py --config configs/slap_base.py:data=DATA --run-dir RUN --topology v5e:4x4

The checks cover versions, devices, the network between them, data, the run directory, whether the step fits into
memory, and whether the data pipeline is fast enough. All checks run, even after a problem. The exit code is 1 if any
host has a problem. Start it like training, on every host.
"""

import argparse
import dataclasses
import json
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from preflight_checks.finding import OK, PROBLEM, SKIPPED, Finding, attempt, merge, table
from preflight_checks.machines import check_all_reduce, check_devices
from preflight_checks.pace import check_aot, check_read_speed
from preflight_checks.storage import check_data, check_run_dir, check_space
from preflight_checks.versions import check_versions

from slap_jax.config.files import read_config
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.parallel import distributed
from slap_jax.parallel.distributed import allgather_text, require_consistency, run_facts
from slap_jax.parallel.sharding import create_mesh

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT = 3_600.0  # seconds that the other processes wait for the one that compiles ahead of time
_UNKNOWN = "this is a bug or a broken installation; see the message above"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks; every process of the run must call it.

    Returns:
        0, or 1 if any process found a problem.
    """
    options, overrides = _parser().parse_known_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.WARNING)
    findings = attempt("versions", lambda: check_versions(ROOT / "requirements.txt"), _UNKNOWN)
    config = _read(options.config, overrides, findings)
    distributed.initialize(config.distributed if config else None)
    if not all(json.loads(text) for text in share("preflight config was read", json.dumps(config is not None))):
        config = None  # one host would skip checks in which the others wait for it
    findings += attempt("devices", lambda: check_devices(config), _UNKNOWN)
    findings += attempt("all-reduce", lambda: check_all_reduce(_mesh(config)), _UNKNOWN)
    findings += attempt("run directory", lambda: check_run_dir(options.run_dir, share), _UNKNOWN)
    if config is not None:
        findings += _with_config(config, options, overrides)
    shared = share("preflight findings", json.dumps([socket.gethostname(), *map(dataclasses.asdict, findings)]))
    hosts, by_process = _decode(shared)
    merged = merge(by_process, hosts)
    problems = sum(finding.status == PROBLEM for finding in merged)
    if jax.process_index() == 0:
        if options.json:
            print(json.dumps({"problems": problems, "checks": [dataclasses.asdict(finding) for finding in merged]}))
        else:
            print(table(merged))
            print(f"{problems} problem{'s' if problems != 1 else ''}" if problems else "ready to train", flush=True)
    return 1 if problems else 0


def share(name: str, text: str) -> list[str]:
    """Shares a text with the other processes and returns the texts of all of them; see `allgather_text`."""
    return [text] if jax.process_count() == 1 else allgather_text(name, text, _TIMEOUT)


def _with_config(config: ConfigDict, options: argparse.Namespace, overrides: list[str]) -> list[Finding]:
    findings = attempt(
        "same config",
        lambda: _agree(config),
        "start all hosts with the same checkout, config file and overrides",
    )
    data = check_data(config)
    findings += data
    findings += attempt("disk space", lambda: check_space(config, options.run_dir), _UNKNOWN)
    bound: float | None = None
    if options.skip_aot or not options.topology:
        why = "--skip-aot" if options.skip_aot else "--topology is not given, such as v5e:4x4 or h100:8"
        findings.append(Finding("aot", SKIPPED, why))
    elif jax.process_index() == 0:
        reports: list[dict[str, Any]] = []

        def compile_ahead() -> list[Finding]:
            result, report = check_aot(options.config, overrides, options.topology)
            reports.append(report)
            return result

        findings += attempt("aot", compile_ahead, "write a topology that exists, or --skip-aot")
        bound = reports[0].get("bound_step_seconds") if reports else None
    bound = json.loads(share("preflight bound", json.dumps(bound))[0])
    if options.read_seconds == 0 or any(finding.status == PROBLEM for finding in data):
        why = "--read-seconds 0" if options.read_seconds == 0 else "the data cannot be read; see above"
        return [*findings, Finding("read speed", SKIPPED, why)]
    remedy = "see the message; slap data check SOURCE --decode N decodes N clips of the source of the data"
    return findings + attempt("read speed", lambda: check_read_speed(config, options.read_seconds, bound), remedy)


def _read(path: str, overrides: list[str], findings: list[Finding]) -> ConfigDict | None:
    try:
        config = read_config(path, overrides)
        validate(config)
    except ConfigError as error:
        findings.append(Finding("config", PROBLEM, str(error), "correct the config"))
        return None
    findings.append(Finding("config", OK, path))
    return config


def _agree(config: ConfigDict) -> list[Finding]:
    if jax.process_count() == 1:
        return [Finding("same config", SKIPPED, "there is one process")]
    require_consistency("preflight config", run_facts(config), _TIMEOUT)
    return [Finding("same config", OK, f"all {jax.process_count()} processes have the same config and versions")]


def _mesh(config: ConfigDict | None):
    everything = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    try:
        return create_mesh(config.parallel if config else everything)
    except ConfigError:  # the check of the mesh reports it
        return create_mesh(everything)


def _decode(texts: list[str]) -> tuple[list[str], list[list[Finding]]]:
    decoded = [json.loads(text) for text in texts]
    return [host for host, *_ in decoded], [[Finding(**fields) for fields in findings] for _, *findings in decoded]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preflight",
        usage="preflight --config FILE.py[:ARG] --run-dir DIR [--topology T] [--json] [--config.NAME.NAME=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE.py[:ARG]", help="that of the training command")
    add("--run-dir", required=True, metavar="DIR", help="that of the training command")
    add("--topology", default="", metavar="T", help="compile the step for these devices: v5e:4x4, h100:8; see slap aot")
    add("--skip-aot", action="store_true", help="do not compile the step ahead of time")
    add(
        "--read-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="how long to read data as training does; 0: skip (10)",
    )
    add("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
