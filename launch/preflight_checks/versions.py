"""Whether the installed packages are those that the project is tested with."""

import importlib.metadata
import platform
import re
import sys
from pathlib import Path

from .finding import OK, PROBLEM, Finding

_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
_PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
_OLDEST_PYTHON = (3, 11)


def check_versions(requirements: Path) -> list[Finding]:
    """Compares what is installed with requirements.txt, and jaxlib and plug-ins with jax."""
    problems = []
    if sys.version_info[:2] < _OLDEST_PYTHON:
        problems.append(f"Python {platform.python_version()} is older than {'.'.join(map(str, _OLDEST_PYTHON))}")
    for line in requirements.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        name, bounds = split_requirement(requirement)
        found = installed(name)
        if found is None:
            problems.append(f"{name} is not installed")
        elif not satisfies(found, bounds):
            problems.append(f"{name} is {found}, tested with {bounds}")
    jax = installed("jax")
    for name in ("jaxlib", *(plugin for plugin in _PLUGINS if plugin != "libtpu")):
        found = installed(name)
        if found is not None and found != jax:
            problems.append(f"{name} is {found}, but jax is {jax}; they are released together")
    shown = [f"{name} {installed(name)}" for name in (*_SHOWN, *_PLUGINS) if installed(name)]
    text = ", ".join([f"Python {platform.python_version()}", *shown])
    if not problems:
        return [Finding("versions", OK, text)]
    remedy = "install the tested versions: pip install --editable '.[tpu]', or '.[cuda12]' for GPUs"
    return [Finding("versions", PROBLEM, problem, remedy) for problem in problems]


def installed(name: str) -> str | None:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def split_requirement(requirement: str) -> tuple[str, str]:
    """Splits "orbax[x]>=1,<2" into the name and its bounds."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*)", requirement)
    assert match is not None, requirement
    return match[1], match[2]


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds like ">=1.2,<2"; only these operators occur in requirements.txt."""
    found = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        match = re.fullmatch(r"\s*(>=|<)\s*([0-9.]+)\s*", bound)
        assert match is not None, f"requirements.txt: cannot read {bound!r}; write >= or <"
        limit = _numbers(match[2])
        length = max(len(found), len(limit))
        have, want = (numbers + (0,) * (length - len(numbers)) for numbers in (found, limit))
        if (match[1] == ">=" and have < want) or (match[1] == "<" and have >= want):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
