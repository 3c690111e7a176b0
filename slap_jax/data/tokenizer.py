"""Tokenizers of captions: a SentencePiece model, trained here, or the `tokenizer.json` of a ModernBERT folder."""

import abc
import io
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from slap_jax.atomic import write_bytes_atomic
from slap_jax.errors import UserError

# The ids that `slap tokenizer` gives its special tokens.
PAD, BOS, EOS, UNK = 0, 1, 2, 3

# ModernBERT's names of the same tokens.
SPECIAL = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}

# NFKC, collapsed white space, lower case: the case of captions differs between collections and carries no meaning.
NORMALISATION = "nmt_nfkc_cf"
_LEAST_COVERAGE = 0.98  # of characters; SentencePiece accepts no less

# A vocabulary with more tokens per word lacks frequent words, and is trained again with them; with more than that, it
# spells words by letters. Captions of many kinds need 1.1 to 1.8.
_ENOUGH_TOKENS_PER_WORD = 1.5
_MOST_TOKENS_PER_WORD = 2.0
_MEASURED_CAPTIONS = 10_000
_SMALL_VOCABULARY = 0.5  # of the requested size
_MANY_CUT = 0.01  # of the captions


class TokenizerError(UserError, ValueError):
    """A tokenizer is missing, cannot be read or cannot be trained; the message says what to do."""


