import os
import unicodedata

import pytest

from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.reading import (
    AudioFileIndex,
    label,
    licence_name,
    list_audio,
    read_json_list,
    read_json_objects,
    read_lines,
    read_table,
    walk_folders,
)
from tests.data.datasets.publisher_files import write_wav


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sea_waves", "label=sea waves"),
        ("_unknown_", "label=unknown"),
        ("bee, wasp, etc. buzzing", "label=bee, wasp, etc. buzzing"),
        ("horse clip-clop", "label=horse clip-clop"),
        (" ", "label="),
    ],
)
def test_labels_are_words(value, words):
    assert label("label", value) == words


def test_folders_are_listed_once_despite_links_and_loops(tmp_path):
    (tmp_path / "root/b/deep").mkdir(parents=True)
    (tmp_path / "root/.git").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/b/deep/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/c").symlink_to(tmp_path / "root/b")
    names = [os.path.relpath(folder, tmp_path / "root") for folder in walk_folders(tmp_path / "root")]
    assert names == [".", "a", "b", "b/deep"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything, also where tests run
    with pytest.raises(LayoutError, match=r"closed cannot be read \(Permission denied\); change its permissions"):
        walk_folders(tmp_path)


def test_audio_of_a_folder_is_neither_hidden_nor_text(tmp_path):
    for name in ("b.WAV", "a.flac", "._a.flac"):
        write_wav(tmp_path / name)
    (tmp_path / "a.txt").write_text("text")
    assert list_audio(tmp_path) == [tmp_path / "a.flac", tmp_path / "b.WAV"]
    assert list_audio(tmp_path / "absent") == []


def test_lines_have_their_numbers(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffa/b.wav \r\n\n -c.wav\n".encode())
    assert list(read_lines(tmp_path / "names.txt")) == [("names.txt:1", "a/b.wav"), ("names.txt:3", "-c.wav")]


def test_a_file_is_found_by_its_first_name_in_the_first_folder(tmp_path):
    for name in ("one/-a.wav", "two/-a.flac", "two/b.mp3", "two/b.wav", "two/c: d.wav"):
        write_wav(tmp_path / name)
    files = AudioFileIndex([tmp_path / "one", tmp_path / "absent", tmp_path / "two"])
    assert len(files) == 3
    assert files.find("-a") == tmp_path / "one/-a.wav"
    assert files.find("absent", "b", "-a") == tmp_path / "two/b.wav"
    assert files.find("c_  d") == tmp_path / "two/c: d.wav"
    assert files.find("absent") is None


def test_a_name_that_loosely_matches_two_files_matches_none(tmp_path):
    for name in ("c: d.wav", "c_ d.wav"):
        write_wav(tmp_path / name)
    files = AudioFileIndex([tmp_path])
    assert files.find("c_  d") is None
    assert files.find("c_ d") == tmp_path / "c_ d.wav"


@pytest.mark.parametrize(("stored", "stated"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_of_another_unicode_form_match(tmp_path, stored, stated):
    write_wav(tmp_path / f"{unicodedata.normalize(stored, 'Übung')}.wav")
    file = AudioFileIndex([tmp_path]).find(unicodedata.normalize(stated, "Übung"))
    assert file is not None and file.is_file()
    assert AudioFileIndex([tmp_path]).find("übung") is None  # ids of videos differ in case alone


@pytest.mark.parametrize(
    "read",
    [
        lambda path: list(read_table(path, ["a"])),
        lambda path: list(read_lines(path)),
        lambda path: list(read_json_list(path, "data")),
        read_json_objects,
    ],
)
def test_git_lfs_pointers_are_named(tmp_path, read):
    (tmp_path / "list").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4499\nsize 1234\n")
    with pytest.raises(LayoutError, match=r"list is a Git LFS pointer, not the file of 1,234 bytes; .*`git lfs pull`"):
        read(tmp_path / "list")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("http://creativecommons.org/licenses/by-nc/4.0/legalcode", "CC-BY-NC-4.0"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC-SAMPLING+-1.0"),
        ("creativecommons.org/licenses/by", "CC-BY"),
        (" see the website ", "see the website"),
        ("", ""),
    ],
)
def test_licence_names(text, name):
    assert licence_name(text) == name


def test_a_list_that_is_not_text_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"yes/one.wav\nno/caf\xe9.wav\n")
    with pytest.raises(LayoutError, match=r"list\.txt is not UTF-8 text; download it again"):
        list(read_lines(tmp_path / "list.txt"))
