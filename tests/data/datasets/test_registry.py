import re
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.registry import DATASETS, dataset_builder, open_dataset
from slap_jax.data.records import open_split
from tests.data.datasets.publisher_files import write_csv, write_wav

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


def publish(root):
    clips = [(f"{fold}-{fold}-A-0.wav", fold, 0, "dog", True, fold, "A") for fold in (1, 1, 2, 5)]
    clips = [(name.replace("-A-", f"-{take}-"), *rest) for take, (name, *rest) in zip("ABCD", clips, strict=True)]
    write_csv(root / "meta/esc50.csv", [COLUMNS, *clips])
    for name, *_ in clips:
        write_wav(root / "audio" / name)
    return root


def test_a_named_data_set_is_a_tfds_builder(tmp_path):
    builder = dataset_builder("esc50", publish(tmp_path / "ESC-50"), tmp_path / "data")
    assert isinstance(builder, tfds.core.DatasetBuilder) and builder.info.full_name == f"esc50/{builder.version}"
    assert "ESC-50" in builder.info.description and "esc50.csv" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert builder.info.homepage.startswith("https://") and "Piczak" in builder.info.citation
    assert builder.info.redistribution_info.license.startswith("CC")
    assert not builder.info.splits
    builder.download_and_prepare(log=lambda line: None)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "fold1": 2,
        "fold2": 1,
        "fold5": 1,
    }
    source = builder.as_data_source("fold1+fold5")  # pyright: ignore[reportCallIssue]
    assert [example["labels"][0] for example in source] == [b"label=dog"] * 3
    assert "tensorflow" not in sys.modules


def test_what_it_prepared_is_found_by_builder_and_by_records(tmp_path):
    folder = publish(tmp_path / "ESC-50")
    dataset_builder("esc50", folder, tmp_path / "data").download_and_prepare(log=lambda line: None)
    lines: list[str] = []
    again = dataset_builder("esc50", folder, tmp_path / "data")
    assert again.info.splits["fold1"].num_examples == 2
    again.download_and_prepare(log=lines.append)
    assert "already prepared" in lines[0]
    (record,) = open_split(tmp_path / "data" / "esc50", "fold2")
    assert (record.source, record.captions, record.labels[:2]) == ("esc50", (), ("label=dog", "fold=2"))
    found = tfds.builder_from_directory(tmp_path / "data" / "esc50" / str(again.version))
    assert found.info.citation == again.info.citation


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="did you mean 'esc50'"):
        dataset_builder("esc-50", tmp_path, tmp_path / "data")


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
