"""Texts for SLAP: `AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)`."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer


class SlapTokenizer(PreTrainedTokenizer):
    """Gives a text the same ids as slap_jax: `[bos, ...pieces..., eos]`, cut to `model_max_length` ids.

    Attributes:
        vocab_file: SentencePiece's `tokenizer.model`, or a `tokenizer.json` of the package tokenizers.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012 (an attribute of transformers)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (an attribute of transformers)

    def __init__(self, vocab_file: str | None = None, tokenizer_file: str | None = None, **kwargs: Any):
        self.vocab_file = vocab_file or tokenizer_file
        if self.vocab_file is None:
            raise ValueError("the folder has neither tokenizer.model nor tokenizer.json")
        self._pieces = _read_pieces(self.vocab_file)
        kwargs["split_special_tokens"] = True  # a literal "</s>" in a text does not end it
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Returns the number of ids."""
        return self._pieces.size

    def get_vocab(self) -> dict[str, int]:
        """Returns piece -> id."""
        return {self._pieces.piece(index): index for index in range(self.vocab_size)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self._pieces.tokenize(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._pieces.id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces.piece(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Returns the text of pieces."""
        return self._pieces.text([self._pieces.id(token) for token in tokens])

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Returns `[bos, ...pieces..., eos]`, at most `model_max_length` ids."""
        if token_ids_1 is not None:
            raise ValueError("the model reads single texts, not pairs")
        return [self.bos_token_id, *token_ids_0[: self.model_max_length - 2], self.eos_token_id]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copies the file of the vocabulary."""
        source = Path(self.vocab_file).resolve()
        target = Path(save_directory) / ("-".join(filter(None, [filename_prefix, source.name])))
        if target.resolve() != source:
            shutil.copyfile(source, target)
        return (str(target),)


class _SentencePieces:
    """The pieces of a SentencePiece model."""

    def __init__(self, path: str):
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=path)
        self.size = self._processor.vocab_size()
        self.id, self.piece = self._processor.piece_to_id, self._processor.id_to_piece

    def tokenize(self, text: str) -> list[str]:
        # By the id: a character without a piece would otherwise keep its text.
        return [self.piece(index) for index in self._processor.encode(text)]

    def text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)


class _JsonPieces:
    """The pieces of a `tokenizer.json`."""

    def __init__(self, path: str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.size = max(self._tokenizer.get_vocab().values()) + 1
        self.id = self._tokenizer.token_to_id

    def piece(self, index: int) -> str:
        return self._tokenizer.id_to_token(index) or f"[id {index}]"

    def tokenize(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids).strip()


def _read_pieces(path: str) -> _SentencePieces | _JsonPieces:
    return _JsonPieces(path) if path.endswith(".json") else _SentencePieces(path)
