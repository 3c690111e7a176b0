"""Random collections of good and bad clips, with the number of clips that was put into them.

The number comes from what is written, never from what is read: each clip that a collection should have counts once,
whether it is intact, broken, badly described, repeated, or has lost its audio or its text.
"""

import csv
import dataclasses
import io
import json
import os
import random
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.tiny_data import encoded, tone

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 54321\n"
NAME = "Übung é"


@dataclasses.dataclass
class RandomCollection:
    """A collection on disk.

    Attributes:
        source: what `open_collection` opens.
        options: its options.
        present: number of its clips, good and bad.
        good: those of them that can be prepared.
    """

    source: Path
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    present: int = 0
    good: int = 0

    def count(self, good: bool, clips: int = 1) -> None:
        """Counts clips."""
        self.present += clips
        self.good += clips if good else 0


def write_random_collection(folder: Path, seed: int) -> RandomCollection:
    """Writes a collection of one of six kinds; equal seeds give equal collections."""
    generator = random.Random(seed)
    folder.mkdir(parents=True)
    writer: Callable[[Path, random.Random], RandomCollection] = generator.choice(
        [_sidecars, _json_lines, _csv, _audiofolder, _tars, _tables]
    )
    return writer(folder, generator)


def _sound(generator: random.Random) -> bytes:
    """Returns a sound that no other clip has."""
    return encoded(tone(0.02, generator.uniform(100.0, 3_000.0), amplitude=generator.uniform(0.2, 0.9)))


def _bad_sound(generator: random.Random) -> bytes:
    sound = _sound(generator)
    return generator.choice([b"", b"no sound", POINTER, b"\0" * 500, sound[:20]])


def _sidecars(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder, {"kind": "folder"})
    for number in range(generator.randrange(4, 12)):
        parent = folder / generator.choice(["", "train", "x/y"])
        parent.mkdir(parents=True, exist_ok=True)
        stem = generator.choice([f"{number}", f"{NAME} {number}", f"a.b.{number}"])
        audio, text = parent / f"{stem}.wav", parent / f"{stem}.txt"
        audio.write_bytes(_sound(generator))
        text.write_text(f"clip {number}\nanother\n")
        state = generator.randrange(16)
        collection.count(good=state < 6)
        if state == 1:
            text.rename(text.with_suffix(".TXT"))
        elif state == 2:
            text.rename(parent / f"{unicodedata.normalize('NFD', stem)}.txt")
        elif state == 3:
            text.write_bytes("a tön".encode("utf-16"))
        elif state == 4:
            text.rename(text.with_suffix(".json")).write_text(json.dumps({"captions": "['a', 'b']", "labels": ["x"]}))
        elif state == 5:
            (parent / "README.txt").write_text("no clip")
            (parent / f"{stem}.png").write_bytes(b"no clip")
        elif state == 6:
            audio.write_bytes(_bad_sound(generator))
        elif state == 7:
            text.unlink()
        elif state == 8:
            text.write_text(generator.choice(["", " \n", "nan", "['nan']"]))
        elif state == 9:
            text.write_bytes(generator.choice([b"caf\xe9", POINTER, "a".encode("utf-16-le"), b"x" * 4_200_000]))
        elif state == 10:
            audio.unlink()
        elif state == 11:
            audio.rename(audio.with_suffix(".unknown"))
        elif state == 12:
            text.rename(text.with_suffix(".json")).write_text(generator.choice(["{", "[]", "{}", '{"captions": 3}']))
        elif state == 13:
            os.rename(audio, os.fsencode(parent) + b"/caf\xe9 %d.wav" % number)
            os.rename(text, os.fsencode(parent) + b"/caf\xe9 %d.txt" % number)
        elif state == 14:
            audio.unlink()
            audio.symlink_to("nowhere.wav")
        elif state == 15:
            text.rename(parent / f"{stem}.Txt")
            (parent / f"{stem}.tXt").write_text("which?")
    return collection


