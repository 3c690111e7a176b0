import collections
import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection, TableCell
from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import TableRow, read_table
from slap_jax.data.inspect import check as check_module
from slap_jax.data.inspect.check import check, check_collection
from slap_jax.data.inspect.check_report import CheckReport, Tally, format_report, report_values
from slap_jax.data.preparation import plan as plan_module
from slap_jax.data.preparation.acceptance import MIN_ALLOWED_REJECTIONS
from slap_jax.data.preparation.duplicates import excluded_clips
from slap_jax.data.preparation.splits import parse_shares
from slap_jax.data.records import open_split
from tests.data.datasets.publisher_files import write_csv, write_wav
from tests.data.tiny_data import encoded, tiny_dataset, tone, write_manifest


class Beeps(PublishedDataset):
    """A minimal dataset with two splits: a table of names and two captions."""

    name = "beeps"
    version = "1.0.0"
    title = "Beeps"
    homepage = "https://example.org/beeps"
    licence = "CC0-1.0"
    citation = ""
    expected: ClassVar = {"train": Expected(clips=4, captions=2), "test": Expected(clips=2, captions=2)}
    layout = "train.csv\ntest.csv\n<name>.wav"
    options: ClassVar = {"splits": "train+test"}

    def entries(self):
        for split in self.settings["splits"].split("+"):
            for row in read_table(self.require(f"{split}.csv"), ("name", "first", "second")):
                assert isinstance(row, TableRow)
                audio = self.root / f"{row.fields['name']}.wav"
                if not audio.is_file():
                    yield Rejection(row.where, row.fields["name"], "missing_file", f"no {audio.name}")
                    continue
                captions = tuple(text for text in (row.fields["first"], row.fields["second"]) if text)
                yield Entry(row.fields["name"], AudioFile(audio), captions, split, source=self.name, where=row.where)


HEADER = ("name", "first", "second")


def publish(root, train=("a", "b", "c", "d"), test=("e", "f")):
    """Writes the tables, and audio for each clip but those whose names begin with "missing"."""
    for split, names in (("train", train), ("test", test)):
        rows = [(name, f"a beep called {name}", f"{name} beeps") for name in names]
        write_csv(root / f"{split}.csv", [HEADER, *rows])
        for name in names:
            if not name.startswith("missing"):
                write_wav(root / f"{name}.wav")
    return root


def checked(root, decode=10, **options):
    return check_collection(Beeps(root, **options), root, decode=decode)


@dataclasses.dataclass
class Listed:
    """A collection of the given entries."""

    items: list
    name: str = "listed"

    def entries(self):
        return iter(self.items)


def clip(root, number, captions=("a beep",), **fields):
    audio = fields.pop("audio", None) or AudioFile(root / f"{number}.wav")
    return Entry(f"clip-{number}", audio, captions, "train", where=f"list:{number}", **fields)


def test_a_complete_data_set_is_ready(tmp_path):
    report = checked(publish(tmp_path))
    assert report.ready and not report.notes and report.clips == 6
    assert format_report(report).splitlines()[-1] == "ready: 6 clips in 2 splits"
    assert report.captions == report.distinct_captions == 12
    assert report.sample is not None
    assert (report.sample.clips, report.sample.sample_rates, report.sample.channels) == (6, {16_000: 6}, {1: 6})
    assert report.sample.median_s == pytest.approx(0.1)


def test_a_missing_table_is_shown_with_the_layout(tmp_path):
    (publish(tmp_path) / "test.csv").unlink()
    text = format_report(checked(tmp_path))
    assert "no test.csv; Beeps from https://example.org/beeps is laid out as\ntrain.csv\ntest.csv\n<name>.wav" in text
    assert text.endswith("\nnot ready: `slap prepare` would refuse it; 1 problem")


def test_missing_audio_is_a_problem_when_prepare_would_refuse_it(tmp_path):
    present = [f"present-{number}" for number in range(34)]
    few = [f"missing-{number}" for number in range(MIN_ALLOWED_REJECTIONS)]
    report = checked(publish(tmp_path, train=(*present, *few)), decode=100)
    assert report.ready
    assert report.rejected["missing_file"].count == MIN_ALLOWED_REJECTIONS
    assert report.rejected["missing_file"].examples[0] == "train.csv:36: missing-0: no missing-0.wav"
    assert len(report.rejected["missing_file"].examples) < MIN_ALLOWED_REJECTIONS
    assert report.notes == ["10 clips would be rejected (10 missing_file), within the limit of `slap prepare` (10)"]
    assert format_report(report).endswith("\nready: 36 clips in 2 splits, 10 rejected")

    report = checked(publish(tmp_path, train=(*present, *few, "missing-more")), decode=100)
    (problem,) = report.problems
    assert "11 of 47 clips would be rejected (11 missing_file)" in problem
    assert "--max-rejected 11" in problem and report.refused
    assert check_collection(Beeps(tmp_path), tmp_path, max_rejected=11).ready


