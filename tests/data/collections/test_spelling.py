import os
import unicodedata

import pytest

from slap_jax.data.collections import spelling
from slap_jax.data.collections.entries import file_of
from slap_jax.data.collections.fields import RejectedClip, audio_file
from slap_jax.data.collections.manifest import Manifest
from slap_jax.data.collections.spelling import AmbiguousNameError, find_spelling, fold
from tests.data.listing import listed
from tests.data.tiny_data import write_manifest, write_tone

NFC, NFD = (unicodedata.normalize(form, "Übung é") for form in ("NFC", "NFD"))


def test_forms_and_cases_fold_to_one():
    assert NFC != NFD
    assert fold(NFC) == fold(NFD) == fold(NFC.upper()) == fold(NFD.lower()) != fold("Ubung é")
    assert fold("caf\udce9") == fold("CAF\udce9")


@pytest.mark.parametrize(
    ("stored", "stated"),
    [
        (f"{NFD}.wav", f"{NFC}.wav"),
        (f"{NFC}.wav", f"{NFD}.wav"),
        ("Dog.WAV", "dog.wav"),
        (f"{NFD}/{NFD}/Dog.wav", f"{NFC}/{NFC}/DOG.wav"),
        (f"a/{NFD}.wav", f"./b/../a/{NFC}.wav"),
    ],
)
def test_similar_names_are_one_file(tmp_path, stored, stated):
    write_tone(tmp_path / stored)
    (entry,), rejections = listed(Manifest(write_manifest(tmp_path, [{"path": stated, "caption": "x"}])))
    assert not rejections
    assert entry.id == stated and os.path.samefile(file_of(entry.audio), tmp_path / stored)


def test_the_exact_name_has_priority_and_two_similar_ones_are_ambiguous(tmp_path):
    for name in ("dog.wav", "Dog.wav", "DOG.wav"):
        write_tone(tmp_path / name)
    assert audio_file(tmp_path, "Dog.wav").path.name == "Dog.wav"
    with pytest.raises(RejectedClip) as caught:
        audio_file(tmp_path, "dOG.wav")
    assert caught.value.reason == "missing_file"
    assert "'DOG.wav' and 'Dog.wav' and 'dog.wav'; write one of these" in caught.value.detail
    with pytest.raises(AmbiguousNameError):
        find_spelling(str(tmp_path), "dOG.wav")


def test_a_similar_name_outside_or_of_a_folder_is_no_file(tmp_path):
    (tmp_path / "root" / "Dog.wav").mkdir(parents=True)
    write_tone(tmp_path / "Cat.wav")
    for path in ("dog.wav", "../cat.wav", "nowhere/cat.wav", "dog.wav/cat.wav"):
        with pytest.raises(RejectedClip):
            audio_file(tmp_path / "root", path)


def test_a_folder_is_listed_once_until_it_changes(tmp_path, monkeypatch):
    write_tone(tmp_path / "a.wav")
    count = 0
    scandir = os.scandir

    def counted(folder):
        nonlocal count
        count += 1
        return scandir(folder)

    monkeypatch.setattr(spelling.os, "scandir", counted)
    for number in range(50):
        assert find_spelling(str(tmp_path), f"missing-{number}.wav") is None
    assert count == 1
    write_tone(tmp_path / "B.wav")
    os.utime(tmp_path, ns=(1, 1))
    assert find_spelling(str(tmp_path), "b.wav") == str(tmp_path / "B.wav")
