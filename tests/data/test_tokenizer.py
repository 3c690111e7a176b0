"""SentencePiece and Hugging Face tokenizers: ids, truncation, round trips, training and broken files."""

import json
import sys
from pathlib import Path

import pytest
import sentencepiece

from slap_jax.data.tokenizer import BOS, EOS, PAD, UNK, TokenizerError, load_tokenizer, train_tokenizer
from tests.data.tiny_data import tiny_captions
from tests.tiny_modernbert import IDS, SIZES, write_tokenizer

CAPTIONS = [caption for index in range(40) for caption in tiny_captions(index)]


def test_special_ids_and_round_trip(tokenizer):
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    ids = tokenizer.encode("a low tone number 3", 64)
    assert ids[0] == BOS and ids[-1] == EOS and all(UNK < token < tokenizer.vocab_size for token in ids[1:-1])
    assert tokenizer.decode(ids) == "a low tone number 3"


def test_case_and_width_do_not_matter(tokenizer):
    assert tokenizer.encode("A LOW  tone", 64) == tokenizer.encode("a low tone", 64)
    assert tokenizer.encode("ｌｏｗ", 64) == tokenizer.encode("low", 64)


@pytest.mark.parametrize("limit", [2, 3, 5, 100])
def test_truncation_keeps_the_ends(tokenizer, limit):
    whole = tokenizer.encode("a low tone number 3", 1_000)
    ids = tokenizer.encode("a low tone number 3", limit)
    assert len(ids) == min(limit, len(whole))
    assert ids == [*whole[: len(ids) - 1], EOS]


def test_limit_below_two_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="max_tokens is 1; write 2 or more"):
        tokenizer.encode("a", 1)


def test_decode_stops_at_the_end_and_drops_padding(tokenizer):
    ids = tokenizer.encode("soft buzz", 64)
    assert tokenizer.decode([PAD, *ids, *tokenizer.encode("loud", 64), PAD]) == "soft buzz"
    assert tokenizer.decode([]) == ""


def test_same_captions_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        train_tokenizer(CAPTIONS, tmp_path / name / "t.model", 60)
    assert (tmp_path / "a/t.model").read_bytes() == (tmp_path / "b/t.model").read_bytes()


def test_the_vocabulary_is_at_most_as_large_as_requested(tmp_path):
    assert train_tokenizer(CAPTIONS, tmp_path / "t.model", 60).vocab_size == 60
    assert train_tokenizer(CAPTIONS[:4], tmp_path / "u.model", 60_000).vocab_size < 200


@pytest.mark.parametrize(
    ("captions", "size", "words"), [([], 60, "no captions"), ([" "], 60, "no captions"), (CAPTIONS, 5, "vocab_size")]
)
def test_impossible_training_says_what_to_do(tmp_path, captions, size, words):
    with pytest.raises(TokenizerError, match=words):
        train_tokenizer(captions, tmp_path / "t.model", size)
    assert not (tmp_path / "t.model").exists()


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(TokenizerError, match=r"t\.model is missing; train one with `slap tokenizer`"):
        load_tokenizer(tmp_path / "t.model")
    with pytest.raises(TokenizerError, match=r"config\.data\.tokenizer is empty"):
        load_tokenizer("")
    (tmp_path / "t.model").write_text("hello")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "t.model")
    with (tmp_path / "other.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(CAPTIONS), model_writer=file, vocab_size=60, minloglevel=2
        )
    with pytest.raises(TokenizerError, match="pad, bos, eos, unk"):
        load_tokenizer(tmp_path / "other.model")


def test_rare_letters_are_kept_by_default(tmp_path):
    captions = [f"a dog barks {number} times" for number in range(3_000)] + ["a jazz quartet"]
    whole = train_tokenizer(captions, tmp_path / "whole.model", 200)
    assert whole.decode(whole.encode("a jazz quartet", 40)) == "a jazz quartet"
    common = train_tokenizer(captions, tmp_path / "common.model", 200, character_coverage=0.999)
    assert "\u2047" in common.decode(common.encode("a jazz quartet", 40))


CLASSES = [
    *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insect", "sheep", "crow", "rain", "waves", "crackling"),
    *("crickets", "chirping", "thunderstorm", "clapping", "breathing", "coughing", "footsteps", "laughing", "snoring"),
    *("sneezing", "drinking", "helicopter", "chainsaw", "siren", "engine", "train", "fireworks"),
]


@pytest.mark.parametrize("template", ["the sound of {}", "{}", "{} is heard", "a loud {} outside"])
def test_names_in_a_template_are_pieces(tmp_path, template, caplog):
    captions = [template.format(name) for name in CLASSES for _ in range(20)]
    trained = train_tokenizer(captions, tmp_path / "t.model", 500)
    words = sum(len(caption.split()) for caption in captions)
    assert sum(trained.length(caption) - 2 for caption in captions) / words < 1.6
    assert all(trained.length(name) == 3 for name in CLASSES)
    assert all(trained.decode(trained.encode(name, 9)) == name for name in CLASSES)
    assert f"give {trained.vocab_size} pieces, not the 500" in caplog.text


def test_words_that_stay_letters_are_mentioned(tmp_path, caplog):
    captions = [f"{number:08x} {number * 7919:08x}" for number in range(10**6, 10**6 + 500)]
    train_tokenizer(captions, tmp_path / "t.model", 60)
    assert "tokens on average, so many words are spelled by letters" in caplog.text


