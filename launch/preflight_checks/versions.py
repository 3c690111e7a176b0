"""Whether the installed packages are those that the project is tested with."""

import importlib.metadata
import platform
import sys
from pathlib import Path

from packaging.requirements import Requirement

from .finding import OK, PROBLEM, Finding

_OLDEST_PYTHON = (3, 11)
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
_RELEASED_WITH_JAX = ("jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin")
_PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")


def check_versions(requirements: Path) -> list[Finding]:
    """Compares the installed packages with requirements.txt, and jaxlib and the plug-ins with jax."""
    problems = []
    if sys.version_info[:2] < _OLDEST_PYTHON:
        problems.append(f"Python {platform.python_version()} is older than {'.'.join(map(str, _OLDEST_PYTHON))}")
    for requirement in read_requirements(requirements):
        version = installed(requirement.name)
        if version is None:
            problems.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, but {requirement.specifier} is tested")
    jax = installed("jax")
    for name in _RELEASED_WITH_JAX:
        version = installed(name)
        if version is not None and version != jax:
            problems.append(f"{name} is {version}, but jax is {jax}; they are released together")
    if problems:
        remedy = "install the tested versions: pip install --editable '.[tpu]', or '.[cuda12]' for GPUs"
        return [Finding("versions", PROBLEM, problem, remedy) for problem in problems]
    shown = [f"{name} {installed(name)}" for name in (*_SHOWN, *_PLUGINS) if installed(name)]
    return [Finding("versions", OK, ", ".join([f"Python {platform.python_version()}", *shown]))]


def read_requirements(file: Path) -> list[Requirement]:
    """Reads a requirements.txt of names, extras and bounds."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def installed(name: str) -> str | None:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
