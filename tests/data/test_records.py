import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from slap_jax.data.preparation import prepare
from slap_jax.data.records import (
    RecordsError,
    clip_key,
    dataset_directory,
    decode_record,
    encode_record,
    make_record,
    open_split,
    parse_dir_split,
    split_sizes,
)
from tests.data.tiny_data import tiny_dataset, tiny_record, tone


def test_records_are_read_at_random_and_in_order(dataset):
    records = open_split(dataset, "train")
    assert len(records) == 24 and split_sizes(dataset) == {"train": 24, "test": 6}
    assert [record.id for record in records] == [f"clip-{index}" for index in range(24)]
    record = records[17]
    assert record.waveform()[3] == 1_703 and record.source == "tiny" and record.labels == ("parity=1",)
    assert record.duration_s == pytest.approx(len(record.waveform()) / 16_000)
    assert records[-1].id == "clip-23" and [record.id for record in records[1:3]] == ["clip-1", "clip-2"]
    with pytest.raises(IndexError):
        records[24]


def test_splits_can_be_joined(dataset):
    merged = open_split(dataset, "test + train")
    assert merged.split == "test+train"
    assert [merged[0].id, merged[6].id] == ["clip-24", "clip-0"]
    assert len(merged) == 30


def test_tfds_reads_the_same_records(dataset):
    builder = tfds.builder_from_directory(dataset / "slap_clips" / "1.0.0")
    source = builder.as_data_source("train")  # pyright: ignore[reportCallIssue]
    assert source[5]["id"] == b"clip-5" and source[5]["audio"] == open_split(dataset, "train")[5].audio


def test_records_are_the_examples_of_tfds():
    record = make_record("é", tone(0.5), ["a", "b"], regions=((0.0, 0.5, "c"), (0.25, 1.0, "d")), source="tiny")
    data = encode_record(record)
    assert decode_record(data) == record
    example = Example.FromString(data)
    assert example.features.feature["regions/caption"].bytes_list.value == [b"c", b"d"]
    assert example.features.feature["labels"].WhichOneof("kind") == "bytes_list"
    assert example.SerializeToString(deterministic=True) == data


@pytest.fixture
def changed_info(dataset, tmp_path):
    """Returns a function that copies prepared data and changes their `dataset_info.json`."""

    def change(edit):
        directory = shutil.copytree(dataset / "slap_clips" / "1.0.0", tmp_path / "copy", dirs_exist_ok=True)
        info = json.loads((directory / "dataset_info.json").read_text())
        edit(info, directory)
        (directory / "dataset_info.json").write_text(json.dumps(info))
        return directory

    return change


def test_other_names_of_shards(changed_info):
    def rename(info, directory):
        shutil.rmtree(directory / "index")
        for split in info["splits"]:
            split["filepathTemplate"] = "{SPLIT}-{SHARD_INDEX}-of-{NUM_SHARDS}.{FILEFORMAT}"
            (old,) = directory.glob(f"*-{split['name']}.array_record-*")
            old.rename(directory / f"{split['name']}-00000-of-00001.array_record")

    directory = changed_info(rename)
    builder = tfds.builder_from_directory(directory)
    assert split_sizes(directory) == {name: split.num_examples for name, split in builder.info.splits.items()}
    assert open_split(directory, "test")[2].id == "clip-26"


def test_metadata_without_a_template(changed_info):
    directory = changed_info(lambda info, _: [split.pop("filepathTemplate") for split in info["splits"]])
    assert len(open_split(directory, "all")) == 30


def test_other_formats_and_broken_metadata_are_named(changed_info):
    directory = changed_info(lambda info, _: info.update(fileFormat="tfrecord"))
    with pytest.raises(RecordsError, match=r"dataset in tfrecord format; expected array_record: write it with"):
        open_split(directory, "train")
    directory = changed_info(lambda info, _: info["splits"][0].update(shardLengths=["0"]))
    with pytest.raises(RecordsError, match=r"split 'train' of .* has no clips"):
        open_split(directory, "train")
    for content in ("{", "[]", "{}"):
        (directory / "dataset_info.json").write_text(content)
        with pytest.raises(RecordsError, match=r"dataset_info\.json (is not valid JSON|has no 'name')"):
            open_split(directory, "train")