def test_captions_that_training_would_cut_are_mentioned(tmp_path, caplog):
    train_tokenizer([*CAPTIONS, " ".join(CAPTIONS)], tmp_path / "t.model", 80, max_tokens=40)
    assert "1 % of the captions have more than config.data.max_caption_tokens=40 tokens" in caplog.text


DEMO = Path(__file__).parents[2] / "demo_data" / "manifest.jsonl"
NATURAL = [caption for line in DEMO.read_text().splitlines() for caption in json.loads(line)["captions"]]
JAPANESE = ["雨が降っている", "犬が吠えている", "犬と雨"] * 20


@pytest.mark.parametrize(("captions", "size", "further"), [(NATURAL, 400, True), (JAPANESE, 20, False)])
def test_ordinary_captions_get_no_warning(tmp_path, captions, size, further, caplog):
    """Those of the demo are trained again with their frequent words; a script without spaces has no words to add."""
    with (tmp_path / "plain.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(captions),
            model_writer=file,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc_cf",
            num_threads=1,
            minloglevel=2,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
        )
    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "plain.model"))
    trained = train_tokenizer(captions, tmp_path / "t.model", size, max_tokens=64)
    tokens = [len(trained.encode(each, 99)) - 2 for each in captions]
    if further:
        assert sum(tokens) < 0.8 * sum(len(plain.encode(each)) for each in captions)
        assert sum(tokens) < 1.5 * sum(len(each.split()) for each in captions)
    else:
        assert all(trained.encode(each, 99)[1:-1] == plain.encode(each) for each in captions)
    assert not caplog.records


def test_length_is_that_of_the_uncut_caption(tokenizer):
    for text in ("", "a low soft tone", "a low soft tone " * 40):
        assert tokenizer.length(text) == len(tokenizer.encode(text, 100_000))


JSON_CAPTIONS = ["a dog barks outside", "rain falls in a large hall", "someone speaks, then laughs", "Vögel singen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, JSON_CAPTIONS, SIZES["vocab_size"])
    return directory


@pytest.fixture(scope="module")
def json_tokenizer(folder):
    return load_tokenizer(folder / "tokenizer.json")


def test_special_ids_are_the_files_own(json_tokenizer, folder):
    assert json_tokenizer.path == str(folder / "tokenizer.json") and json_tokenizer.vocab_size == SIZES["vocab_size"]
    special = (json_tokenizer.pad, json_tokenizer.bos, json_tokenizer.eos, json_tokenizer.unk)
    assert special == tuple(IDS[name] for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]"))


@pytest.mark.parametrize("text", [*JSON_CAPTIONS, "Emoji 🐦, 3.5 kHz", "a  double space"])
def test_round_trip(json_tokenizer, text):
    ids = json_tokenizer.encode(text, 1_000)
    assert (ids[0], ids[-1]) == (json_tokenizer.bos, json_tokenizer.eos)
    assert not set(ids[1:-1]) & set(IDS.values())
    assert json_tokenizer.decode(ids) == text and json_tokenizer.length(text) == len(ids)


def test_ids_are_those_that_the_file_gives_with_its_own_template(json_tokenizer, folder):
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert all(json_tokenizer.encode(text, 1_000) == own.encode(text).ids for text in JSON_CAPTIONS)


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_json_truncation_keeps_the_ends(json_tokenizer, limit):
    whole = json_tokenizer.encode(JSON_CAPTIONS[2], 1_000)
    assert json_tokenizer.encode(JSON_CAPTIONS[2], limit) == [*whole[: limit - 1], json_tokenizer.eos]


def test_a_caption_ignores_the_padding_and_truncation_of_the_file(json_tokenizer, folder, tmp_path):
    described = json.loads((folder / "tokenizer.json").read_text())
    described["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    described["padding"] = padding | {"pad_id": IDS["[PAD]"], "pad_token": "[PAD]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(JSON_CAPTIONS[0], 99) == json_tokenizer.encode(
        JSON_CAPTIONS[0], 99
    )


def test_special_tokens_in_a_caption_are_spelled(json_tokenizer):
    ids = json_tokenizer.encode("a [SEP] dog [PAD]", 100)
    assert not set(ids[1:-1]) & set(IDS.values())
    assert json_tokenizer.decode(ids) == "a [SEP] dog [PAD]"


def test_decode_stops_at_the_end_and_drops_special_tokens(json_tokenizer):
    ids = json_tokenizer.encode("rain falls", 64)
    assert json_tokenizer.decode([IDS["[PAD]"], *ids, *json_tokenizer.encode("a dog", 64)]) == "rain falls"
    assert json_tokenizer.decode([IDS["[MASK]"], *ids[1:-1], IDS["[UNK]"], 10_000]) == "rain falls"
    assert json_tokenizer.decode([]) == ""


def test_files_that_are_not_a_vocabulary_are_errors(tmp_path, folder, monkeypatch):
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


@pytest.mark.parametrize("coverage", [0.9, 1.01, float("nan")])
def test_an_impossible_character_coverage(tmp_path, coverage):
    with pytest.raises(TokenizerError, match=r"character_coverage is .*; write a number from 0.98 to 1"):
        train_tokenizer(CAPTIONS, tmp_path / "words.model", 60, character_coverage=coverage)
