"""The documentation as a site: one list of public modules, and one order of the pages."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import griffe
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def file_of(module: str) -> Path:
    """Returns the source file of a module or package."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def documented_modules() -> set[str]:
    """Returns the modules of the API reference, with those that a documented package re-exports from."""
    modules = set()
    for page in (ROOT / "docs/reference").glob("*.md"):
        modules |= set(re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    for package in [module for module in modules if file_of(module).name == "__init__.py"]:
        nodes = ast.walk(ast.parse(file_of(package).read_text(encoding="utf-8")))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        modules |= {module for module in imported if module.startswith("slap_jax.")}
    return modules


def test_one_list_of_public_modules():
    listing = re.search(r"```public\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert listing, "CONTRIBUTING.md has no ```public block"
    public = listing[1].split()
    assert public == sorted(set(public))
    assert set(public) == documented_modules()

    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    (held,) = (pattern for pattern, ignored in ruff["per-file-ignores"].items() if "D" in ignored)
    files = [file_of(module).relative_to(ROOT / "slap_jax").with_suffix("").as_posix() for module in public]
    assert held == "!slap_jax/{" + ",".join(files) + "}.py"


@pytest.mark.process  # griffe asks git about the repository
def test_descriptions_of_return_values_are_not_taken_for_types():
    # "Returns:\n    A pair: one of each." documents the type "A pair", which the site shows in place of the annotation.
    package = griffe.load("slap_jax", search_paths=[ROOT])
    objects = [package[name.removeprefix("slap_jax.")] for name in documented_modules() - {"slap_jax"}]
    wrong = []
    while objects:
        documented = objects.pop()
        objects += [member for member in documented.members.values() if not member.is_alias and not member.is_module]
        if isinstance(documented, griffe.Function) and documented.docstring and not documented.is_private:
            sections = documented.docstring.parse(
                "google", returns_multiple_items=False, returns_named_value=False, warnings=False
            )
            for section in sections:
                if isinstance(section, griffe.DocstringSectionReturns):
                    (value,) = section.value
                    if str(value.annotation) != str(documented.returns):
                        wrong.append((documented.path, value.annotation))
    assert wrong == []


def test_index_lists_the_pages_in_the_order_of_the_navigation():
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml without the Python objects that it names."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for child in (entry.values() if isinstance(entry, dict) else entry) for page in pages(child)]

    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = re.findall(r"^- \[[^]]+\]\(([^)]+)\): ", index, re.MULTILINE)
    assert ["index.md", *(page.removeprefix("../") for page in linked)] == pages(nav)
