import json

import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.fields import CollectionError, collection_name
from slap_jax.data.collections.folders import AudioFolder, SidecarFolder
from tests.data.listing import listed, reasons
from tests.data.tiny_data import write_manifest, write_tone
from tests.data.unprivileged import unprivileged_folder


@pytest.fixture
def audio(tmp_path):
    for name in ("a.wav", "train/b.wav", "test/train/c.wav"):
        write_tone(tmp_path / name)
    return tmp_path


def test_metadata_at_any_depth(audio):
    (audio / "metadata.csv").write_text(
        'file_name,caption,label,licence,duration_s,regions\na.wav,"a, b",hard_rock,CC0,0.25,\ntrain/b.wav,c,,,,x\n'
    )
    rows = [{"file_name": "train/c.wav", "text": ["d", "e"], "tags": ["f"]}]
    write_manifest(audio / "test", rows, "metadata.jsonl")
    entries, rejections = listed(AudioFolder(audio, "mine"))
    assert not rejections
    assert [(entry.id, entry.split, entry.captions, entry.labels) for entry in entries] == [
        ("a.wav", "train", ("a, b",), ("label=hard rock",)),
        ("train/b.wav", "train", ("c",), ()),
        ("test/train/c.wav", "test", ("d", "e"), ("f",)),
    ]
    assert (entries[0].licence, entries[0].duration_s, entries[0].where) == ("CC0", 0.25, "metadata.csv:2")
    assert entries[2].audio == AudioFile(audio / "test/train/c.wav") and entries[2].where == "test/metadata.jsonl:1"
    assert {entry.source for entry in entries} == {"mine"}


def test_chosen_columns_and_split(audio):
    (audio / "metadata.csv").write_text("file_name,title,kind\na.wav,A,x_y\n")
    with pytest.raises(CollectionError, match=r"captions or labels; its columns are file_name, title, kind: name them"):
        listed(AudioFolder(audio))
    folder = AudioFolder(audio, split="test", caption_columns=["title"], label_columns=["kind"])
    (entry,), _ = listed(folder)
    assert (entry.captions, entry.labels, entry.split) == (("A",), ("kind=x y",), "test")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"file_name": "no.wav", "text": "a"}, "missing_file"),
        ({"file_name": "../a.wav", "text": "a"}, "outside_root"),
        ({"text": "a"}, "bad_field"),
        ({"file_name": ["a.wav"], "text": "a"}, "bad_field"),
        ({"file_name": "a.wav"}, "missing_caption"),
        ({"file_name": "a.wav", "text": " "}, "empty_caption"),
        ({"file_name": "a.wav", "text": 3}, "bad_field"),
        ("{", "bad_json"),
    ],
)
def test_bad_rows_are_rejected_between_good_ones(audio, row, reason):
    first, last = ({"file_name": name, "text": "good"} for name in ("train/b.wav", "test/train/c.wav"))
    write_manifest(audio, [first, row, last], "metadata.jsonl")
    entries, (rejection,) = listed(AudioFolder(audio))
    assert [entry.where for entry in entries] == ["metadata.jsonl:1", "metadata.jsonl:3"]
    assert (rejection.where, rejection.reason) == ("metadata.jsonl:2", reason)


@pytest.mark.parametrize(
    ("header", "options", "words"),
    [
        ("file,caption", {}, "no column 'file_name'; its columns are file, caption"),
        ("file_name,caption", {"caption_columns": ["title"]}, "no column 'title'"),
    ],
)
def test_csv_without_the_needed_columns(audio, header, options, words):
    (audio / "metadata.csv").write_text(header + "\na.wav,x\n")
    with pytest.raises(CollectionError, match=words):
        listed(AudioFolder(audio, **options))


def test_audiofolders_that_cannot_be_read(audio):
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(AudioFolder(audio))
    with pytest.raises(CollectionError, match="is not a folder"):
        AudioFolder(audio / "a.wav")