@pytest.mark.parametrize(
    "edit",
    [
        lambda info, _: info["splits"][0].pop("name"),
        lambda info, _: info["splits"][0].update(shardLengths=["many"]),
        lambda info, _: info["splits"][0].update(shardLengths=7),
        lambda info, _: info["splits"][0].update(filepathTemplate="{SHARD}"),
        lambda info, _: info.update(splits={"train": 12}),
        lambda _, directory: (directory / "slap_records.json").write_text("{"),
        lambda _, directory: (directory / "slap_records.json").write_text("[]"),
        lambda _, directory: (directory / "slap_records.json").write_bytes(b"\xe9"),
    ],
)
def test_damaged_descriptions_are_named(changed_info, edit):
    directory = changed_info(edit)
    with pytest.raises(RecordsError, match=r"(dataset_info|slap_records)\.json (does not|is not|has no) .*copy the"):
        open_split(directory, "train")


def test_records_of_another_schema_are_named(changed_info):
    def rewrite(info, directory):
        shutil.rmtree(directory / "index")  # another builder wrote the shards
        (file,) = directory.glob("*-test.array_record-*")
        example = Example()
        example.features.feature["image"].bytes_list.value.append(b"pixels")
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for data in (example.SerializeToString(), b"garbage", *[b""] * 4):
            writer.write(data)
        writer.close()

    records = open_split(changed_info(rewrite), "test")
    with pytest.raises(RecordsError, match=r"record 0 of split 'test' of .* \(it has no id, audio, .*prepare them"):
        records[0]
    with pytest.raises(RecordsError, match=r"record 1 of split 'test' of .* cannot be read \(.*parsing"):
        records[1]


def test_paths_at_any_level(dataset):
    inner = dataset / "slap_clips" / "1.0.0"
    assert dataset_directory(dataset) == dataset_directory(dataset / "slap_clips") == dataset_directory(inner) == inner


def test_errors_say_what_to_do(dataset, tmp_path):
    with pytest.raises(RecordsError, match=r"is empty; expected prepared data: write them with `slap prepare SOURCE "):
        open_split(tmp_path, "train")
    with pytest.raises(RecordsError, match=r"nothing does not exist; expected prepared data: write them with `slap"):
        open_split(tmp_path / "nothing", "train")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_bytes(b"")
    with pytest.raises(RecordsError, match=r"give the OUTPUT of `slap prepare .*/sounds OUTPUT`"):
        open_split(tmp_path / "sounds", "train")
    (tmp_path / "killed" / ".staging" / "slap_clips").mkdir(parents=True)
    with pytest.raises(RecordsError, match=r"holds an unfinished preparation; repeat `slap prepare SOURCE .*/killed`"):
        open_split(tmp_path / "killed", "train")
    with pytest.raises(RecordsError, match=r"a.wav is a file; expected prepared data"):
        open_split(tmp_path / "sounds" / "a.wav", "train")
    with pytest.raises(RecordsError, match=r"no split 'valid'; it has train, test"):
        open_split(dataset, "train+valid")
    prepare.prepare_records({"train": (1, [tiny_record(0, 0.1)])}, tmp_path / "flat", {}, log=lambda line: None)
    with pytest.raises(RecordsError, match=r"no split 'val'; it has train: write .* --split 80/10/10`"):
        open_split(tmp_path / "flat", "val+test")
    with pytest.raises(RecordsError, match="twice"):
        open_split(dataset, "test+test")
    shutil.copytree(dataset / "slap_clips", tmp_path / "a")
    shutil.copytree(dataset / "slap_clips", tmp_path / "b")
    with pytest.raises(RecordsError, match="several datasets"):
        open_split(tmp_path, "train")


