import ast
import re
from pathlib import Path

from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config, source

ROOT = Path(__file__).parents[2]


def leaves(config: ConfigDict, prefix: str = "") -> dict:
    result = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict) and len(value):
            result |= leaves(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = {} if isinstance(value, ConfigDict) else value
    return result


def documented(prefix: str = "") -> dict:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{prefix}([a-z_0-9.]+)` \| `([^`]*)` \|", text, flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {name: ast.literal_eval(value) for name, value in rows}


def test_every_setting_is_documented_with_its_default():
    assert documented() == leaves(default_config())
    assert documented("NAME.") == leaves(source("", ""))


def test_local_links_of_the_documentation_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            # The figures of the demo come from a real run and are copied there.
            if not target.startswith(("http", "docs/images/")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
