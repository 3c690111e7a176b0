import ast
import re
from pathlib import Path

from slap_jax.data.collections.open_collection import KINDS

ROOT = Path(__file__).parents[2]
READERS = ROOT / "slap_jax" / "data" / "collections"


def reasons_of_source(path: Path) -> set[str]:
    """Returns the texts that are given as the reason of a rejection."""
    position = {"RejectedClip": 0, "Rejection": 2}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in position
        for argument in call.args[position[call.func.id] :][:1]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def test_every_reason_of_the_readers_is_documented():
    page = (ROOT / "docs" / "collections.md").read_text(encoding="utf-8")
    table = page[page.index("## Why a clip is left out") :]
    documented = {
        reason for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for reason in re.findall(r"`(\w+)`", row)
    }
    used = set().union(*(reasons_of_source(path) for path in READERS.glob("*.py")))
    assert "bad_json" in used and "damaged_archive" in used
    assert documented == used


def test_every_kind_is_documented():
    page = (ROOT / "docs" / "collections.md").read_text(encoding="utf-8")
    assert all(f"`{kind}`" in page for kind in KINDS)
