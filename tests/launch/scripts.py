"""Starts the launch scripts, with stand-ins for the programs that they call."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
TRAIN = ("train", "--config", "configs/demo.py", "--run-dir", "runs/demo")


def program(path: Path, body: str) -> Path:
    """Writes an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def environment(**variables: str) -> dict[str, str]:
    """A user's environment: none of what the tests themselves are run with."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "HOSTNAME")
    return {name: os.environ[name] for name in kept if name in os.environ} | variables


def launch(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a launch script to its end."""
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=120, check=False
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def variables_of(written: list[str]) -> dict[str, str]:
    """Reads what `env` has written."""
    return {name: value for name, _, value in (line.partition("=") for line in written)}
