"""Vocabularies of captions: text to ids and back, by SentencePiece or a Hugging Face file; training one's own.

A Hugging Face `tokenizer.json`, as ModernBERT's folder has it: text to ids and back.
"""

import abc
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from slap_jax.errors import UserError

# The ids that `slap tokenizer` gives its special tokens.
PAD, BOS, EOS, UNK = 0, 1, 2, 3

# NFKC, white space merged, lower case: captions of different collections differ in case without meaning anything by it.
NORMALISATION = "nmt_nfkc_cf"


class TokenizerError(UserError, ValueError):
    """A vocabulary that is missing or cannot be trained; the message says what to do."""


class Tokenizer(abc.ABC):
    """Turns captions into token ids and back; `load_tokenizer` reads one.

    Attributes:
        path: the file it was read from.
        vocab_size: one more than its largest id; `config.model.vocab_size` must be at least this.
        pad: id of padding.
        bos: id of the start of a caption.
        eos: id of the end of a caption.
        unk: id of what the vocabulary cannot spell.
    """

    path: str
    vocab_size: int
    pad: int
    bos: int
    eos: int
    unk: int

    @abc.abstractmethod
    def _pieces(self, text: str) -> list[int]:
        """Returns the ids of a text, special tokens not among them."""

    @abc.abstractmethod
    def _spell(self, pieces: list[int]) -> str:
        """Returns the text of ids other than padding, start and end."""

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Returns `[bos, ...pieces..., eos]`, the pieces cut so that the whole has at most `max_tokens` ids.

        Args:
            text: one caption.
            max_tokens: at least 2.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; the start and end tokens alone take 2")
        return [self.bos, *self._pieces(text)[: max_tokens - 2], self.eos]

    def length(self, text: str) -> int:
        """Returns the number of ids of a caption that is not cut."""
        return len(self._pieces(text)) + 2

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first end, without special tokens, as the vocabulary normalises it."""
        pieces = []
        for token in map(int, ids):
            if token == self.eos:
                break
            if token not in (self.pad, self.bos):
                pieces.append(token)
        return self._spell(pieces)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model file, as `slap tokenizer` writes it; captions become lower case."""

    def __init__(self, path: str | os.PathLike[str]):
        """Loads a model.

        Args:
            path: SentencePiece `.model` file with ids pad, bos, eos, unk = 0, 1, 2, 3.

        Raises:
            TokenizerError: no SentencePiece model, or other special ids.
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
        found = tuple(getattr(self._processor, f"{special}_id")() for special in ("pad", "bos", "eos", "unk"))
        if found != (PAD, BOS, EOS, UNK):
            raise TokenizerError(
                f"tokenizer {self.path} has pad, bos, eos, unk = {found}; expected {(PAD, BOS, EOS, UNK)}: "
                "train one with `slap tokenizer`"
            )
        self.pad, self.bos, self.eos, self.unk = PAD, BOS, EOS, UNK
        self.vocab_size = self._processor.vocab_size()

    def _pieces(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def _spell(self, pieces: list[int]) -> str:
        return self._processor.decode(pieces)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a vocabulary: a SentencePiece model, or a Hugging Face file if its name ends in `.json`.

    Raises:
        TokenizerError: no such file, not a vocabulary, special tokens that are missing or have other ids, or the
            package that reads it is not installed.
    """
    name = os.fspath(path) or "(config.data.tokenizer is empty)"
    if not Path(path).is_file():
        found = "is a directory" if Path(name).is_dir() else "is missing"
        raise TokenizerError(
            f"tokenizer {name} {found}; train one with `slap tokenizer` and set config.data.tokenizer to it, or to the "
            "tokenizer.json of a ModernBERT folder"
        )
    if Path(path).suffix == ".json":
        return JsonTokenizer(path)
    return SentencePieceTokenizer(path)


def train_tokenizer(
    captions: Iterable[str],
    model_path: str | os.PathLike[str],
    vocab_size: int,
    character_coverage: float = 1.0,
) -> Tokenizer:
    """Trains a unigram vocabulary; the same captions in the same order give the same file, byte for byte.

    Source: Kudo, "Subword regularization" (arXiv 1804.10959), as SentencePiece implements it.

    Args:
        captions: the training captions.
        model_path: the `.model` file to write; its directory is created.
        vocab_size: the most ids to use. Few captions give fewer.
        character_coverage: share of the characters that get an id. SentencePiece's own 0.9995 leaves out the rarest
            letters of few captions, j or x, and so the words with them; captions of millions of users or in a script of
            thousands of characters want less than 1.

    Returns:
        The trained tokenizer.

    Raises:
        TokenizerError: no captions, or a `vocab_size` too small for the letters that occur.
    """
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise TokenizerError("there are no captions to train a tokenizer on; give a prepared split that has some")
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
            num_threads=1,  # sums in another order would make another vocabulary
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot be trained on {len(captions)} captions ({error}); "
            "choose a larger vocab_size or give more captions"
        ) from error
    Path(model_path).parent.mkdir(parents=True, exist_ok=True)
    Path(model_path).write_bytes(model.getvalue())
    return SentencePieceTokenizer(model_path)


# ModernBERT's names of what starts, ends, fills up and replaces.
SPECIAL = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}


class JsonTokenizer(Tokenizer):
    """The vocabulary of a `tokenizer.json`; a caption's ids are those that transformers gives it."""

    def __init__(self, path: str | os.PathLike[str]):
        """Loads a file.

        Args:
            path: `tokenizer.json` whose vocabulary holds [PAD], [CLS], [SEP] and [UNK].

        Raises:
            TokenizerError: the package `tokenizers` is not installed, it cannot read the file, or a token is missing.
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
        # A caption that has "[SEP]" in it does not end there.
        self._tokenizer.encode_special_tokens = True

    def _pieces(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _spell(self, pieces: list[int]) -> str:
        return self._tokenizer.decode(pieces).strip()
