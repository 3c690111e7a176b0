"""Runs an ablation: every variant with every seed, each in a process of its own; what is finished is not run again."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slap_jax.ablations.one_run import AblationError, run_settings
from slap_jax.ablations.table import Outcome, markdown, put_into
from slap_jax.config_file import read_config


def variant_argument(config: str, variant: str, seed: int) -> str:
    """The config file's argument for one run: `FILE.py:data=D` becomes `FILE.py:data=D,variant=V,seed=S`."""
    return f"{config}{',' if ':' in config else ':'}variant={variant},seed={seed}"


def run_all(
    config: str,
    run_dir: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    start: Callable[[Sequence[str]], int] | None = None,
) -> list[Outcome]:
    """Runs what is not finished, seed by seed, so that every seed's variants can be compared as early as possible.

    Args:
        config: config file that takes `variant` and `seed`, with its other arguments.
        run_dir: for `results/VARIANT-seedN.json` and the run directories.
        variants: names of which the first is the baseline.
        seeds: of parameters and data order.
        overrides: `--config.a.b=value`, for all runs.
        start: starts a `slap` command and returns its exit code; a process by default.

    Returns:
        The outcomes of all runs, finished before or now.

    Raises:
        AblationError: a run failed, or a result in the folder is of other settings.
        ConfigError: the config file does not take the arguments.
    """
    start = start or _process
    for seed in seeds:
        for variant in variants:
            argument = variant_argument(config, variant, seed)
            settings = run_settings(read_config(argument, overrides))
            output = result_file(run_dir, variant, seed)
            if output.is_file():
                _require_same(output, settings)
                continue
            logging.info("%s, seed %d", variant, seed)
            command = ["ablations", "--config", argument, "--run-dir", str(run_dir)]
            code = start([*command, "--only", f"{variant}:{seed}", *overrides])
            if code:
                raise AblationError(
                    f"the run of {variant} with seed {seed} ended with exit code {code}; its lines are above, and the "
                    "same command goes on from there"
                )
    return read_outcomes(run_dir, variants, seeds)


def result_file(run_dir: Path, variant: str, seed: int) -> Path:
    """Where a run writes its outcome."""
    return run_dir / "results" / f"{variant}-seed{seed}.json"


def read_outcomes(run_dir: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[Outcome]:
    """Reads the finished ones of these runs."""
    files = [result_file(run_dir, variant, seed) for variant in variants for seed in seeds]
    return [Outcome.read(file) for file in files if file.is_file()]


def write_table(run_dir: Path, variants: Sequence[str], seeds: Sequence[int], command: str, output: Path) -> None:
    """Puts the table of the finished runs into a Markdown page, which keeps what else stands there.

    Raises:
        AblationError: no run is finished, or they are of different evaluation sets.
    """
    outcomes = read_outcomes(run_dir, variants, seeds)
    put_into(output, markdown(outcomes, variants, seeds, command))


def _require_same(file: Path, settings: dict[str, Any]) -> None:
    """Raises if a finished run had another value of a setting; one that did not exist then is not compared."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["settings"]
    for name, value in found.items():
        if settings.get(name, value) != value:
            raise AblationError(
                f"{file} is of a run with {name}={value!r}, now it is {settings[name]!r}; give another --run-dir, or "
                "delete that file and the run directory beside it"
            )


def _process(arguments: Sequence[str]) -> int:
    """Runs `slap` in a process, so that each run begins with all memory."""
    return subprocess.run([sys.executable, "-m", "slap_jax.cli", *arguments], check=False).returncode
