import sys

import pytest
import tensorflow_datasets as tfds

from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.tfds_builder import dataset_builder
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


def test_a_published_dataset_is_a_tfds_builder(tmp_path):
    builder = dataset_builder("esc50", publish(tmp_path / "ESC-50"), tmp_path / "data")
    assert isinstance(builder, tfds.core.DatasetBuilder) and builder.info.full_name == f"esc50/{builder.version}"
    assert "ESC-50" in builder.info.description and "esc50.csv" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert builder.info.homepage.startswith("https://") and "Piczak" in builder.info.citation
    assert builder.info.redistribution_info.license.startswith("CC")
    assert not builder.info.splits
    builder.download_and_prepare(workers=1, log=lambda line: None)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "fold1": 2,
        "fold2": 1,
        "fold5": 1,
    }
    source = builder.as_data_source("fold1+fold5")  # pyright: ignore[reportCallIssue]
    assert [example["labels"][0] for example in source] == [b"label=dog"] * 3
    assert "tensorflow" not in sys.modules


def test_prepared_data_is_readable_by_builder_and_by_records(tmp_path):
    folder = publish(tmp_path / "ESC-50")
    dataset_builder("esc50", folder, tmp_path / "data").download_and_prepare(workers=1, log=lambda line: None)
    lines: list[str] = []
    again = dataset_builder("esc50", folder, tmp_path / "data")
    assert again.info.splits["fold1"].num_examples == 2
    again.download_and_prepare(workers=1, log=lines.append)
    assert "already prepared" in lines[0]
    (record,) = open_split(tmp_path / "data" / "esc50", "fold2")
    assert (record.source, record.captions, record.labels[:2]) == ("esc50", (), ("label=dog", "fold=2"))
    result = tfds.builder_from_directory(tmp_path / "data" / "esc50" / str(again.version))
    assert result.info.citation == again.info.citation


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match="unknown dataset 'esc-50'; did you mean 'esc50'"):
        dataset_builder("esc-50", tmp_path, tmp_path / "data")