def _rows(
    folder: Path, generator: random.Random, collection: RandomCollection, ids: bool = True
) -> list[dict[str, Any]]:
    """Writes audio files; returns rows with path, caption and other values, in random order.

    Args:
        folder: folder of the files.
        generator: source of the faults.
        collection: counts the clips.
        ids: whether rows may have an id and a split.
    """
    rows: list[dict[str, Any]] = []
    for number in range(generator.randrange(4, 12)):
        name = generator.choice([f"{number}.wav", f"{NAME} {number}.wav", f"sub/{number}.wav"])
        audio = folder / name
        audio.parent.mkdir(exist_ok=True)
        audio.write_bytes(_sound(generator))
        row: dict[str, Any] = {"path": name, "caption": f"clip, {number}"}
        state = generator.randrange(15 if ids else 12)
        collection.count(good=state < 5 or state == 14)
        if state == 1:  # a row for each caption
            rows += [{**row, "caption": f"{word} {number}"} for word in ("a", "b", "b")]
            row["caption"] = "nan"
        elif state == 2:
            row["path"] = unicodedata.normalize("NFD", name)
        elif state == 3:
            row["path"] = name.upper()
        elif state == 4:
            row["caption"] = generator.choice(["['a', 'b, c']", '["a", "b"]', "a [b]"])
        elif state == 5:
            audio.write_bytes(_bad_sound(generator))
        elif state == 6:
            row["caption"] = generator.choice(["", "  ", "nan", "None", "[]"])
        elif state == 7:
            audio.unlink()
        elif state == 8:
            (folder / f"folder {number}").mkdir()
            row["path"] = generator.choice(["", f"../{number}.wav", f"{'x' * 300}{number}.wav", f"folder {number}"])
        elif state == 9:  # rows that contradict each other
            rows.append({**row, "duration_s": "0.01"})
            row = {**row, "duration_s": "0.02", "caption": "b"}
        elif state == 10:
            row["duration_s"] = generator.choice(["soon", "-1", "99"])
        elif state == 11:  # one good row and one bad
            rows.append({**row, "duration_s": "soon"})
        elif state == 12:
            row["split"] = generator.choice(["dev-clean", "all"])
        elif state == 13:  # one id for two clips; the first is prepared
            (folder / f"other {number}.wav").write_bytes(_sound(generator))
            collection.count(good=True)
            rows.append({**row, "path": f"other {number}.wav", "id": f"id {number}"})
            row["id"] = f"id {number}"
        elif state == 14:
            row["split"] = "test"
        rows.append(row)
    generator.shuffle(rows)
    return rows


def _json_lines(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder / "clips.jsonl")
    lines = [json.dumps(row) for row in _rows(folder, generator, collection)]
    for number in range(generator.randrange(3)):
        fault = generator.choice(["{", "[1]", "7", f'{{"path": "{number} \\ud83d", "caption": "x"}}'])
        lines.insert(generator.randrange(len(lines)), fault)
        collection.count(good=False)
    collection.source.write_text("\n\n".join(lines))
    return collection


def _csv(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder / "clips.csv")
    lines = _csv_lines(_rows(folder, generator, collection), "path")
    for number in range(generator.randrange(4)):
        fault = generator.choice(
            [f'{number}q.wav,"a "loud" dog"', f"{number}c.wav,a,b,c,d,e,f", f"{number}l.wav,caf\xe9"]
        )
        lines.insert(generator.randrange(1, len(lines) + 1), fault.encode("latin-1"))
        collection.count(good=False)
    if generator.random() < 0.3:  # an open quote takes in the lines up to the end
        lines += [b'open.wav,"a dog', b"taken 1.wav,a dog", b"taken 2.wav,a dog"]
        collection.count(good=False, clips=3)
    collection.source.write_bytes(b"\n".join(lines))
    return collection


