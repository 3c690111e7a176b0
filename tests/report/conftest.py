"""A run directory for the tests of the report."""

import shutil

import pytest

from tests.report.run_dir import make_clips, write_run


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A run directory as training writes it; tests copy it."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    write_run(run_dir, make_clips(2))
    return run_dir


@pytest.fixture
def run_dir(written, tmp_path):
    """A copy that the test may change."""
    return shutil.copytree(written, tmp_path / "run")
