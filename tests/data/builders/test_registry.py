import re
from pathlib import Path

import pytest

from slap_jax.data.builders.published import LayoutError
from slap_jax.data.builders.registry import DATASETS, open_dataset

PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"


def section(name):
    found = re.search(rf"^## `{name}`.*?(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"docs/datasets.md has no section {name}"
    return found.group()


def test_all_promised_data_sets_are_known():
    assert {
        *("audiocaps", "clotho", "wavcaps", "macs", "tacos", "audioset", "fsd50k", "vggsound", "esc50"),
        *("urbansound8k", "gtzan", "nsynth", "speech_commands", "crema_d", "ravdess"),
    } <= set(DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_facts_of_a_data_set(name):
    dataset = DATASETS[name]
    assert dataset.name == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", dataset.version)
    assert dataset.homepage.startswith("https://")
    for fact in (dataset.title, dataset.licence, dataset.citation, dataset.layout):
        assert fact.strip()
    for split, expected in dataset.expected.items():
        assert re.fullmatch(r"[A-Za-z]\w*", split) and split != "all"
        assert expected.clips > 0


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_data_set_is_documented_as_it_is(name):
    dataset, text = DATASETS[name], section(name)
    assert dataset.homepage in text
    for line in dataset.layout.splitlines():
        assert line in text
    for split, expected in dataset.expected.items():
        assert re.search(rf"\b{split}\b", text), f"split {split}"
        assert f"{expected.clips:,}" in text, f"{expected.clips:,} clips of {split}"
    for option, default in dataset.options.items():
        assert f"`{option}`" in text and str(default) in text, f"option {option}"


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_empty_folder_is_an_error_with_the_layout(name, tmp_path):
    dataset = DATASETS[name]
    with pytest.raises(LayoutError, match=re.escape(dataset.layout)):
        list(open_dataset(name, tmp_path).entries())


def test_a_misspelled_name_is_understood(tmp_path):
    with pytest.raises(LayoutError, match="no data set 'Urbansound8k'; did you mean 'urbansound8k'"):
        open_dataset("Urbansound8k", tmp_path)
    with pytest.raises(LayoutError, match="no data set 'qqq'; known are audiocaps, audiocaps2"):
        open_dataset("qqq", tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_unknown_option_names_the_known_ones(name, tmp_path):
    known = ", ".join(f"{option}={default}" for option, default in DATASETS[name].options.items()) or "none"
    with pytest.raises(LayoutError, match=re.escape(f"{name} has no option 'splitz'; it has: {known}")):
        open_dataset(name, tmp_path, splitz="x")
