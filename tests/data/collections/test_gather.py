import json
import tracemalloc

import pytest

from slap_jax.data.collections import gather
from slap_jax.data.collections.entries import Entry
from slap_jax.data.collections.folders import AudioFolder
from slap_jax.data.collections.manifest import Manifest
from tests.data.listing import listed
from tests.data.tiny_data import write_manifest, write_tone


@pytest.fixture
def audio(tmp_path):
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        write_tone(tmp_path / name)
    return tmp_path


def csv(folder, text, name="clips.csv"):
    (folder / name).write_text(text)
    return Manifest(folder / name)


def test_rows_of_a_clip_are_its_captions_wherever_they_are(audio):
    rows = 'path,caption\na.wav,one\nb.wav,two\na.wav,"three,\nthree"\nsub/c.wav,four\n./a.wav,one\nb.wav,five\n'
    entries, rejections = listed(csv(audio, rows))
    assert not rejections
    assert [(entry.id, entry.captions, entry.where) for entry in entries] == [
        ("a.wav", ("one", "three,\nthree"), "clips.csv:2"),
        ("b.wav", ("two", "five"), "clips.csv:3"),
        ("sub/c.wav", ("four",), "clips.csv:6"),
    ]


def test_labels_and_regions_are_joined_and_absent_values_contradict_nothing(audio):
    lines = [
        {"path": "a.wav", "caption": "one", "labels": ["x"], "regions": [[0, 1, "r"]], "split": "test", "note": 1},
        {"path": "b.wav", "labels": ["z"], "group": "g"},
        {"path": "a.wav", "captions": ["two", "one"], "labels": {"k": "y"}, "licence": "CC0", "note": 2},
        {"path": "a.wav", "caption": "nan", "labels": ["x"], "regions": [[0, 1, "r"], [1, 2, "s"]], "split": None},
        {"path": "b.wav", "captions": [], "group": "g"},
    ]
    (first, second), rejections = listed(Manifest(write_manifest(audio, lines)))
    assert not rejections
    assert (first.captions, first.labels) == (("one", "two"), ("x", "k=y"))
    assert (first.regions, first.split, first.licence) == (((0, 1, "r"), (1, 2, "s")), "test", "CC0")
    assert (second.captions, second.labels, second.group) == ((), ("z",), "g")


def test_audiofolder(audio):
    lines = [{"file_name": "c.wav", "text": text, "label": "x"} for text in ("one", "two", "one")]
    write_manifest(audio / "sub", lines, "metadata.jsonl")
    (audio / "metadata.csv").write_text("file_name,caption,id\na.wav,x,1\nb.wav,y,2\na.wav,z,3\n")
    entries, rejections = listed(AudioFolder(audio))
    assert not rejections
    assert [(entry.id, entry.captions) for entry in entries] == [
        ("a.wav", ("x", "z")),
        ("b.wav", ("y",)),
        ("sub/c.wav", ("one", "two")),
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("split,train,test", "split is 'train' in line 2 and 'test' in line 3"),
        ("licence,CC0,MIT", "licence is 'CC0'"),
        ("duration_s,1,2", "duration_s is '1'"),
        ("group,x,y", "group is 'x'"),
        ("start_time,0,10", "start_time is '0'"),
        ("onset,0,10", "onset is '0'"),
        ("end,5,10", "end is '5'"),
    ],
)
def test_contradicting_rows_are_one_rejection(audio, values, words):
    column, first, second = values.split(",")
    rows = f"path,caption,{column}\na.wav,one,{first}\na.wav,two,{second}\nb.wav,three,\na.wav,four,\n"
    (entry,), (rejection,) = listed(csv(audio, rows))
    assert entry.id == "b.wav"
    assert (rejection.where, rejection.id, rejection.reason) == ("clips.csv:2", "a.wav", "contradicting_rows")
    assert words in rejection.detail and "3 rows" in rejection.detail and rejection.clips == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [("a.wav,two, three", "bad_csv"), ("a.wav,caf\xe9", "bad_text")],
)
def test_a_faulty_row_rejects_its_whole_clip_once(audio, row, reason):
    (audio / "m.csv").write_bytes(f"path,caption\na.wav,one\nb.wav,b\n{row}\na.wav,four\n".encode("latin-1"))
    (entry,), (rejection,) = listed(Manifest(audio / "m.csv"))
    assert entry.id == "b.wav"
    assert (rejection.where, rejection.id, rejection.reason) == ("m.csv:4", "a.wav", reason)


def test_other_ids_or_sources_are_other_clips(audio):
    lines = [
        {"path": "a.wav", "caption": "one", "id": 1},
        {"path": "a.wav", "caption": "two", "id": 2},
        {"path": "a.wav", "caption": "three", "source": "x"},
        {"path": "a.wav", "caption": "four", "source_package": "y"},
        {"path": "a.wav", "caption": "five", "id": 1},
        {"path": "b.wav", "caption": "six", "id": 1},
    ]
    entries, rejections = listed(Manifest(write_manifest(audio, lines)))
    assert not rejections
    assert [(entry.id, entry.source[-1], entry.captions) for entry in entries] == [
        ("1", entries[0].source[-1], ("one", "five")),
        ("2", entries[0].source[-1], ("two",)),
        ("a.wav", "x", ("three",)),
        ("a.wav", "y", ("four",)),
        ("1", entries[0].source[-1], ("six",)),
    ]


def test_too_many_rows_of_a_clip_are_a_mistake(audio, monkeypatch):
    monkeypatch.setattr(gather, "MOST_ROWS", 3)
    rows = "".join(f"a.wav,{number}\n" for number in range(4)) + "".join(f"b.wav,{number}\n" for number in range(3))
    (entry,), (rejection,) = listed(csv(audio, f"path,caption\n{rows}"))
    assert entry.captions == ("0", "1", "2")
    assert (rejection.id, rejection.reason) == ("a.wav", "contradicting_rows") and "4 rows" in rejection.detail


def test_memory_does_not_grow_with_the_rows(audio):
    peaks = []
    for count in (10, 1_000):
        lines = [{"path": "a.wav", "id": number % (count // 2), "caption": f"{number:400}"} for number in range(count)]
        manifest = write_manifest(audio, lines)
        tracemalloc.start()
        assert sum(isinstance(clip, Entry) for clip in Manifest(manifest).entries()) == count // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100_000 < manifest.stat().st_size / 4


def test_gathering_equals_a_dictionary(audio, tmp_path_factory):
    import random

    generator = random.Random(0)
    for trial in range(20):
        rows = [(generator.choice("abc"), str(generator.randrange(5))) for _ in range(generator.randrange(1, 30))]
        expected: dict[str, dict[str, None]] = {}
        for key, caption in rows:
            expected.setdefault(key, {})[caption] = None
        lines = [{"path": "a.wav", "id": key, "caption": caption} for key, caption in rows]
        path = tmp_path_factory.mktemp("m") / ("m.jsonl" if trial % 2 else "m.csv")
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if path.suffix == ".csv":
            text = "path,id,caption\n" + "".join(f"a.wav,{key},{caption}\n" for key, caption in rows)
        path.write_text(text)
        entries, rejections = listed(Manifest(path, audio))
        assert {entry.id: list(entry.captions) for entry in entries} == {k: list(v) for k, v in expected.items()}
        assert [entry.id for entry in entries] == list(expected) and not rejections