def test_fewer_clips_or_captions_than_published(tmp_path):
    report = checked(publish(tmp_path, train=("a", "b", "c"), test=()))
    assert report.problems == [
        "3 of 6 published clips are listed: download the lists or the missing parts again",
        "split test has none of its 2 published clips",
    ]
    publish(tmp_path)
    write_csv(tmp_path / "test.csv", [HEADER, ("e", "a beep called e", ""), ("f", "a beep called f", "f beeps")])
    (problem,) = checked(tmp_path).problems
    assert problem == "split test has 1.50 captions per clip instead of 2 as published: download its captions again"
    text = format_report(checked(tmp_path))
    assert text.endswith("\nnot ready: 1 problem; `slap prepare` would write 6 clips in 2 splits")


def test_only_the_chosen_splits_are_expected(tmp_path):
    (publish(tmp_path) / "train.csv").unlink()
    report = checked(tmp_path, splits="test")
    assert report.ready and list(report.splits) == ["test"]
    assert report.unlisted_audio.count == 4


@pytest.mark.parametrize("block", [2, 100])
def test_repeated_ids_captions_and_files(tmp_path, monkeypatch, block):
    monkeypatch.setattr(check_module, "_BLOCK", block)
    for number in range(4):
        write_wav(tmp_path / f"{number}.wav")
    items = [
        clip(tmp_path, 0, ("a beep", "a beep", "a tone")),
        clip(tmp_path, 1, ("a beep", "another")),
        clip(tmp_path, 2, ("one", "a tone"), audio=AudioFile(tmp_path / "." / "1.wav")),
        dataclasses.replace(clip(tmp_path, 3), id="clip-1"),
        dataclasses.replace(clip(tmp_path, 3), id="clip-1", source="elsewhere"),
        dataclasses.replace(clip(tmp_path, 3), id="caf\udce9"),
    ]
    report = check_collection(Listed(items), tmp_path, decode=0)
    assert report.clips == 4 and report.rejected["bad_name"].count == 1
    (example,) = report.rejected["duplicate_id"].examples
    assert example.startswith("list:3: clip-1: an earlier clip of source '' has the id 'clip-1'; make ids unique")
    assert "another caption of that clip" in example
    assert (report.captions, report.distinct_captions) == (8, 4)
    assert report.repeated_within_clip.examples == ["list:0: clip-0"]
    assert report.repeated_captions.examples == ["list:1: a beep", "list:2: a tone", "list:3: a beep"]
    assert report.shared_audio.count == 1 and report.shared_audio.examples[0].startswith("list:2")
    assert report.sample is None


def test_odd_captions(tmp_path):
    long = "word " * 10_000
    items = [
        clip(tmp_path, 0, (long,)),
        clip(tmp_path, 1, (), labels=("label=dog",)),
        clip(tmp_path, 2, ("word " * 100,)),
    ]
    report = check_collection(Listed(items), tmp_path, decode=0)
    assert report.long_captions.count == 1 and report.labels_only == 1
    assert report.long_captions.examples[0].startswith("list:0: 10,000 words: word word")
    assert len(report.long_captions.examples[0]) < 200
    assert report.notes[:-1] == ["1 caption of more than 100 words, which training cuts"]
    assert report.notes[-1].startswith("all clips are in train, so there are none to evaluate on: --split 80/10/10")


def test_intended_exclusions_are_neither_rejections_nor_missing(tmp_path):
    for number in range(2):
        write_wav(tmp_path / f"{number}.wav")
    items = [clip(tmp_path, 0), *[Rejection("list", str(i), "excluded_clotho", "") for i in range(50)]]
    report = check_collection(Listed(items), tmp_path, decode=0)
    assert report.ready and not report.rejected
    assert report.excluded == {"excluded_clotho": 50}
    assert "left out on purpose, excluded_clotho: 50" in format_report(report)
    assert "up to 50 of them" in report.notes[0]


def test_audio_without_an_entry_is_reported(tmp_path):
    publish(tmp_path)
    write_wav(tmp_path / "deep" / "stray.flac", container="FLAC")
    write_wav(tmp_path / ".hidden" / "stray.wav")
    (tmp_path / "notes.txt").write_text("no audio")
    report = checked(tmp_path)
    assert report.unlisted_audio.examples == [str(tmp_path / "deep" / "stray.flac")]
    assert report.ready and report.notes == ["audio files that belong to no clip: 1"]


