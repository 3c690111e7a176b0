"""A Hugging Face `tokenizer.json`, as ModernBERT's folder has it: text to ids and back."""

import os

from slap_jax.data.tokenizer import Tokenizer, TokenizerError

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
