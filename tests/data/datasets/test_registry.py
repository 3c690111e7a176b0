import re
import subprocess
import sys

import pytest

from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.registry import DATASETS, open_dataset

pytestmark = pytest.mark.process


def test_every_dataset_states_its_facts():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert re.fullmatch(r"\d+\.\d+\.\d+", dataset.version), name
        assert dataset.homepage.startswith("https://"), name
        for fact in ("title", "licence", "citation", "content", "annotations", "size_source", "layout", "notes"):
            assert getattr(dataset, fact).strip(), (name, fact)
        for split, expected in dataset.expected.items():
            assert re.fullmatch(r"[A-Za-z]\w*", split) and split != "all", (name, split)
            assert expected.clips > 0, (name, split)
        assert set(dataset.options) == set(dataset.option_help), name


def test_an_empty_folder_is_an_error_that_shows_the_layout(tmp_path):
    for name, dataset in DATASETS.items():
        with pytest.raises(LayoutError, match=re.escape(dataset.layout)):
            list(open_dataset(name, tmp_path).entries())


def test_an_unknown_name_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(LayoutError, match="unknown dataset 'Urbansound8k'; did you mean 'urbansound8k'"):
        open_dataset("Urbansound8k", tmp_path)
    with pytest.raises(LayoutError, match="unknown dataset 'qqq'; known datasets: audiocaps, audiocaps2"):
        open_dataset("qqq", tmp_path)


def test_an_unknown_option_is_an_error_that_lists_the_options(tmp_path):
    for name, dataset in DATASETS.items():
        known = ", ".join(f"{option}={default}" for option, default in dataset.options.items()) or "none"
        with pytest.raises(LayoutError, match=re.escape(f"{name} has no option 'splitz'; known options: {known}")):
            open_dataset(name, tmp_path, splitz="x")


def test_importing_the_registry_loads_no_reader_of_records():
    program = (
        "import slap_jax.data.datasets.registry, sys; "
        "print([name for name in ('tensorflow_datasets', 'yaml', 'grain', 'jax') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
