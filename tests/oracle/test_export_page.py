"""Runs the examples of docs/export.md and docs/adapters.md that need PyTorch."""

import re

import pytest

from slap_jax.checkpoints.model_dir import export
from slap_jax.cli import main
from tests.docs.run_page import ROOT
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with the export that the pages call my_model."""
    directory = tmp_path_factory.mktemp("page")
    config = tiny_config()
    tokenizer = tiny_tokenizer(directory / "words.model")
    export(tiny_run_params(config), config, tokenizer.path, directory / "my_model")
    return directory


@pytest.mark.parametrize("name", ["export", "adapters"])
def test_examples(directory, name, monkeypatch):
    monkeypatch.chdir(directory)
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    formats = re.findall(r"^slap (export my_model --format \w+)", page, re.M)
    assert (len(formats) == 4) == (name == "export")
    for command in formats:
        assert main(command.split()) == 0 or "stablehlo" in command
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        variables = {}
        exec(compile(block, f"docs/{name}.md", "exec"), variables)
        for vectors in ("audio", "vectors", "scenes"):
            if vectors in variables and name == "export":
                assert tuple(variables[vectors].shape) == (2, 16)
