"""The notebook runs from top to bottom."""

import os

import nbclient
import nbformat
import pytest

from slap_jax.checkpoints.model_dir import export
from tests.docs.run_page import ROOT
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer


@pytest.mark.compile
@pytest.mark.process
def test_the_notebook_runs(tmp_path, monkeypatch):
    config = tiny_config()
    tiny_tokenizer(tmp_path / "words.model")
    export(tiny_run_params(config), config, tmp_path / "words.model", tmp_path / "runs/demo/export")
    (tmp_path / "demo_data/audio").mkdir(parents=True)
    for folder in ("fluid-soundfont-gm", "hydrogen-drumkits", "sonic-pi-samples"):
        (tmp_path / "demo_data/audio" / folder).symlink_to(ROOT / "demo_data/audio" / folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert printed.count(".ogg: ") == 4 and printed.count(" s  ") == 5
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in output["data"] for output in pictures) == 2
    assert (ROOT / "docs/tour.ipynb").stat().st_size < 200_000


def test_the_notebook_shows_what_it_printed():
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
