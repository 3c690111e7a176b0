import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from slap_jax.data.audio import decode_audio, to_int16
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.manifest import Manifest
from slap_jax.data.preparation import dataset_writer
from slap_jax.data.preparation import shards as shard
from slap_jax.data.preparation.acceptance import rejection_limit
from slap_jax.data.preparation.dataset_writer import DatasetIdentity
from slap_jax.data.preparation.plan import REJECTED
from slap_jax.data.preparation.prepare import PrepareError, prepare, prepare_records
from slap_jax.data.preparation.splits import SplitError
from slap_jax.data.preparation.staging import Staging, StagingError
from slap_jax.data.records import open_split, split_sizes
from tests.data.tiny_data import encoded, tiny_record, tone, write_manifest, write_tone


def manifest_of(folder: Path, good: int = 6, bad: int = 0) -> Path:
    """Writes `good` tones and `bad` text files named .wav, every third of them for the split `test`."""
    lines = []
    for index in range(good + bad):
        name = f"{index}.wav"
        if index < good:
            write_tone(folder / name, 0.1 + 0.01 * index, frequency=200.0 + 10 * index, rate=22_050)
        else:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text("this is text")
        split = "test" if index % 3 == 2 else "train"
        lines.append({"path": name, "captions": [f"tone {index}", "a tone"], "split": split, "licence": "CC0"})
    return write_manifest(folder, lines)


def quiet(*arguments, workers: int = 1, **settings):
    return prepare(*arguments, workers=workers, log=lambda line: None, **settings)


