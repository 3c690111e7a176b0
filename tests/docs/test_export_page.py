"""Runs the commands of docs/export.md that need no PyTorch, and compares its tables with the code."""

import json
import re

import numpy as np
import pytest

from slap_jax.doctor.findings import CHECKS
from slap_jax.export.formats import FORMATS
from tests.docs.run_page import ROOT, run_page
from tests.inference.tiny import tiny_config, tiny_tokenizer, write_run

pytestmark = pytest.mark.compile

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The working directory, and the variables of the page's Python blocks."""
    root = tmp_path_factory.mktemp("page")
    config = tiny_config()
    config.data.tokenizer = str(tiny_tokenizer(root / "words.model").path)
    write_run(root / "runs/demo", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        variables, commands = run_page("export")
    return root, variables, commands


def test_the_commands_and_examples_work(page):
    root, variables, commands = page
    assert len(commands) == 6
    vectors = np.asarray(variables["vectors"])
    assert vectors.shape == (2, 16) and np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert (root / "my_model/slap_torch.py").is_file()
    assert set(json.loads((root / "my_model/stablehlo/programs.json").read_text())["programs"]) == {
        path.stem for path in (root / "my_model/stablehlo").glob("*.stablehlo")
    }


def test_the_export_holds_the_files_of_the_table(page):
    table = PAGE[PAGE.index("| file | holds |") :].split("\n\n")[0]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`([\w.]+)`", cell)}
    assert {path.name for path in (page[0] / "runs/demo/export").iterdir()} == named - {"tokenizer.json"}


def test_every_format_and_every_finding_is_documented():
    table = PAGE[PAGE.index("| `--format` |") :].split("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.M)) == FORMATS
    source = (ROOT / "slap_jax/doctor/findings.py").read_text()
    made = set(re.findall(r'"((?:[a-z]+_)+[a-z]+|vocabulary)",\n', source)) - {"mean_cosine_of_sounds"}
    documented = {name for row in re.findall(r"^\| (`\w+`.*?) \|", PAGE, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert len(CHECKS) == 6 and {"scale_out_of_range", "vocabulary", "front_end_mismatch"} <= made <= documented
