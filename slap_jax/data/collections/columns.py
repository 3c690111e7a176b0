"""Which columns of a table, or keys of a JSON object, hold captions, labels and audio, and what their values mean."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.caption_text import is_missing, list_items
from slap_jax.data.collections.fields import CollectionError, RejectedClip, shorten

if TYPE_CHECKING:
    import datasets

# The first pattern that matches a column decides which columns hold captions.
_CAPTION_COLUMNS = (
    re.compile(r"captions?(_?\d+)?", re.IGNORECASE),
    re.compile(r"texts?", re.IGNORECASE),
    re.compile(r"raw_text", re.IGNORECASE),
    re.compile(r"sentence", re.IGNORECASE),
    re.compile(r"transcription", re.IGNORECASE),
)
_LABEL_COLUMNS = ("label", "labels", "tag", "tags")

_AUDIO_COLUMNS = ("audio", "flac", "wav", "mp3", "ogg", "opus", "m4a", "bytes")
_PATH_COLUMNS = ("file_name", "audio", "audio_path", "path", "file")

# Columns whose values are fields of a manifest as they are.
_MANIFEST_COLUMNS = ("caption_source", "licence", "license", "duration_s", "regions", "group")


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The columns of a table that describe its clips.

    Attributes:
        audio: column with the encoded bytes, "" if there are only paths.
        path: column of paths, "audio.path" for a field of `audio`, "" if there is none.
        captions: columns of captions, best first.
        labels: column of labels -> the names of its class numbers.
        id: column of identifiers, or "".
        others: columns that are fields of a manifest.
    """

    audio: str
    path: str
    captions: Sequence[str]
    labels: Mapping[str, Sequence[str]]
    id: str
    others: Sequence[str]

    def without_audio(self) -> list[str]:
        """Returns all columns but the encoded bytes, under the names that Parquet gives them."""
        return [
            name for name in dict.fromkeys((self.path, *self.captions, *self.labels, self.id, *self.others)) if name
        ]


def caption_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns that hold captions, ordered by their numbers: "caption_2" before "caption_10"."""
    names = list(names)
    for pattern in _CAPTION_COLUMNS:
        matching = [name for name in names if pattern.fullmatch(name)]
        if matching:
            return sorted(matching, key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[0]), name))
    return []


def label_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns that hold labels."""
    names = set(names)
    return [name for name in _LABEL_COLUMNS if name in names]


def find_columns(
    features: "datasets.Features",
    table: object,
    *,
    audio: str = "",
    captions: Sequence[str] = (),
    labels: Sequence[str] = (),
    id: str = "",
) -> TableColumns:
    """Finds the columns that describe the clips: those that the user names, otherwise by type and name.

    Args:
        features: features of the table.
        table: what errors call it.
        audio: column of encoded audio, or of paths, that the user names.
        captions: columns of captions that the user names, best first.
        labels: columns of labels that the user names.
        id: column of identifiers that the user names.

    Raises:
        CollectionError: there are no or several columns of audio, none of captions or labels, or the user names a
            column that does not exist.
    """
    chosen = [("audio_column", audio), ("id_column", id)]
    chosen += [("caption_columns", name) for name in captions]
    chosen += [("label_columns", name) for name in labels]
    for option, name in chosen:
        if name and name not in features:
            raise CollectionError(f"{table} has no column {name!r}, which {option} names; {_listed(features)}")
    audio, path = _audio_columns(features, audio, table)
    free = [name for name in features if name not in (audio, path, id)]
    captions = captions or caption_columns(free)
    free = [name for name in free if name not in captions]
    labels = labels or [
        name
        for name in free
        if _class_names(features[name]) or (name in label_columns(free) and _is_text(features[name]))
    ]
    if not captions and not labels:
        raise CollectionError(
            f"{table} has no column that looks like captions or labels; {_listed(features)}: "
            "name them with caption_columns or label_columns"
        )
    return TableColumns(
        audio=audio,
        path=path,
        captions=captions,
        labels={name: _class_names(features[name]) for name in labels},
        id=id,
        others=[name for name in _MANIFEST_COLUMNS if name in free and name not in labels],
    )