def _audiofolder(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder, {"kind": "audiofolder"})
    rows = _rows(folder, generator, collection, ids=False)
    if generator.random() < 0.5:
        (folder / "metadata.csv").write_bytes(b"\n".join(_csv_lines(rows, "file_name")))
    else:
        lines = [json.dumps({"file_name" if key == "path" else key: row[key] for key in row}) for row in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return collection


def _csv_lines(rows: list[dict[str, Any]], path_column: str) -> list[bytes]:
    file = io.StringIO()
    writer = csv.DictWriter(file, [path_column, "caption", "id", "split", "duration_s"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({path_column if key == "path" else key: row[key] for key in row} for row in rows)
    return [line.encode() for line in file.getvalue().splitlines()]


def _tars(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder, {"kind": "webdataset"})
    sizes: dict[str, int] = {}
    for shard in range(generator.randrange(1, 4)):
        before = collection.present
        archive = folder / f"{shard}.tar"
        if generator.random() < 0.3:
            _truncated_tar(archive, generator, collection)
        else:
            numbers = range(generator.randrange(1, 6))
            _write_tar(archive, [member for n in numbers for member in _sample(str(n), generator, collection)])
            if generator.random() < 0.3:
                joined = folder / "joined"
                _write_tar(joined, [("joined.wav", _sound(generator)), ("joined.txt", b"a tone")])
                archive.write_bytes(archive.read_bytes() + joined.read_bytes())
                joined.unlink()
                collection.count(good=True)
        sizes[archive.name] = collection.present - before
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return collection


def _truncated_tar(archive: Path, generator: random.Random, collection: RandomCollection) -> None:
    clips = generator.randrange(1, 6)
    kept = generator.randrange(clips)
    members = [member for n in range(clips) for member in ((f"{n}.wav", _sound(generator)), (f"{n}.txt", b"a tone"))]
    _write_tar(archive, members)
    blocks = sum(1 + -(-len(data) // 512) for _, data in members[: 2 * kept])
    os.truncate(archive, 512 * blocks + generator.choice([0, 100, 512, 600]))
    collection.count(good=True, clips=kept)
    collection.count(good=False, clips=clips - kept)


def _sample(key: str, generator: random.Random, collection: RandomCollection) -> list[tuple[str, bytes]]:
    audio, text = (f"{key}.wav", _sound(generator)), (f"{key}.txt", b"a tone\nanother")
    state = generator.randrange(9)
    collection.count(good=state < 2, clips=3 if state == 2 else 1)
    match state:
        case 1:
            return [audio, (f"{key}.json", b'{"text": ["a", "nan"], "tag": ["x"]}')]
        case 2:  # three clips whose names differ after a dot
            return [
                (f"{key}.{part}.{each}", data) for part in "abc" for each, data in (("wav", audio[1]), ("txt", b"a"))
            ]
        case 3:
            return [audio]
        case 4:
            return [text]
        case 5:
            return [(audio[0], _bad_sound(generator)), text]
        case 6:
            return [audio, (f"{key}.json", generator.choice([b"{", b"{}", b"[]", b'{"text": "nan"}', POINTER]))]
        case 7:
            return [(f"{key}.unknown", audio[1]), text]
        case 8:
            return [audio, (text[0], generator.choice([b"", b"nan\n", b"caf\xe9"]))]
    return [audio, text]


def _write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def _tables(folder: Path, generator: random.Random) -> RandomCollection:
    collection = RandomCollection(folder, {"kind": "huggingface", "id_column": "key"})
    schema = pa.schema([("audio", pa.binary()), ("caption", pa.list_(pa.string())), ("key", pa.string())])
    count, rows_of_split = generator.randrange(2, 4), 0
    for shard in range(count):
        damaged = generator.random() < 0.3
        rows: list[dict[str, Any]] = []
        repeated: list[dict[str, Any]] = []
        for number in range(generator.randrange(2, 6)):
            row = {"audio": _sound(generator), "caption": ["a tone", "another"], "key": f"{shard} {number}"}
            state = 0 if damaged else generator.randrange(6)
            collection.count(good=state < 3 and not damaged)
            if state == 1:  # a row for each caption
                rows.append({**row, "caption": ["a"]})
            elif state == 2:  # one id for two clips
                repeated.append({**row, "audio": _sound(generator)})
                collection.count(good=False)
                rows.append(row)
                row = {**row, "audio": _sound(generator), "key": f"{shard} {number} next"}
                collection.count(good=True)
            elif state == 3:
                row["audio"] = _bad_sound(generator)
            elif state == 4:
                row["caption"] = generator.choice([None, [], [" "], ["nan"]])
            elif state == 5:
                row["audio"] = None
            rows.append(row)
        rows += repeated
        path = folder / f"train-{shard:05d}-of-{count:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
        rows_of_split += len(rows)
        if damaged:
            os.truncate(path, 40)
    (folder / "README.md").write_text(
        f"---\ndataset_info:\n  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: {rows_of_split}\n---\n"
    )
    return collection
