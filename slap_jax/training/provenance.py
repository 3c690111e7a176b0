"""Where a run comes from: `RUN_DIR/provenance.json` has one entry for every start of the training script.

It answers what a reader of the results asks later: which code, which command, which versions, which hardware, when.
`docs/observability.md` documents the fields. A host name is not among them, because run directories are published.
"""

import datetime
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.run import versions

FILE_NAME = "provenance.json"

_PACKAGE = Path(__file__).parents[1]
_GIT_SECONDS = 20.0  # on a slow network file system; training must not wait for long


class Provenance:
    """The starts of a run; the last entry is this process's."""

    def __init__(self, run_dir: str | os.PathLike[str], seed: int, restored_step: int, enabled: bool = True):
        """Appends the start of this process to the file.

        Args:
            run_dir: an existing run directory.
            seed: `config.seed`.
            restored_step: finished steps of the checkpoint that the run resumes from, 0 for a new run.
            enabled: False in all processes but the first, which write nothing.
        """
        self._path, self._enabled = Path(run_dir) / FILE_NAME, enabled
        if not enabled:
            return
        start = {
            "started": _now(),
            "ended": None,
            "outcome": None,
            "first_step": restored_step,
            "last_step": None,
            "command": command_line(sys.orig_argv, sys.argv),
            "code": code_version(_PACKAGE),
            "seed": seed,
            "versions": versions(),
            "platform": jax.default_backend(),
            "devices": dict(Counter(device.device_kind for device in jax.devices())),
            "processes": jax.process_count(),
            "machine": machine(),
        }
        self._starts = [*read_provenance(run_dir), start]
        self._write()

    def finish(self, step: int, outcome: str) -> None:
        """Records how this process ended; without this call the entry is that of a process that was killed or failed.

        Args:
            step: finished steps.
            outcome: "finished", "stopped early" (patience ran out) or "interrupted" (a signal).
        """
        if self._enabled:
            self._starts[-1] |= {"ended": _now(), "outcome": outcome, "last_step": step}
            self._write()

    def _write(self) -> None:
        write_text_atomic(self._path, json.dumps({"starts": self._starts}, indent=2) + "\n")


def read_provenance(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the starts of a run, oldest first; none if there is no file, or a damaged one."""
    path = Path(run_dir) / FILE_NAME
    if not path.is_file():
        return []
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        if isinstance(starts, list) and all(isinstance(start, dict) for start in starts):
            return starts
        reason = "it does not list the starts of a run"
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    logging.warning("%s cannot be read (%s); earlier starts of the run are not shown", path, reason)
    return []


def command_line(original: Sequence[str], arguments: Sequence[str]) -> str:
    """Returns the command of this process as one would type it.

    Args:
        original: `sys.orig_argv`, which has the interpreter and its options.
        arguments: `sys.argv`.
    """
    name = Path(arguments[0]).name if arguments and arguments[0] else ""
    if "-m" in original[: len(original) - len(arguments) + 1]:
        module = original[original.index("-m") + 1]
        program = ["slap"] if module == "slap_jax.cli" else ["python", "-m", module]
    else:
        is_program = name and not name.startswith("-") and not name.endswith(".py")
        program = [name] if is_program else ["python", *([name] if name else [])]
    return shlex.join([*program, *arguments[1:]])


def code_version(folder: Path) -> dict[str, Any] | None:
    """Returns `commit` and whether tracked files were `modified`; None if the folder is not in a git checkout.

    Args:
        folder: folder of the package. A package installed below another repository is not part of it.
    """
    try:
        if not _git(folder, "ls-files", "--error-unmatch", "__init__.py"):
            return None
        commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one of another user
        return None
    return {"commit": commit, "modified": bool(changes)}


def machine() -> dict[str, Any]:
    """Returns `system`, `architecture`, `processor` and `cores` of this host, without its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    return run.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