def manifest_fields(
    row: Mapping[str, Any], captions: Sequence[str], labels: Mapping[str, Sequence[str]] | Sequence[str]
) -> dict[str, Any]:
    """Converts a row to the fields of a manifest.

    Args:
        row: column -> value; None and "" count as absent.
        captions: columns of captions, best first.
        labels: columns of labels, or each of them with the names of its class numbers.

    Raises:
        RejectedClip: a caption or a label has the wrong type.
    """
    fields: dict[str, Any] = {name: row[name] for name in _MANIFEST_COLUMNS if row.get(name) not in (None, "")}
    if any(name in row for name in captions):
        fields["captions"] = [caption for name in captions for caption in _caption_texts(name, row.get(name))]
    classes = labels if isinstance(labels, Mapping) else dict.fromkeys(labels, ())
    fields["labels"] = [
        label for name, class_names in classes.items() for label in label_texts(name, row.get(name), class_names)
    ]
    return fields


def label_texts(column: str, value: Any, class_names: Sequence[str] = ()) -> list[str]:
    """Converts the value of a column to labels.

    Class numbers become names, and underscores become spaces. "label" and "labels" give "label=sea waves", "tag" and
    "tags" give plain words, any other column gives its own name: "genre=rock". Each key of an object gives "key=value".

    Args:
        column: its name.
        value: a text, a number, an object, or a list of these, also as text; None is no label, nor is "nan".
        class_names: names of the class numbers; -1 is an unknown class.

    Raises:
        RejectedClip: the value has another type, or is a number without a name.
    """
    labels: list[str] = []
    if isinstance(value, str):
        items = list_items(value)
        value = [value] if items is None else items
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            labels.extend(f"{key}={text}" for key, text in item.items() if text)
            continue
        if isinstance(item, int) and not isinstance(item, bool) and class_names:
            if item >= len(class_names):
                raise RejectedClip(
                    "bad_field", f"{column} is {item}; expected less than its {len(class_names)} classes"
                )
            item = class_names[item] if item >= 0 else None
        if item is None or item == "" or (isinstance(item, str) and is_missing(item, caption=False)):
            continue
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise RejectedClip("bad_field", f"{column} is {shorten(item)}; expected a text or a list of texts")
        text = str(item).replace("_", " ")
        key = "label" if column == "labels" else column
        labels.append(text if column in ("tag", "tags") else f"{key}={text}")
    return labels


def _audio_columns(features: "datasets.Features", chosen: str, table: object) -> tuple[str, str]:
    """Returns the column of bytes and the column of paths; either may be ""."""
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    structs = [name for name, feature in features.items() if isinstance(feature, dict) and _holds_bytes(feature)]
    named = [name for name in _AUDIO_COLUMNS if name in features and _holds_bytes(features[name])][:1]
    candidates = [chosen] if chosen else typed or structs or named
    if len(candidates) > 1:
        raise CollectionError(
            f"{table} has several columns of audio, {', '.join(candidates)}; name one with audio_column"
        )
    for name in candidates:
        feature = features[name]
        if _holds_bytes(feature):
            has_path = isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and "path" in feature)
            return name, f"{name}.path" if has_path else ""
        if not _is_text(feature):
            kind = features.arrow_schema.field(name).type
            raise CollectionError(
                f"{table} has samples, not encoded audio, in column {name!r} ({kind}); save it again with "
                f'cast_column("{name}", Audio())'
            )
        return "", name
    paths = [name for name in _PATH_COLUMNS if name in features and _is_text(features[name])]
    if paths:
        return "", paths[0]
    raise CollectionError(f"{table} has no column of audio; {_listed(features)}: name it with audio_column")


def _holds_bytes(feature: Any) -> bool:
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, datasets.Audio)


def _is_text(feature: Any) -> bool:
    """Whether a column holds texts or lists of texts."""
    import datasets

    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _class_names(feature: Any) -> Sequence[str]:
    """Returns the names of a column of class numbers or of lists of them; empty for any other column."""
    import datasets

    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else ()


def _listed(features: "datasets.Features") -> str:
    return "its columns are " + ", ".join(f"{field.name} ({field.type})" for field in features.arrow_schema)


def _caption_texts(column: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) or text is None for text in texts):
        raise RejectedClip("bad_field", f"{column} is {shorten(value)}; expected a text or a list of texts")
    return [text for text in texts if text]
