"""The meaning of texts that programs wrote: lists as text, and words that stand for a missing value.

`pandas` writes a list in a cell of a CSV file as "['a dog barks', 'barking']", and a missing value as "nan". Taken as
they are, a model would learn the brackets.
"""

import ast
import io
import json
import tokenize
import warnings
from collections.abc import Iterable

_MISSING = frozenset({"nan", "n/a", "#n/a", "<na>"})
_MISSING_CAPTIONS = _MISSING | {"none", "null"}  # as a label, these are names of classes
_BRACKETS = {"[": "]", "(": ")"}
_IGNORED_TOKENS = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def is_missing(text: str, *, caption: bool = True) -> bool:
    """Returns whether a whole text is a word for a missing value, in any case.

    Args:
        text: the text.
        caption: whether "none" and "null" count too.
    """
    return text.strip().casefold() in (_MISSING_CAPTIONS if caption else _MISSING)


def list_items(text: str) -> list[str] | None:
    """Returns the items of a text that is a list of texts in Python, NumPy or JSON; None for any other text.

    Items without quotes that stand for a missing value are left out. "[applause]" is a text, not a list.
    """
    text = text.strip()
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return _python_items(text[1:-1])
    if not isinstance(items, list) or not all(isinstance(item, str) or _is_json_missing(item) for item in items):
        return None
    return [item for item in items if isinstance(item, str)]


def plain_captions(texts: Iterable[str]) -> list[str]:
    """Returns the captions that some texts hold: the items of lists, without empty texts and missing values."""
    captions = []
    for text in texts:
        items = list_items(text)
        for caption in [text] if items is None else items:
            if caption.strip() and not is_missing(caption):
                captions.append(caption.strip())
    return captions


def _python_items(inside: str) -> list[str] | None:
    """Reads quoted texts with commas between them, as Python writes a list, or without, as NumPy writes an array."""
    items: list[str] = []
    after_item = False
    try:
        for token in tokenize.generate_tokens(io.StringIO(f"({inside}\n)").readline):
            if token.type == tokenize.STRING:
                with warnings.catch_warnings(action="ignore"):  # of unknown escapes such as "\\d"
                    item = ast.literal_eval(token.string)
                if not isinstance(item, str):
                    return None
                items.append(item)
                after_item = True
            elif token.type == tokenize.NAME and is_missing(token.string):
                after_item = True
            elif token.string == "," and after_item:
                after_item = False
            elif token.string not in ("(", ")") and token.type not in _IGNORED_TOKENS:
                return None
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return items


def _is_json_missing(item: object) -> bool:
    return item is None or (isinstance(item, float) and item != item)