class Tokenizer(abc.ABC):
    """Converts captions to token ids and back; `load_tokenizer` reads one.

    Attributes:
        path: the file it was read from.
        vocab_size: largest id plus one; `config.model.vocab_size` must be at least this.
        pad: id of padding.
        bos: id of the start of a caption.
        eos: id of the end of a caption.
        unk: id of text that the vocabulary cannot spell.
    """

    path: str
    vocab_size: int
    pad: int
    bos: int
    eos: int
    unk: int

    @abc.abstractmethod
    def _pieces(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""

    @abc.abstractmethod
    def _spell(self, pieces: list[int]) -> str:
        """Returns the text of ids that are not padding, start or end."""

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Returns `[bos, ...pieces..., eos]`, truncated to `max_tokens` ids with `eos` kept.

        Args:
            text: one caption.
            max_tokens: at least 2.

        Raises:
            TokenizerError: `max_tokens` is below 2.
        """
        if max_tokens < 2:
            raise TokenizerError(f"max_tokens is {max_tokens}; write 2 or more: the start and end tokens alone take 2")
        return [self.bos, *self._pieces(text)[: max_tokens - 2], self.eos]

    def length(self, text: str) -> int:
        """Returns the number of ids of the whole caption."""
        return len(self._pieces(text)) + 2

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first `eos`, without special tokens and in normalised form."""
        pieces = []
        for token in map(int, ids):
            if token == self.eos:
                break
            if token not in (self.pad, self.bos):
                pieces.append(token)
        return self._spell(pieces)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model as written by `slap tokenizer`; captions become lower case."""

    def __init__(self, path: str | os.PathLike[str]):
        """Loads a model.

        Args:
            path: SentencePiece `.model` file with ids pad, bos, eos, unk = 0, 1, 2, 3.

        Raises:
            TokenizerError: the file is not a SentencePiece model, or has other special ids.
        """
        self.path = os.fspath(path)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(Path(path).read_bytes())
        except RuntimeError as error:
            raise TokenizerError(
                f"tokenizer {self.path} is not a SentencePiece model; train one with `slap tokenizer`, or give a "
                "Hugging Face tokenizer.json by a name that ends in .json"
            ) from error
        special_ids = tuple(getattr(self._processor, f"{special}_id")() for special in ("pad", "bos", "eos", "unk"))
        if special_ids != (PAD, BOS, EOS, UNK):
            raise TokenizerError(
                f"tokenizer {self.path} has pad, bos, eos, unk = {special_ids}; expected {(PAD, BOS, EOS, UNK)}: "
                "train one with `slap tokenizer`"
            )
        self.pad, self.bos, self.eos, self.unk = PAD, BOS, EOS, UNK
        self.vocab_size = self._processor.vocab_size()

    def _pieces(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def _spell(self, pieces: list[int]) -> str:
        return self._processor.decode(pieces)


class JsonTokenizer(Tokenizer):
    """A Hugging Face `tokenizer.json`; gives a caption the same ids as transformers."""

    def __init__(self, path: str | os.PathLike[str]):
        """Loads a file.

        Args:
            path: `tokenizer.json` whose vocabulary holds [PAD], [CLS], [SEP] and [UNK].

        Raises:
            TokenizerError: the package `tokenizers` is not installed or cannot read the file, or a token is missing.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise TokenizerError(
                f"tokenizer {os.fspath(path)} needs the package tokenizers ({error}): "
                "pip install 'slap-jax[modernbert]'"
            ) from None
        self.path = os.fspath(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(self.path)
        except Exception as error:  # the package raises nothing more precise
            raise TokenizerError(
                f"tokenizer {self.path} cannot be read ({error}); give the tokenizer.json of a ModernBERT folder"
            ) from error
        vocabulary = self._tokenizer.get_vocab()
        missing = [token for token in SPECIAL.values() if token not in vocabulary]
        if missing:
            raise TokenizerError(
                f"tokenizer {self.path} has no {' and no '.join(missing)}; expected ModernBERT's special tokens "
                f"{', '.join(SPECIAL.values())}"
            )
        self.pad, self.bos, self.eos, self.unk = (vocabulary[token] for token in SPECIAL.values())
        self.vocab_size = max(vocabulary.values()) + 1
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Otherwise "[SEP]" in a caption would become the end token.
        self._tokenizer.encode_special_tokens = True

    def _pieces(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _spell(self, pieces: list[int]) -> str:
        return self._tokenizer.decode(pieces).strip()


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer: a SentencePiece model, or a Hugging Face file if its name ends in `.json`.

    Raises:
        TokenizerError: the file is missing or not a tokenizer, special tokens are missing or have other ids, or the
            package that reads it is not installed.
    """
    name = os.fspath(path) or "(config.data.tokenizer is empty)"
    if not Path(path).is_file():
        state = "is a directory" if Path(name).is_dir() else "is missing"
        raise TokenizerError(
            f"tokenizer {name} {state}; train one with `slap tokenizer` and set config.data.tokenizer to it, or to the "
            "tokenizer.json of a ModernBERT folder"
        )
    if Path(path).suffix == ".json":
        return JsonTokenizer(path)
    return SentencePieceTokenizer(path)


def vocabulary_size(path: str | os.PathLike[str], default: int) -> int:
    """Returns the number of pieces of a tokenizer, for `config.model.vocab_size`; the default if there is none yet.

    Raises:
        TokenizerError: see `load_tokenizer`.
    """
    return load_tokenizer(path).vocab_size if Path(path).is_file() else default


def train_tokenizer(
    captions: Iterable[str],
    model_path: str | os.PathLike[str],
    vocab_size: int,
    character_coverage: float = 1.0,
    max_tokens: int | None = None,
) -> Tokenizer:
    """Trains a unigram vocabulary. The same captions in the same order give the same file, byte for byte.

    It warns if the vocabulary is much smaller than requested, spells words by letters, or makes captions too long.

    Source: Kudo, "Subword regularization" (arXiv 1804.10959), as SentencePiece implements it.

    Args:
        captions: the training captions.
        model_path: the `.model` file to write; its directory is created.
        vocab_size: largest number of ids; a small set of captions gives fewer.
        character_coverage: fraction of the characters that get an id. SentencePiece's default of 0.9995 drops the
            rarest letters of a small set of captions, such as j or x, and so the words with them. Use less than 1 for
            captions from millions of users, or in a script with thousands of characters.
        max_tokens: `config.data.max_caption_tokens`, to count the captions that training would cut; None counts none.

    Returns:
        The trained tokenizer.

    Raises:
        TokenizerError: there are no captions, `vocab_size` is too small for the characters that occur, or
            `character_coverage` is below 0.98 or above 1.
    """
    if not _LEAST_COVERAGE <= character_coverage <= 1.0:
        raise TokenizerError(f"character_coverage is {character_coverage}; write a number from {_LEAST_COVERAGE} to 1")
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise TokenizerError("there are no captions to train a tokenizer on; give a prepared split that has some")
    measured = captions[:: -(-len(captions) // _MEASURED_CAPTIONS)]
    model = _train(captions, vocab_size, character_coverage)
    if _tokens_per_word(model, measured) > _ENOUGH_TOKENS_PER_WORD:
        # SentencePiece considers a text as a piece only if different characters follow it somewhere. A name at the end
        # of "the sound of NAME" is always followed by the end, however frequent it is. Two more lines change that.
        words = Counter(word for caption in captions for word in caption.split())
        lines = [line for word, _ in words.most_common(vocab_size) for line in (word, f"{word} {word}")]
        model = min(
            model,
            _train([*captions, *lines], vocab_size, character_coverage),
            key=lambda each: _tokens_per_word(each, measured),
        )
    Path(model_path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(model_path, model)
    trained = SentencePieceTokenizer(model_path)
    for problem in _problems(trained, measured, vocab_size, max_tokens):
        logging.warning("%s: %s", os.fspath(model_path), problem)
    return trained


def _train(captions: Sequence[str], vocab_size: int, character_coverage: float) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(captions),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            normalization_rule_name=NORMALISATION,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            num_threads=1,  # a different order of summation gives a different vocabulary
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot be trained on {len(captions)} captions ({error}); "
            "choose a larger vocab_size or give more captions"
        ) from error
    return model.getvalue()


def _tokens_per_word(model: bytes, captions: Sequence[str]) -> float:
    """Returns the mean number of tokens of a word; 0 for scripts without spaces, such as Chinese."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for caption in captions for character in caption)
    if 2 * wide > sum(map(len, captions)):
        return 0.0
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    words = sum(len(caption.split()) for caption in captions)
    return sum(map(len, processor.encode(list(captions)))) / words


def _problems(
    tokenizer: SentencePieceTokenizer, captions: Sequence[str], vocab_size: int, max_tokens: int | None
) -> Iterable[str]:
    """Returns what a user should know about a new vocabulary."""
    ratio = _tokens_per_word(Path(tokenizer.path).read_bytes(), captions)
    if ratio > _MOST_TOKENS_PER_WORD:
        yield (
            f"a word takes {ratio:.1f} tokens on average, so many words are spelled by letters; choose a larger "
            "vocab_size, or give more captions"
        )
    if tokenizer.vocab_size < _SMALL_VOCABULARY * vocab_size:
        yield (
            f"the captions give {tokenizer.vocab_size} pieces, not the {vocab_size} that were requested, because they "
            "have few different words; add captions with others if the model is to understand more"
        )
    if max_tokens is not None:
        lengths = [tokenizer.length(caption) for caption in captions]
        cut = sum(length > max_tokens for length in lengths)
        if cut > _MANY_CUT * len(captions):
            yield (
                f"{100 * cut / len(captions):.0f} % of the captions have more than config.data.max_caption_tokens="
                f"{max_tokens} tokens and are cut; the longest has {max(lengths)}"
            )
