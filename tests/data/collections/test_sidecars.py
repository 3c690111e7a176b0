import json
import unicodedata

import pytest

from slap_jax.data.collections.folders import SidecarFolder
from tests.data.listing import listed
from tests.data.tiny_data import write_tone

NFC, NFD = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


def clip(folder, audio, text, caption="a tone"):
    write_tone(folder / audio)
    (folder / text).write_text(caption)


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        ("dog.WAV", "dog.TXT"),
        ("dog.wav", "Dog.txt"),
        (f"{NFC}.wav", f"{NFD}.txt"),
        (f"{NFD}.wav", f"{NFC}.Txt"),
        ("a.b.wav", "A.B.txt"),
        ("x/dog.wav", "x/DOG.TXT"),
    ],
)
def test_sidecars_of_other_case_or_form(tmp_path, audio, text):
    (tmp_path / "x").mkdir()
    clip(tmp_path, audio, text)
    (entry,), rejections = listed(SidecarFolder(tmp_path))
    assert (entry.id, entry.captions) == (audio, ("a tone",)) and not rejections


def test_json_of_another_case(tmp_path):
    clip(tmp_path, "dog.wav", "dog.JSON", json.dumps({"caption": "from json"}))
    (entry,), _ = listed(SidecarFolder(tmp_path))
    assert entry.captions == ("from json",)


def test_similar_sidecars_of_other_clips_are_not_taken(tmp_path):
    clip(tmp_path, "dog.wav", "dog.txt", "its own")
    write_tone(tmp_path / "Dog.wav")
    (entry,), (rejection,) = listed(SidecarFolder(tmp_path))
    assert (entry.id, entry.captions) == ("dog.wav", ("its own",))
    assert (rejection.id, rejection.reason) == ("Dog.wav", "missing_caption")


def test_two_similar_sidecars_are_ambiguous(tmp_path):
    clip(tmp_path, "dog.wav", "Dog.txt")
    (tmp_path / "DOG.txt").write_text("another")
    entries, (rejection,) = listed(SidecarFolder(tmp_path))
    assert not entries
    assert (rejection.id, rejection.reason) == ("dog.wav", "ambiguous_name")
    assert "DOG.txt and Dog.txt" in rejection.detail and "dog.txt" in rejection.detail


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    clip(tmp_path, "a.wav", "a.txt", "")
    (tmp_path / "a.txt").write_bytes("a tone, ä雨\n".encode(encoding))
    (entry,), _ = listed(SidecarFolder(tmp_path))
    assert entry.captions == ("a tone, ä雨",)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        ("a café".encode("latin-1"), "bad_text", "byte 0xe9 at 5 (perhaps Windows-1252 or Latin-1); save it as UTF-8"),
        ("a tone".encode("utf-16-le"), "bad_text", "NUL characters (UTF-16 without a byte order mark"),
        ("tön".encode("utf-16-le"), "bad_text", "UTF-16 without a byte order mark"),
        (b"\xff\xfea\0b", "bad_text", "damaged UTF-16"),
        (POINTER, "lfs_pointer", "Git LFS pointer, not the file of 12,345 bytes; fetch it with `git lfs pull`"),
    ],
)
def test_other_encodings_are_named(tmp_path, data, reason, words):
    write_tone(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(data)
    _, (rejection,) = listed(SidecarFolder(tmp_path))
    assert rejection.reason == reason and words in rejection.detail


def test_texts_without_audio_are_clips_without_audio(tmp_path):
    clip(tmp_path, "a.wav", "a.txt")
    write_tone(tmp_path / "both.wav")
    (tmp_path / "both.json").write_text('{"caption": "x"}')
    (tmp_path / "both.txt").write_text("belongs to the audio")
    (tmp_path / "lost.txt").write_text("a lost tone")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/gone.json").write_text('{"captions": ["x"]}')
    (tmp_path / "pair.json").write_text('{"labels": ["x"]}')
    (tmp_path / "pair.txt").write_text("the same clip")
    for document in ("README.txt", "LICENSE.txt", "labels.txt", "train.txt"):
        (tmp_path / document).write_text("describes no clip")
    (tmp_path / "settings.json").write_text('{"rate": 16000}')
    (tmp_path / "broken.json").write_text("{")
    entries, rejections = listed(SidecarFolder(tmp_path))
    assert [entry.id for entry in entries] == ["a.wav", "both.wav"]
    assert [(each.id, each.reason, each.clips) for each in rejections] == [
        ("lost", "missing_audio", 1),
        ("pair", "missing_audio", 1),
        ("sub/gone", "missing_audio", 1),
    ]


def test_a_similar_text_that_no_audio_uses_is_mentioned(tmp_path):
    clip(tmp_path, "dog.wav", "dog.txt")
    (tmp_path / "Dog.txt").write_text("whose?")
    (entry,), (rejection,) = listed(SidecarFolder(tmp_path))
    assert entry.id == "dog.wav" and (rejection.id, rejection.reason) == ("Dog", "missing_audio")


@pytest.mark.parametrize("name", ["x.xyz", "x.data", "x"])
def test_files_of_unknown_suffix_with_a_caption_are_mentioned(tmp_path, name):
    clip(tmp_path, "a.wav", "a.txt")
    write_tone(tmp_path / "a.png")  # belongs to a clip
    clip(tmp_path, name, "x.txt")
    (entry,), (rejection,) = listed(SidecarFolder(tmp_path))
    assert entry.id == "a.wav"
    assert (rejection.id, rejection.reason, rejection.clips) == (name, "unknown_suffix", 1)
    assert (f"suffix .{name.partition('.')[2]}" if "." in name else "suffix (none)") in rejection.detail
