"""Rooms import each other in one direction, in the order of CONTRIBUTING.md; lazy imports count."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `import slap_jax` is instant: the facade imports the models on first access.
FACADE = "slap_jax/__init__.py"
LOOSE = {"__init__", "atomic", "batch", "errors", "params", "train"}


def rooms_in_order() -> list[str]:
    """Returns the rooms as CONTRIBUTING.md lists them, from the ground up."""
    listing = re.search(r"```rooms\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert listing, "CONTRIBUTING.md has no ```rooms block"
    return [line.split()[0] for line in listing[1].splitlines()]


def room(path: str) -> str:
    """Returns the folder of a file, or the name of a file that is in none."""
    folder, _, name = path.removeprefix("slap_jax/").rpartition("/")
    return folder or name.removesuffix(".py")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Returns the files of the package that each of its files imports."""
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "slap_jax").rglob("*.py")}
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in files}
    result: dict[str, set[str]] = {file: set() for file in files}
    for file, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in modules else node.module for name in names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            result[file] |= {modules[name] for name in names if name in modules} - {file}
    assert sum(map(len, result.values())) > 300
    return result


def test_rooms_import_only_rooms_above_them(imports):
    order = {name: number for number, name in enumerate(rooms_in_order())}
    assert {room(file) for file in imports} == set(order)
    wrong = [
        (file, imported)
        for file, below in imports.items()
        for imported in below
        if order[room(imported)] > order[room(file)] and file != FACADE
    ]
    assert wrong == []


def test_files_do_not_import_each_other_in_a_circle(imports):
    graph = {file: {other for other in below if file != FACADE} for file, below in imports.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_few_files_are_in_no_room(imports):
    assert {room(file) for file in imports if file.count("/") == 1} == LOOSE


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "more"), [("slap_jax.train", ()), ("slap_jax.data.batches.workers", ("flax", "optax"))]
)
def test_training_and_its_data_workers_load_only_used_modules(module, more):
    """Every process of a run pays for an import at every start."""
    heavy = (
        "av",
        "datasets",
        "lancedb",
        "matplotlib",
        "numba",
        "pyarrow",
        "scipy",
        "sklearn",
        "tensorboardX",
        "tensorflow",
    )
    heavy = (*heavy, "tensorflow_datasets", "torch", *more)
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "[]\n"