def test_fingerprint_follows_the_contents(dataset, tmp_path):
    same = open_split(tiny_dataset(tmp_path / "same"), "train")
    other = open_split(tiny_dataset(tmp_path / "other", name="renamed"), "train")
    fingerprint = open_split(dataset, "train").fingerprint
    assert same.fingerprint == fingerprint
    assert len({fingerprint, other.fingerprint, open_split(dataset, "test").fingerprint}) == 3


def test_record_of_float_samples():
    record = make_record("x", tone(0.5), ["a"], regions=((0.0, 0.1, "b"),))
    assert record.duration_s == 0.5
    np.testing.assert_allclose(record.waveform() / 32_768, tone(0.5), atol=1 / 32_768)


def test_keys_are_stable_int32():
    assert clip_key("tiny", "clip-0") == -1_487_960_306
    keys = {clip_key("a", str(index)) for index in range(2_000)}
    assert len(keys) == 2_000 and min(keys) < 0 < max(keys)
    assert all(-(2**31) <= key < 2**31 for key in keys)
    assert clip_key("a", "b") != clip_key("b", "a")
    assert clip_key("a", "b/c") != clip_key("a/b", "c") != clip_key("a%2Fb", "c")


def test_a_directory_and_a_split_in_one_argument():
    assert parse_dir_split("data/mine:val+test") == ("data/mine", "val+test")
    assert parse_dir_split("data/a:b/mine") == ("data/a:b/mine", "") and parse_dir_split("data") == ("data", "")


@pytest.mark.process
def test_more_shards_than_a_process_may_open_at_first_and_no_tensorflow(tmp_path):
    program = textwrap.dedent("""
        import resource, sys
        from slap_jax.data.preparation import prepare
        from slap_jax.data.records import open_split
        from tests.data.tiny_data import tiny_record
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        prepare.CLIPS_PER_SHARD = 1
        made = {"train": (100, (tiny_record(index, 0.01) for index in range(100)))}
        prepare.prepare_records(made, sys.argv[1], {}, log=lambda line: None)
        assert [record.id for record in open_split(sys.argv[1], "train")] == [f"clip-{n}" for n in range(100)]
        assert "tensorflow" not in sys.modules
    """)
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


@pytest.fixture
def five_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "CLIPS_PER_SHARD", 10)
    made = {"train": (50, (tiny_record(index, 0.01) for index in range(50)))}
    prepare.prepare_records(made, tmp_path, {}, log=lambda line: None)
    files = sorted(tmp_path.glob("*/*/*array_record*"))
    assert len(files) == 5
    return tmp_path, files


def test_a_missing_shard_is_named(five_shards):
    path, files = five_shards
    files[3].unlink()
    with pytest.raises(RecordsError, match=r"00003-of-00005 is missing, one of 5 shards of split 'train'"):
        open_split(path, "train")


def test_a_shard_that_is_cut_off_or_longer_is_noticed(five_shards):
    path, files = five_shards
    size = files[2].stat().st_size
    for changed in (size - 4_096, size + 1):
        with files[2].open("r+b") as file:
            file.truncate(changed)
        with pytest.raises(
            RecordsError, match=r"hold \d+ bytes; \d+ were written: a file is truncated or was replaced"
        ):
            open_split(path, "train")


def test_a_damaged_shard_is_an_error_that_names_the_record(five_shards):
    path, files = five_shards
    files[4].write_bytes(b"?" * files[4].stat().st_size)
    records = open_split(path, "train")
    with pytest.raises(RecordsError, match=r"record 45 of split 'train' of .* cannot be read \(.*prepare them again"):
        records[45]
    assert records[0].id == "clip-0"


def test_all_selects_every_split(tmp_path):
    data = tiny_dataset(tmp_path, count=3, test_count=2)
    records = open_split(data, "all")
    assert sorted(record.id for record in records) == [f"clip-{index}" for index in range(5)]
    assert records.fingerprint == open_split(data, records.split).fingerprint