def rejected(output: Path) -> list[dict]:
    """Reads the rejections of the refused attempt if there is one, else of the dataset."""
    refused = sorted((output / ".staging").rglob(REJECTED), key=lambda file: len(file.parts))
    (file,) = refused[:1] or output.glob(f"*/*/{REJECTED}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def shard_files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.rglob("*.array_record-*"))}


def test_records_hold_the_audio_and_the_fields_of_the_manifest(tmp_path):
    manifest = manifest_of(tmp_path / "in")
    prepared = quiet(manifest, tmp_path / "out", name="lab")
    assert prepared.clips == {"train": 4, "test": 2} == split_sizes(tmp_path / "out")
    assert not prepared.rejected and rejected(tmp_path / "out") == [] and not prepared.reused
    records = open_split(tmp_path / "out", "train")
    assert [record.id for record in records] == ["0.wav", "1.wav", "3.wav", "4.wav"]
    record = records[2]
    assert (record.captions, record.source, record.licence) == (("tone 3", "a tone"), "lab", "CC0")
    np.testing.assert_array_equal(record.waveform(), to_int16(decode_audio(tmp_path / "in/3.wav")))


@pytest.mark.process
def test_output_does_not_depend_on_workers(tmp_path):
    manifest = manifest_of(tmp_path / "in", good=9, bad=2)
    quiet(manifest, tmp_path / "one", workers=1)
    quiet(manifest, tmp_path / "five", workers=5)  # two processes of three threads
    assert shard_files(tmp_path / "one") == shard_files(tmp_path / "five")
    assert rejected(tmp_path / "one") == rejected(tmp_path / "five")


def test_second_call_writes_nothing_and_a_change_is_noticed(tmp_path, monkeypatch):
    manifest, output = manifest_of(tmp_path / "in"), tmp_path / "out"
    quiet(manifest, output)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert quiet(manifest, output).reused
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    write_tone(tmp_path / "in" / "0.wav", 0.3)
    assert not quiet(manifest, output).reused
    assert open_split(output, "train")[0].duration_s == pytest.approx(0.3)
    assert [path.name for path in output.iterdir()] == ["slap_clips"]


def test_every_bad_file_is_listed_with_its_reason_and_the_rest_is_written(tmp_path):
    folder = tmp_path / "in"
    nan = tone(0.1)
    nan[5] = np.nan
    files = {
        "good.wav": encoded(tone(0.2)),
        "one_sample.wav": encoded(tone(1 / 16_000)),
        "eight_bit.wav": encoded(tone(0.2), subtype="PCM_U8"),
        "twenty_four_bit.wav": encoded(tone(0.2), subtype="PCM_24"),
        "fast_stereo.wav": encoded(np.stack([tone(0.2, rate=96_000)] * 2, axis=1), 96_000),
        "ten_minutes.wav": encoded(np.zeros(600 * 8_000, np.int16), 8_000),
        "empty.wav": b"",
        "text.wav": b"hello " * 99,
        "truncated.wav": encoded(tone(1.0))[:9_000],
        "nan.wav": encoded(nan, subtype="FLOAT"),
        "shorter.ogg": encoded(tone(1.0), container="OGG", subtype="VORBIS"),
    }
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines = [
        {"path": name, "caption": name, **({"duration_s": 9.0} if name == "shorter.ogg" else {})} for name in files
    ]
    bad_lines = [{"path": "none.wav", "caption": "x"}, {"path": "good.wav", "id": "bare"}, "{"]
    manifest = write_manifest(folder, [*lines, *bad_lines])
    lines_logged: list[str] = []
    prepared = prepare(manifest, tmp_path / "out", workers=1, max_rejected=8, log=lines_logged.append)
    assert {item["id"]: item["reason"] for item in rejected(tmp_path / "out")} == {
        "none.wav": "missing_file",
        "bare": "missing_caption",
        "": "bad_json",
        "empty.wav": "empty_audio",
        "text.wav": "unreadable_audio",
        "truncated.wav": "truncated_audio",
        "nan.wav": "nonfinite_audio",
        "shorter.ogg": "shorter_than_stated",
    }
    assert all(item["where"].startswith("manifest.jsonl:") and item["detail"] for item in rejected(tmp_path / "out"))
    assert prepared.clips == {"train": 6} and sum(prepared.rejected.values()) == 8
    seconds = {record.id: record.duration_s for record in open_split(tmp_path / "out", "train")}
    assert seconds["ten_minutes.wav"] == 600 and seconds["one_sample.wav"] == pytest.approx(1 / 16_000)
    assert any("rejected, nonfinite_audio: 1" in line for line in lines_logged)


def test_too_many_rejections_stop_but_lose_nothing(tmp_path, monkeypatch):
    output = tmp_path / "out"
    quiet(manifest_of(tmp_path / "first", good=4), output)
    before = shard_files(output)
    manifest = manifest_of(tmp_path / "second", good=7, bad=3)
    with pytest.raises(PrepareError, match=r"3 of 10 clips .*3 unreadable_audio.*max_rejected=2.*--max-rejected 3"):
        quiet(manifest, output, max_rejected=2, replace=True)
    assert shard_files(output / "slap_clips") == before and len(open_split(output, "train")) == 3
    assert len(rejected(output)) == 3
    monkeypatch.setattr(shard, "decode_audio", None)  # a second decoding would fail
    assert quiet(manifest, output, max_rejected=3, replace=True).clips == {"train": 5, "test": 2}
    assert not (output / ".staging").exists()


@pytest.mark.parametrize(
    ("clips", "limit"), [(3, 0), (4, 1), (12, 3), (39, 9), (40, 10), (1_000, 10), (1_001, 11), (50_000, 500)]
)
def test_default_limit_is_one_percent_but_at_least_ten_and_at_most_a_quarter(clips, limit):
    assert rejection_limit(clips) == limit
    assert rejection_limit(clips, max_rejected=7) == 7


def test_a_small_collection_that_loses_more_than_a_quarter_is_refused(tmp_path):
    assert sum(quiet(manifest_of(tmp_path / "a", 9, 3), tmp_path / "out").rejected.values()) == 3
    with pytest.raises(PrepareError, match=r"10 of 12 clips .*max_rejected=3.*--max-rejected 10"):
        quiet(manifest_of(tmp_path / "b", 2, 10), tmp_path / "out", replace=True)


def test_rejecting_every_clip_is_an_error_at_any_limit(tmp_path):
    manifest = manifest_of(tmp_path / "in", good=0, bad=3)
    with pytest.raises(PrepareError, match="all 3 clips"):
        quiet(manifest, tmp_path / "out", max_rejected=100)
    assert len(rejected(tmp_path / "out")) == 3


def test_a_split_without_a_good_clip_does_not_exist(tmp_path):
    manifest = manifest_of(tmp_path / "in", good=2, bad=1)  # the bad one is all of `test`
    assert quiet(manifest, tmp_path / "out", max_rejected=1).clips == {"train": 2}


def test_an_interrupted_run_leaves_the_old_data_and_starts_again(tmp_path, monkeypatch):
    output = tmp_path / "out"
    quiet(manifest_of(tmp_path / "first", good=4), output)
    manifest = manifest_of(tmp_path / "second", good=7)

    def interrupt(path, **_):
        if os.fspath(path).endswith("6.wav"):
            raise KeyboardInterrupt
        return decode_audio(path)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "decode_audio", interrupt)
        with pytest.raises(KeyboardInterrupt):
            quiet(manifest, output, replace=True)
    assert len(open_split(output, "train+test")) == 4
    assert quiet(manifest, output, replace=True).clips == {"train": 5, "test": 2}