def test_folder_with_sidecars(tmp_path):
    for name in ("train/a.wav", "train/b.wav", "test/deep/c.wav", "d.wav", "e.wav", ".hidden/f.wav", "test/.g.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "train/a.txt").write_text("first\n\nsecond\u2028half\n", encoding="utf-8-sig")
    (tmp_path / "train/b.json").write_text(json.dumps({"caption": "b", "labels": ["x"], "split": "extra"}))
    (tmp_path / "train/b.txt").write_text("not read, because there is a .json")
    (tmp_path / "test/deep/c.txt").write_text("c")
    (tmp_path / "d.json").write_text("{")
    entries, rejections = listed(SidecarFolder(tmp_path))
    assert [(entry.id, entry.captions, entry.split) for entry in entries] == [
        ("test/deep/c.wav", ("c",), "test"),
        ("train/a.wav", ("first", "second\u2028half"), "train"),
        ("train/b.wav", ("b",), "extra"),
    ]
    assert entries[0].audio == AudioFile(tmp_path / "test/deep/c.wav")
    assert entries[2].labels == ("x",)
    assert {entry.source for entry in entries} == {collection_name(tmp_path)}
    assert {r.where: r.reason for r in rejections} == {"d.wav": "bad_json", "e.wav": "missing_caption"}
    assert SidecarFolder(tmp_path, "mine").name == "mine"


@pytest.mark.parametrize(
    ("sidecar", "data", "reason"),
    [
        ("a.txt", b"caf\xe9", "bad_text"),
        ("a.txt", b"\n \n", "empty_caption"),
        ("a.txt", b"x" * 5_000_000, "long_text"),
        ("a.json", b'{"caption": "caf\xe9"}', "bad_text"),
        ("a.json", b'["a tone"]', "bad_field"),
        ("a.json", b'{"captions": [1]}', "bad_field"),
        ("a.json", b"{}", "missing_caption"),
    ],
)
def test_bad_sidecars_reject_their_clip_only(tmp_path, sidecar, data, reason):
    write_tone(tmp_path / "a.wav")
    write_tone(tmp_path / "b.wav")
    (tmp_path / sidecar).write_bytes(data)
    (tmp_path / "b.txt").write_text("good")
    entries, (rejection,) = listed(SidecarFolder(tmp_path))
    assert [entry.id for entry in entries] == ["b.wav"]
    assert (rejection.where, rejection.id, rejection.reason) == ("a.wav", "a.wav", reason)


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_tone(elsewhere / "deep" / "a.wav")
    (elsewhere / "deep" / "a.txt").write_text("a tone")
    write_tone(root / "b.wav")
    (root / "b.txt").write_text("another")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(root)
    (root / "up").symlink_to("..")
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "broken.wav").symlink_to("nowhere.wav")
    entries, _ = listed(SidecarFolder(root))
    assert [entry.id for entry in entries] == ["b.wav", "linked/deep/a.wav", "up/elsewhere/deep/a.wav"]
    assert reasons(SidecarFolder(root)) == {
        "broken.wav": "missing_file",
        "linked/deep/back": "link_loop",
        "loop.wav": "unreadable_file",
        "up/elsewhere/deep/back": "link_loop",
        "up/root": "link_loop",
    }


def test_folders_and_sidecars_without_permission():
    with unprivileged_folder() as root:
        for name in ("closed/a.wav", "open/b.wav", "open/c.wav", "lost+found/d.wav"):
            write_tone(root / name)
            (root / name).with_suffix(".txt").write_text("a tone")
        (root / "open/b.txt").chmod(0)
        (root / "lost+found").chmod(0)  # of the file system
        (root / "closed").chmod(0)
        with pytest.raises(CollectionError, match=r"closed cannot be listed: Permission denied; correct its perm"):
            listed(SidecarFolder(root))
        (root / "closed").chmod(0o700)
        entries, rejections = listed(SidecarFolder(root))
        (root / "lost+found").chmod(0o700)
    assert [entry.id for entry in entries] == ["closed/a.wav", "open/c.wav"]
    assert {r.where: r.reason for r in rejections} == {"open/b.wav": "unreadable_file"}


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(CollectionError, match=r"nowhere is not a folder"):
        SidecarFolder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no audio here")
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(SidecarFolder(tmp_path))