def test_decoding_reports_the_formats(tmp_path):
    good = encoded(tone(0.2, rate=44_100), 44_100)
    stereo = encoded(np.stack([tone(0.1), tone(0.1)], axis=1))
    contents = {0: good, 1: stereo, 2: encoded(np.zeros(1_600)), 3: b"this is text", 4: b"", 5: good[: len(good) // 2]}
    for number, data in contents.items():
        (tmp_path / f"{number}.wav").write_bytes(data)
    items = [clip(tmp_path, number, duration_s=0.5 if number == 1 else None) for number in contents]
    items.append(clip(tmp_path, 6))  # gone since it was listed
    report = check_collection(Listed(items), tmp_path, decode=10, max_rejected=5)
    sample = report.sample
    assert sample is not None
    assert {reason: tally.count for reason, tally in sample.unusable.items()} == {
        "shorter_than_stated": 1,
        "unreadable_audio": 1,
        "empty_audio": 1,
        "truncated_audio": 1,
        "missing_file": 1,
    }
    assert (sample.sample_rates, sample.channels) == ({44_100: 1, 16_000: 1}, {1: 2})
    assert (sample.shortest_s, sample.longest_s) == pytest.approx((0.1, 0.2))
    assert sample.silent.examples == [f"list:2: {tmp_path / '2.wav'}"]
    assert report.ready and report.is_decoded and report.usable == {"train": 2}
    (note,) = [note for note in report.notes if "would be rejected" in note]
    assert note.startswith("5 clips would be rejected (1 shorter_than_stated, 1 unreadable_audio, 1 empty_audio, 1 ")
    assert format_report(report).endswith("\nready: 2 clips in 1 split, 5 rejected")
    assert "1 of 7 sampled clips silent" in report.notes
    assert report.stated is not None and (report.stated.clips, report.stated.longest_s) == (1, 0.5)


def test_the_sample_is_seeded_and_every_clip_is_as_probable():
    entries = [Entry(str(number), TableCell(Path("table"), "audio", number), ("x",), "train") for number in range(40)]
    drawn = collections.Counter()
    for seed in range(400):
        samples = []
        for _ in range(2):
            sample = check_module._Reservoir(10, seed)
            for entry in entries:
                sample.offer(entry)
            samples.append([entry.id for entry in sample.entries])
        assert samples[0] == samples[1] and len(set(samples[0])) == 10
        drawn.update(samples[0])
    # Binomial of 400 draws with probability 1/4: mean 100, standard deviation 8.7.
    assert len(drawn) == 40 and min(drawn.values()) > 60 and max(drawn.values()) < 140


def test_memory_does_not_grow_with_the_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(check_module, "_BLOCK", 500)
    monkeypatch.setattr(plan_module, "_ENTRIES_AT_A_TIME", 500)

    class Endless:
        name = "endless"

        def __init__(self, count):
            self.count = count

        def entries(self):
            table = tmp_path / "clips.parquet"  # one path per clip would fill Python's table of interned names
            for number in range(self.count):
                caption = f"caption number {number} of many clips"
                yield clip(tmp_path, number, (caption,), audio=TableCell(table, "audio", number))

    def peak(count):
        tracemalloc.start()
        check_collection(Endless(count), tmp_path, decode=0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    check_collection(Endless(1_000), tmp_path, decode=0)  # fills caches
    # Two hashes per clip, and copies while they are inserted; an entry alone takes more than 500 bytes.
    assert peak(4_000) - peak(1_000) < 3_000 * 100


def test_the_exit_code_is_the_verdict(tmp_path):
    publish(tmp_path)
    lines = []
    assert check(Beeps(tmp_path), tmp_path, log=lines.append) == 0
    assert lines[0].startswith(f"{tmp_path}, read as Beeps\n") and lines[0].endswith("ready: 6 clips in 2 splits")
    assert check(Beeps(tmp_path, splits="test"), tmp_path, decode=0, as_json=True, log=lines.append) == 0
    assert json.loads(lines[1])["sample"] is None
    (tmp_path / "test.csv").unlink()
    assert check(Beeps(tmp_path), tmp_path, as_json=True, log=lines.append) == 1
    values = json.loads(lines[2])
    assert (values["ready"], values["refused"]) == (False, True) and "no test.csv" in values["problems"][0]


def test_any_collection_can_be_checked(tmp_path):
    write_wav(tmp_path / "a.wav")
    manifest = write_manifest(
        tmp_path, [{"path": "a.wav", "caption": "a beep"}, {"path": "b.wav", "caption": "gone"}, {"path": "a.wav"}]
    )
    lines = []
    assert check(open_collection(manifest), manifest, max_rejected=1, log=lines.append) == 0
    assert lines[0].startswith(f"{manifest}, read as manifest\n")
    assert "would be rejected, missing_file: 1" in lines[0]
    assert lines[0].endswith("ready: 1 clip in 1 split, 1 rejected")  # the third row is of the first clip


def test_a_sample_that_predicts_too_many_rejections_is_a_problem(tmp_path):
    items = []
    for number in range(60):
        write_wav(tmp_path / f"{number}.wav")
        if number % 4 == 0:
            (tmp_path / f"{number}.wav").write_text("no audio")
        items.append(clip(tmp_path, number))
    report = check_collection(Listed(items), tmp_path, decode=20)
    (problem,) = report.problems
    assert report.refused and report.sample is not None
    bad = report.sample.unusable["unreadable_audio"].count
    assert problem.startswith(f"{bad} of 20 sampled clips cannot be used") and f"about {3 * bad} of 60" in problem
    exact = check_collection(Listed(items), tmp_path, decode=60)
    assert exact.problems[0].startswith("15 of 60 clips would be rejected (15 unreadable_audio)")
    assert check_collection(Listed(items), tmp_path, decode=60, max_rejected=15).ready
    accepted = check_collection(Listed(items), tmp_path, decode=20, max_rejected=50)
    assert accepted.ready and any("`slap prepare` decodes all 60" in note for note in accepted.notes)
    assert format_report(accepted).endswith("ready: 60 clips in 1 split; 20 of them decoded")


def test_a_division_is_shown_and_named_splits_refuse_it(tmp_path):
    for number in range(12):
        write_wav(tmp_path / f"{number}.wav")
    items = [clip(tmp_path, number) for number in range(12)]
    report = check_collection(Listed(items), tmp_path, decode=0, shares=parse_shares("50/50/0"))
    assert set(report.splits) == {"train", "val"} and report.clips == 12 and report.ready and not report.notes
    few = check_collection(Listed(items), tmp_path, decode=0, shares=parse_shares("99.8/0.1/0.1"))
    assert [note[:19] for note in few.notes] == ["split val is empty:", "split test is empty"]
    items.append(dataclasses.replace(clip(tmp_path, 0), id="x", split="test"))
    named = check_collection(Listed(items), tmp_path, decode=0, shares=parse_shares("50/50"))
    assert named.refused and "names its splits itself (list:0 is in 'test')" in named.problems[0]


def test_values_that_change_and_excluded_audio_are_mentioned(tmp_path):
    noise = np.random.default_rng(0).standard_normal(4_000) * 0.05
    (tmp_path / "0.wav").write_bytes(encoded(noise * 32_768, subtype="FLOAT"))
    (tmp_path / "1.wav").write_bytes(encoded(np.stack([noise, -noise], axis=1)))
    (tmp_path / "2.wav").write_bytes(encoded(tone(0.2) * 3, subtype="FLOAT"))
    tiny = tiny_dataset(tmp_path / "prepared", 1, 1)
    (tmp_path / "3.wav").write_bytes(encoded(open_split(tiny, "test")[0].waveform()))
    excluded = excluded_clips([f"{tiny}:test"])
    items = [clip(tmp_path, n) for n in range(4)]
    assert not check_collection(Listed(items), tmp_path, excluded=excluded).ready
    report = check_collection(Listed(items), tmp_path, excluded=excluded, max_rejected=2)
    assert report.sample is not None and set(report.sample.unusable) == {"bad_scale", "cancelling_channels"}
    (note,) = [note for note in report.notes if "full scale" in note]
    assert note.startswith("louder than full scale and clipped to it: 1 clip, the loudest: ") and "2.wav (1.5 " in note
    assert report.ready and report.usable == {"train": 1} and report.sample.excluded == 1


def test_html_entities_and_control_characters_are_mentioned_and_kept(tmp_path):
    captions = ("salt &amp; pepper", "it&#39;s raining", "AT&T; R&B", "a bell\x07 rings", "rain &\twind\n")
    write_wav(tmp_path / "0.wav")
    items = [dataclasses.replace(clip(tmp_path, 0), id=str(n), captions=(text,)) for n, text in enumerate(captions)]
    report = check_collection(Listed(items), tmp_path, decode=0)
    assert report.html_entities == Tally(2, ["list:0: salt &amp; pepper", "list:0: it&#39;s raining"])
    assert report.control_characters == Tally(1, [r"list:0: 'a bell\x07 rings'"])
    assert report.ready and sum("2 captions with HTML entities" in note for note in report.notes) == 1
    assert sum("1 caption with control characters" in note for note in report.notes) == 1
    text = format_report(report)
    assert "captions with HTML entities: 2\n" in text and "it&#39;s raining" in text and "\x07" not in text


def test_nothing_usable_is_a_problem(tmp_path):
    report = check_collection(Listed([Rejection("list:1", "a", "missing_file", "gone")]), tmp_path)
    assert report.problems == ["there is no usable clip: 1 missing_file"]


def test_keys_of_the_json_form():
    assert list(report_values(CheckReport("a", "b"))) == [
        "ready",
        "clips",
        *(field.name for field in dataclasses.fields(CheckReport)),
    ]