def staged(output: Path) -> dict[str, tuple[int, int]]:
    """Returns inode and time of change of the finished shards of a preparation that was stopped."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob(".staging/*/shards/*")}


def decoded(monkeypatch) -> list[str]:
    """Returns a list to which the name of each decoded file is added from now on."""
    names: list[str] = []

    def decode(path, **settings):
        names.append(path.name)
        return decode_audio(path, **settings)

    monkeypatch.setattr(shard, "decode_audio", decode)
    return names


def test_a_restart_keeps_the_finished_shards(tmp_path, monkeypatch):
    manifest, output = manifest_of(tmp_path / "in", good=12), tmp_path / "out"
    with monkeypatch.context() as patch:

        def interrupt(path, **_):
            if path.name == "7.wav":  # in the third shard of four of `train`
                raise KeyboardInterrupt
            return decode_audio(path)

        patch.setattr(shard, "decode_audio", interrupt)
        with pytest.raises(KeyboardInterrupt):
            quiet(manifest, output, clips_per_shard=2)
    finished = staged(output)
    assert sorted(finished) == [f"slap_clips-train.array_record-0000{number}-of-00004" for number in range(2)]
    names = decoded(monkeypatch)
    assert quiet(manifest, output, clips_per_shard=2).clips == {"train": 8, "test": 4}
    assert not {"0.wav", "1.wav", "3.wav", "4.wav"} & set(names) and len(names) == 8
    published = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("*/*/*array_record*")}
    assert finished.items() <= published.items()
    quiet(manifest, tmp_path / "at_once", clips_per_shard=2)
    assert shard_files(output) == shard_files(tmp_path / "at_once")


def test_an_interruption_of_the_last_step_costs_no_decoding(tmp_path, monkeypatch):
    manifest, output = manifest_of(tmp_path / "in", good=6), tmp_path / "out"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset_writer, "_write_metadata", interrupt)  # the shards have left their folder by then
        with pytest.raises(KeyboardInterrupt):
            quiet(manifest, output)
    names = decoded(monkeypatch)
    assert quiet(manifest, output).clips == {"train": 4, "test": 2} and not names


def test_an_interrupted_exchange_is_undone(tmp_path, monkeypatch):
    output = tmp_path / "out"
    quiet(manifest_of(tmp_path / "first", good=4), output)
    rename = Path.rename

    def interrupt(path, target):
        if path.name == "dataset":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            quiet(manifest_of(tmp_path / "second", good=7), output, replace=True)
    assert not (output / "slap_clips").exists()  # the old data wait in the staging folder
    with pytest.raises(PrepareError, match="all 1 clips"):
        quiet(manifest_of(tmp_path / "third", good=0, bad=1), output, replace=True)
    assert split_sizes(output) == {"train": 3, "test": 1}


def test_a_longer_manifest_decodes_only_new_clips(tmp_path, monkeypatch):
    manifest, output = manifest_of(tmp_path / "in", good=9), tmp_path / "out"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:6]))
    quiet(manifest, output, clips_per_shard=2)
    manifest.write_text("".join(lines))
    names = decoded(monkeypatch)
    assert quiet(manifest, output, clips_per_shard=2).clips == {"train": 6, "test": 3}
    assert sorted(names) == ["6.wav", "7.wav", "8.wav"]
    quiet(manifest, tmp_path / "at_once", clips_per_shard=2)
    assert shard_files(output) == shard_files(tmp_path / "at_once")


def test_duplicates_are_reported_dropped_and_restored(tmp_path, monkeypatch):
    manifest = manifest_of(tmp_path / "in", good=5)
    for copy in ("4.wav", "2.wav"):  # train and test
        shutil.copyfile(tmp_path / "in" / "0.wav", tmp_path / "in" / copy)
    lines: list[str] = []
    kept = prepare(manifest, tmp_path / "out", workers=1, log=lines.append)
    assert kept.duplicates == {"groups": 1, "clips": 2, "groups_between_splits": 1, "dropped": 0}
    assert any("clips with the audio of an earlier clip: 2 (kept; --drop-duplicates" in line for line in lines)
    assert any("WARNING: groups of clips with equal audio in several splits: 1;" in line for line in lines)
    names = decoded(monkeypatch)
    dropped = quiet(manifest, tmp_path / "out", drop_duplicates=True)
    assert dropped.clips == {"train": 3} == {"train": kept.clips["train"] - 1}
    assert not names and not dropped.reused
    assert quiet(manifest, tmp_path / "out", drop_duplicates=True).reused
    assert quiet(manifest, tmp_path / "out").clips == kept.clips  # those that were dropped are decoded again


def test_excluded_clips_are_recognised_by_audio_and_not_counted_as_rejected(tmp_path):
    quiet(manifest_of(tmp_path / "evaluation", good=3), tmp_path / "benchmark", name="benchmark")
    manifest, benchmark = manifest_of(tmp_path / "in", good=7), f"{tmp_path / 'benchmark'}:train+test"
    prepared = quiet(manifest, tmp_path / "out", name="lab", exclude=[benchmark], max_rejected=0)
    assert prepared.rejected == {"excluded_evaluation": 3}  # the same tones under the ids of another source
    assert prepared.clips == {"train": 3, "test": 1}
    assert [item["id"] for item in rejected(tmp_path / "out")] == ["0.wav", "1.wav", "2.wav"]
    assert not quiet(manifest, tmp_path / "out", name="lab").reused


def test_an_open_collection_is_accepted(tmp_path):
    collection = Manifest(manifest_of(tmp_path / "in"), name="opened")
    assert quiet(collection, tmp_path / "out").directory == tmp_path / "out" / "slap_clips" / "1.0.0"
    assert open_split(tmp_path / "out", "train")[0].source == "opened"


def test_too_many_rejections_in_the_listing_stop_before_decoding(tmp_path, monkeypatch):
    manifest = manifest_of(tmp_path / "in", good=5)
    for index in range(1, 5):
        (tmp_path / "in" / f"{index}.wav").unlink()
    names = decoded(monkeypatch)
    with pytest.raises(PrepareError, match=r"4 of 5 clips were rejected \(4 missing_file\), more than max_rejected=3"):
        quiet(manifest, tmp_path / "out", max_rejected=3)
    assert not names and len(rejected(tmp_path / "out")) == 4


def test_two_preparations_of_one_data_set_are_an_error(tmp_path):
    manifest, output = manifest_of(tmp_path / "in"), tmp_path / "out"
    with Staging(output, DatasetIdentity()):
        with pytest.raises(StagingError, match=r"another `slap prepare` is running in .*slap_clips; wait for it"):
            quiet(manifest, output)
        prepare_records({"train": (1, [tiny_record(0, 0.1)])}, tmp_path / "other", {}, log=lambda line: None)
    assert not output.exists() and quiet(manifest, output).clips == {"train": 4, "test": 2}


def test_missing_shards_are_an_error(tmp_path):
    with pytest.raises(PrepareError, match=r"2 of 2 shards are missing in .*every worker must see this folder"):
        quiet(manifest_of(tmp_path / "in"), tmp_path / "out", runner=lambda plans, staging: None)


def test_an_unreadable_manifest_changes_nothing(tmp_path):
    with pytest.raises(CollectionError):
        quiet(tmp_path / "none.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_generated_records_are_not_generated_twice(tmp_path):
    def records():
        yield from (tiny_record(index, 0.1) for index in range(3))

    def unwanted():
        raise AssertionError("made again")
        yield

    first = prepare_records({"train": (3, records())}, tmp_path, {"seed": 1}, log=lambda line: None)
    again = prepare_records({"train": (3, unwanted())}, tmp_path, {"seed": 1}, log=lambda line: None)
    other = prepare_records({"val": (9, records())}, tmp_path, {"seed": 2}, log=lambda line: None)
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert again.clips == {"train": 3} and split_sizes(tmp_path) == {"val": 3}


def test_the_records_of_another_source_are_replaced_only_if_asked(tmp_path):
    output = tmp_path / "out"
    quiet(manifest_of(tmp_path / "first", good=4), output)
    before = shard_files(output)
    second = manifest_of(tmp_path / "second", good=7)
    with pytest.raises(
        PrepareError, match=r"out/slap_clips/1.0.0 holds 4 clips of another source \(0 of them .*/second\); .*--replace"
    ):
        quiet(second, output)
    assert shard_files(output) == before and not (output / ".staging").exists()
    with pytest.raises(PrepareError, match="holds clips that `slap prepare` wrote"):
        prepare_records({"train": (1, [tiny_record(0, 0.1)])}, output, {"seed": 1}, log=lambda line: None)
    assert shard_files(output) == before
    assert quiet(second, output, replace=True).clips == {"train": 5, "test": 2}


def test_a_source_may_lose_clips_but_not_most_of_them(tmp_path):
    manifest, output = manifest_of(tmp_path / "in", good=6), tmp_path / "out"
    lines = manifest.read_text().splitlines(keepends=True)
    quiet(manifest, output)
    manifest.write_text("".join(lines[:3]))
    assert quiet(manifest, output).clips == {"train": 2, "test": 1}
    manifest.write_text("".join([*lines[:1], *lines[3:]]))
    with pytest.raises(PrepareError, match=r"holds 3 clips of another source \(1 of them"):
        quiet(manifest, output)


def test_rejections_count_clips_and_not_lines(tmp_path):
    class Damaged:
        name = "damaged"

        def entries(self):
            yield from Manifest(manifest_of(tmp_path / "in", good=2)).entries()
            yield Rejection("b.tar", "", "damaged_archive", "cannot be opened", clips=12)

    with pytest.raises(PrepareError, match=r"12 of 14 clips were rejected \(12 damaged_archive\), more than max_reje"):
        quiet(Damaged(), tmp_path / "out")
    prepared = quiet(Damaged(), tmp_path / "out", max_rejected=12)
    assert prepared.rejected == {"damaged_archive": 12} and rejected(tmp_path / "out")[0]["clips"] == 12


@pytest.mark.parametrize("error", [MemoryError("9 GB"), OverflowError("too large"), ValueError("no"), TypeError("no")])
def test_no_error_of_a_decoder_ends_the_job(tmp_path, monkeypatch, error):
    def decode(path, **settings):
        if path.name == "1.wav":
            raise error
        return decode_audio(path, **settings)

    monkeypatch.setattr(shard, "decode_audio", decode)
    prepared = quiet(manifest_of(tmp_path / "in"), tmp_path / "out")
    assert prepared.clips == {"train": 3, "test": 2}
    (item,) = rejected(tmp_path / "out")
    assert item["reason"] == ("too_large" if isinstance(error, MemoryError) else "decoder_error")
    assert type(error).__name__ in item["detail"] and "1.wav" in item["detail"]


def test_clips_louder_than_full_scale_are_mentioned_with_the_worst_files(tmp_path):
    folder, noise = tmp_path / "in", np.random.default_rng(0).standard_normal(8_000) * 0.05
    folder.mkdir()
    files = {
        "loud.wav": encoded(tone(0.5) * 3, subtype="FLOAT"),
        "loudest.wav": encoded(tone(0.5) * 20, subtype="FLOAT"),
        "by_2_db.wav": encoded(tone(0.5) * 2.5, subtype="FLOAT"),
        "one_peak.wav": encoded(np.where(np.arange(8_000) == 7, 1.5, noise), subtype="FLOAT"),
        "integers.wav": encoded(noise * 32_768, subtype="FLOAT"),
        "cancelled.wav": encoded(np.stack([noise, -noise], axis=1)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = write_manifest(folder, [{"path": name, "caption": name} for name in files])
    lines: list[str] = []
    run = functools.partial(prepare, manifest, tmp_path / "out", workers=1, clips_per_shard=1, max_rejected=2)
    prepared = run(log=lines.append)
    assert prepared.clips == {"train": 4} and prepared.rejected == {"bad_scale": 1, "cancelling_channels": 1}
    (line,) = [line for line in lines if "full scale" in line]
    assert "clipped to it: 2 clips, the loudest: " in line
    assert 0 < line.index("loudest.wav (10 times full scale)") < line.index("loud.wav (1.5 times full scale)")
    lines.clear()
    again = run(log=lines.append)
    assert again.reused and again.clipped == prepared.clipped and line in lines


def test_a_flat_collection_is_divided_by_group_or_id(tmp_path):
    folder = tmp_path / "in"
    lines = []
    for index in range(60):
        write_tone(folder / f"{index}.wav", 0.05, frequency=200.0 + index)
        group = {"group": f"speaker {index % 10}"} if index < 40 else {}
        lines.append({"path": f"{index}.wav", "caption": f"tone {index}", **group})
    manifest = write_manifest(folder, lines[:50])

    def splits(output, manifest, **settings):
        quiet(manifest, output, **settings)
        sizes = split_sizes(output)
        return {record.id: split for split in sizes for record in open_split(output, split)}

    first = splits(tmp_path / "out", manifest, split="50/30/20")
    assert len(first) == 50 and set(first.values()) == {"train", "val", "test"}
    for speaker in range(10):
        assert len({first[f"{index}.wav"] for index in range(speaker, 40, 10)}) == 1
    longer = write_manifest(folder, [*lines[55:], *lines[:55]])
    grown = splits(tmp_path / "out", longer, split="50/30/20")
    assert len(grown) == 60 and {name: grown[name] for name in first} == first
    assert splits(tmp_path / "other", longer, split="50/30/20", split_seed=1) != grown
    assert not quiet(longer, tmp_path / "out", split="50/30/20", split_seed=1).reused  # another preparation


def test_splits_that_end_empty_and_collections_without_any_are_mentioned(tmp_path):
    folder = tmp_path / "in"
    manifest = write_manifest(folder, [{"path": write_tone(folder / "a.wav", 0.1), "caption": "a tone"}])
    lines: list[str] = []
    prepare(manifest, tmp_path / "flat", workers=1, log=lines.append)
    assert "all clips are in train, so there are none to evaluate on: --split 80/10/10" in lines[-1]
    lines.clear()
    prepare(manifest, tmp_path / "out", workers=1, split="99/0.5/0.5", log=lines.append)
    assert [line.split()[:4] for line in lines[-2:]] == [
        ["split", "val", "is", "empty:"],
        ["split", "test", "is", "empty:"],
    ]
    assert "--split-seed" in lines[-1]


def test_a_collection_with_splits_is_not_divided(tmp_path):
    with pytest.raises(SplitError, match=r"names its splits itself \(manifest.jsonl:3 is in 'test'\)"):
        quiet(manifest_of(tmp_path / "in"), tmp_path / "out", split="80/10/10")
    assert not (tmp_path / "out").exists()
