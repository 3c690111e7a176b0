import json

import numpy as np
import pytest

from slap_jax.data.collections.caption_text import is_missing, list_items, plain_captions
from slap_jax.data.collections.folders import AudioFolder
from slap_jax.data.collections.manifest import Manifest
from tests.data.listing import listed
from tests.data.tiny_data import write_tone

TEXTS = [
    "a dog barks",
    "it's a dog",
    'a "loud" dog',
    "barking, loudly",
    "back\\slash \\d",
    "two\nlines",
    "[x] (y)",
    "ä雨😀",
]


@pytest.mark.parametrize("write", [str, repr, json.dumps, lambda texts: json.dumps(texts, ensure_ascii=False), tuple])
@pytest.mark.parametrize("count", [1, 2, len(TEXTS)])
def test_lists_as_programs_write_them(write, count):
    for start in range(len(TEXTS) - count + 1):
        texts = TEXTS[start : start + count]
        assert list_items(str(write(texts))) == texts


def test_arrays_of_numpy_have_no_commas():
    texts = np.array(["a dog barks", "it's a dog", "a third caption that makes the line too long for one line of text"])
    assert list_items(str(texts)) == list(texts)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", []),
        (" ['a'] ", ["a"]),
        ("['a', nan, None]", ["a"]),
        ('["a", null, NaN]', ["a"]),
        ("[nan]", []),
        ("('a',)", ["a"]),
        ("['a', 'b',]", ["a", "b"]),
    ],
)
def test_other_lists(text, items):
    assert list_items(text) == items


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a dog",
            "",
            "[",
            "[applause]",
            "[music] a dog [music]",
            "(a dog barks)",
            "[1, 2]",
            "['a', 1]",
            "['a'",
            "['a)",
        ),
        *("[['a'], ['b']]", "[b'a']", "['a' + 'b']", "['a', , 'b']", '{"a": "b"}', "[__import__('os')]", "['a', x]"),
        *("['\\ud83d\\x']", "[" * 10_000 + "]" * 10_000, "['a']['b']", "[f'a']"),
    ],
)
def test_other_texts_are_no_lists(text):
    assert list_items(text) is None


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL", "N/A", "#N/A", "<NA>", " nan "])
def test_words_for_missing_values(word):
    assert is_missing(word) and plain_captions([word, "a dog", f"['{word}']"]) == ["a dog"]


def test_longer_texts_with_such_words_stay():
    texts = ["none of the dogs bark", "nana", "a null", "NaN."]
    assert plain_captions(texts) == texts
    assert not is_missing("none", caption=False) and is_missing("nan", caption=False)


def test_readers_take_lists_and_missing_values(tmp_path):
    for name in "abcd":
        write_tone(tmp_path / f"{name}.wav")
    (tmp_path / "m.csv").write_text(
        "path,caption,labels\n"
        "a.wav,\"['a dog barks', 'barking, loud']\",\"['dog', 'bark']\"\n"
        'b.wav,"[""a cat"", ""mew""]",nan\n'
        "c.wav,nan,\n"
        "d.wav,nan,dog;label=none\n"
    )
    entries, (rejection,) = listed(Manifest(tmp_path / "m.csv"))
    assert [(entry.captions, entry.labels) for entry in entries] == [
        (("a dog barks", "barking, loud"), ("dog", "bark")),
        (("a cat", "mew"), ()),
        ((), ("dog", "label=none")),
    ]
    assert (rejection.id, rejection.reason) == ("c.wav", "empty_caption")
    assert "stands for a missing value ('nan')" in rejection.detail
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,label\na.wav,\"['one', 'two']\",\"['x_y', 'z']\"\nb.wav,None,nan\n"
    )
    (entry,), (rejection,) = listed(AudioFolder(tmp_path))
    assert (entry.captions, entry.labels) == (("one", "two"), ("label=x y", "label=z"))
    assert (rejection.id, rejection.reason) == ("b.wav", "empty_caption")
