"""Runs `slap aot` on the bundled configs and their topologies, and measures how compile time grows with depth.

    python benchmarks/ahead_of_time.py --output benchmarks/results/ahead_of_time.json

Each case runs in a separate process and may take minutes. `--only v5p` runs the cases whose name contains "v5p". GPU
cases are compiled only if the CUDA plug-in is installed; otherwise they report what is known without compiling.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

from machine import machine

ROOT = Path(__file__).parents[1]
CONFIGS = (
    ("configs/slap_small.py:remat=full", "v5e:2x4"),
    ("configs/slap_small.py", "h100:4"),
    ("configs/slap_base.py:remat=full", "v5e:4x4"),
    ("configs/slap_base.py", "v5p:2x2x2"),
    ("configs/slap_base.py", "h100:8"),
    ("configs/slap_base_modernbert.py", "v5p:2x2x2"),
    ("configs/slap_base_modernbert.py", "h100:8"),
    ("configs/slap_large.py", "v5p:2x2x4"),
    ("configs/slap_large.py", "h100:4x8"),
)
# For both towers: if the program grew with depth, all of it would grow.
DEPTHS = (12, 24)
DEPTH_CASE = ("configs/slap_small.py:remat=full", "v5e:2x4")


def ahead_of_time(config: str, topology: str, *overrides: str) -> dict[str, Any]:
    """Returns the report of one config on one topology, or the last line of output under the key `error`."""
    command = [sys.executable, "-m", "slap_jax.cli", "aot", "--config", config, "--topology", topology, "--json"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(done.stdout)


def line(name: str, result: dict[str, Any]) -> str:
    """Formats one row of the table."""
    if "error" in result:
        return f"| {name} | {result['error']} |"
    sizes = result["bytes_per_device"]
    total = "?" if sizes["total"] is None else f"{sizes['total'] / 2**30:.1f}"
    fits = {True: "fits", False: "does not fit", None: "not compiled"}[result["fits"]]
    return (
        f"| {name} | {result['rows']} | {fits} | {total} of {result['hbm_bytes'] / 2**30:.1f} | "
        f"{', '.join(sorted(set(result['attention'].values())))} | {result['flops_per_step'] / 1e12:.0f} | "
        f"{result['bound_step_seconds'] * 1e3:.0f} | {result['bound_mfu']:.2f} | {result['bound_by']} | "
        f"{result['compile_seconds'] or '-'} |"
    )


def main() -> None:
    """Runs the cases, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description="Runs slap aot on the bundled configs.")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="run only the cases whose name contains this text")
    options = parser.parse_args()

    cases: dict[str, tuple[str, ...]] = {f"{config} {topology}": (config, topology) for config, topology in CONFIGS}
    for layers in DEPTHS:
        towers = (f"--config.model.{tower}.layers={layers}" for tower in ("audio_encoder", "text_encoder"))
        cases[f"{DEPTH_CASE[0]} with {layers} layers {DEPTH_CASE[1]}"] = (*DEPTH_CASE, *towers)
    columns = (
        "config, topology | rows | | GiB of a device | attention | TFLOP | bound, ms | bound MFU | by | compiled, s"
    )
    print(f"| {columns} |\n|{' --- |' * len(columns.split('|'))}")
    results = {}
    for name, case in cases.items():
        if options.only in name:
            results[name] = ahead_of_time(*case)
            print(line(name, results[name]), flush=True)
    if options.output:
        options.output.write_text(json.dumps({"machine": machine(), "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
