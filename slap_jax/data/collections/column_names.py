"""Which columns of a table, or keys of a JSON object, hold captions and labels, and what their values mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slap_jax.data.collections.entry_fields import RejectedClip

# The first line of which a column is there tells the caption columns.
CAPTION_COLUMNS = (
    re.compile(r"captions?(_?\d+)?", re.IGNORECASE),
    re.compile(r"texts?", re.IGNORECASE),
    re.compile(r"raw_text", re.IGNORECASE),
    re.compile(r"sentence", re.IGNORECASE),
    re.compile(r"transcription", re.IGNORECASE),
)
LABEL_COLUMNS = ("label", "labels", "tag", "tags")

# Names of columns that every reader passes on as they are.
PLAIN_FIELDS = ("caption_source", "licence", "license", "duration_s", "regions")


def caption_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns that hold captions, in the order of their numbers: "caption_2" before "caption_10"."""
    names = list(names)
    for pattern in CAPTION_COLUMNS:
        found = [name for name in names if pattern.fullmatch(name)]
        if found:
            return sorted(found, key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[0]), name))
    return []


def label_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns that hold labels."""
    names = set(names)
    return [name for name in LABEL_COLUMNS if name in names]


def caption_texts(columns: Sequence[str], row: Mapping[str, Any]) -> list[str]:
    """Gathers the captions of a row, each column a text or a list of texts.

    Raises:
        RejectedClip: something else.
    """
    captions: list[str] = []
    for column in columns:
        value = row.get(column)
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) or text is None for text in texts):
            raise RejectedClip("bad_field", f"{column} is {value!r:.200}; expected a text or a list of texts")
        captions.extend(text for text in texts if text)
    return captions


def label_texts(column: str, value: Any, class_names: Sequence[str] = ()) -> list[str]:
    """Gives a column's value as labels.

    Class numbers become names, underscores spaces. "label" and "labels" give "label=sea waves", "tag" and "tags" plain
    words, and any other column its own name: "genre=rock". In an object each key gives its own: "key=value".

    Args:
        column: its name.
        value: a text, a number, an object, or a list of these; None is no label.
        class_names: of the numbers.

    Raises:
        RejectedClip: another value, or a number without a name.
    """
    labels: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            labels.extend(f"{key}={text}" for key, text in item.items() if text)
            continue
        if isinstance(item, int) and not isinstance(item, bool) and class_names:
            if item >= len(class_names):
                raise RejectedClip(
                    "bad_field", f"{column} is {item}; expected less than its {len(class_names)} classes"
                )
            item = class_names[item] if item >= 0 else None  # -1 stands for an unknown class
        if item is None or item == "":
            continue
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise RejectedClip("bad_field", f"{column} is {item!r:.200}; expected a text or a list of texts")
        text = str(item).replace("_", " ")
        key = "label" if column == "labels" else column
        labels.append(text if column in ("tag", "tags") else f"{key}={text}")
    return labels
