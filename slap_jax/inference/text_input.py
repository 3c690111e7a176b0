"""Texts as callers pass them: one or several, with content, and perhaps longer than the model reads."""

import logging
from collections.abc import Iterable
from typing import Any

from slap_jax.errors import UserError


class TextError(UserError, ValueError):
    """Text that cannot be embedded; the message gives its index in the list."""


def as_texts(texts: Any) -> list[str]:
    """Returns one text, or an iterable of texts, as a list.

    Raises:
        TextError: `texts` is neither, or a text is blank or not UTF-8.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Iterable):
        raise TextError(f"expected a text or a list of texts, found {texts!r}")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"text {index} is {text!r}; expected a string with content")
        try:
            text.encode()
        except UnicodeEncodeError:  # Python decodes command-line arguments that are not UTF-8 to surrogates
            raise TextError(f"text {index} is {text!r}, which is not UTF-8; type it again") from None
    return texts


def warn_truncated(index: int, tokens: int, limit: int) -> None:
    """Warns that only the first `limit` tokens of a text of the list are embedded."""
    logging.warning("text %d has %d tokens and the model reads %d: the rest is cut off", index, tokens, limit)
