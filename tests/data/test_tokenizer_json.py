"""A vocabulary in a Hugging Face tokenizer.json: what the ids mean, and what is said of files that are none."""

import json
import sys

import pytest

from slap_jax.data.tokenizer import TokenizerError, load_tokenizer
from tests.tiny_modernbert import IDS, SIZES, write_tokenizer

CAPTIONS = ["a dog barks outside", "rain falls in a large hall", "someone speaks, then laughs", "Vögel singen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, CAPTIONS, SIZES["vocab_size"])
    return directory


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder / "tokenizer.json")


def test_special_ids_are_the_files_own(tokenizer, folder):
    assert tokenizer.path == str(folder / "tokenizer.json") and tokenizer.vocab_size == SIZES["vocab_size"]
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk)
    assert special == tuple(IDS[name] for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]"))


@pytest.mark.parametrize("text", [*CAPTIONS, "Emoji 🐦, 3.5 kHz", "a  double space"])
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, 1_000)
    assert (ids[0], ids[-1]) == (tokenizer.bos, tokenizer.eos)
    assert not set(ids[1:-1]) & set(IDS.values())
    assert tokenizer.decode(ids) == text and tokenizer.length(text) == len(ids)


def test_ids_are_those_that_the_file_gives_with_its_own_template(tokenizer, folder):
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert all(tokenizer.encode(text, 1_000) == own.encode(text).ids for text in CAPTIONS)


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_truncation_keeps_the_ends(tokenizer, limit):
    whole = tokenizer.encode(CAPTIONS[2], 1_000)
    assert tokenizer.encode(CAPTIONS[2], limit) == [*whole[: limit - 1], tokenizer.eos]


def test_a_caption_is_never_longer_or_padded_by_what_the_file_says(tokenizer, folder, tmp_path):
    described = json.loads((folder / "tokenizer.json").read_text())
    described["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    described["padding"] = padding | {"pad_id": IDS["[PAD]"], "pad_token": "[PAD]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(CAPTIONS[0], 99) == tokenizer.encode(CAPTIONS[0], 99)


def test_special_tokens_in_a_caption_are_spelled(tokenizer):
    ids = tokenizer.encode("a [SEP] dog [PAD]", 100)
    assert not set(ids[1:-1]) & set(IDS.values())
    assert tokenizer.decode(ids) == "a [SEP] dog [PAD]"


def test_decode_stops_at_the_end_and_drops_what_is_special(tokenizer):
    ids = tokenizer.encode("rain falls", 64)
    assert tokenizer.decode([IDS["[PAD]"], *ids, *tokenizer.encode("a dog", 64)]) == "rain falls"
    assert tokenizer.decode([IDS["[MASK]"], *ids[1:-1], IDS["[UNK]"], 10_000]) == "rain falls"
    assert tokenizer.decode([]) == ""


def test_files_that_are_no_vocabulary(tmp_path, folder, monkeypatch):
    with pytest.raises(TokenizerError, match=r"is a directory; .*the tokenizer\.json of a ModernBERT folder"):
        load_tokenizer(folder)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read \(.*\); give the tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
    other = (folder / "tokenizer.json").read_text().replace("[CLS]", "<s>").replace("[SEP]", "</s>")
    (tmp_path / "tokenizer.json").write_text(other)
    with pytest.raises(TokenizerError, match=r"has no \[CLS\] and no \[SEP\]; expected ModernBERT's special tokens"):
        load_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TokenizerError, match=r"needs the package tokenizers .*pip install 'slap-jax\[modernbert\]'"):
        load_tokenizer(folder / "tokenizer.json")
