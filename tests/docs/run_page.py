"""Runs the Python examples and `slap` commands of a page in order, with a tiny model."""

import re
import shlex
from pathlib import Path
from typing import Any

from slap_jax import cli
from slap_jax.checkpoints.model_dir import export
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer

ROOT = Path(__file__).parents[2]


def run_page(name: str) -> tuple[dict[str, Any], list[str]]:
    """Runs the blocks of `docs/NAME.md` that are marked `python` or `sh`, in the working directory.

    Returns:
        The variables of the Python blocks, which share them, and the commands; each ended with exit code 0.
    """
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    variables: dict[str, Any] = {}
    commands = []
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, f"docs/{name}.md", "exec"), variables)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "slap", f"docs/{name}.md: {line} is no command of slap"
                assert not cli.main(words[1:]), f"docs/{name}.md: {line}"
                commands.append(line)
    return variables, commands


def write_model(root: Path, max_seconds: float = 10.0) -> None:
    """Writes what the pages call `my_model`; recordings of more than 10 s go through windows, of few lengths."""
    config = tiny_config()
    config.data.max_seconds = max_seconds
    tiny_tokenizer(root / "words.model")
    export(tiny_run_params(config), config, root / "words.model", root / "my_model")
