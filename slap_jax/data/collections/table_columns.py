"""Which columns of a Parquet or Arrow table hold what, told by their types, their names, or the user."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.column_names import PLAIN_FIELDS, caption_columns, label_columns
from slap_jax.data.collections.entry_fields import CollectionError

if TYPE_CHECKING:
    import pyarrow as pa

_AUDIO_NAMES = ("audio", "flac", "wav", "mp3", "ogg", "opus", "m4a", "bytes")
_PATH_NAMES = ("file_name", "audio", "audio_path", "path", "file")


@dataclasses.dataclass(frozen=True)
class ColumnChoice:
    """What the user says about columns; empty where the readers are to find out.

    Attributes:
        audio: column of encoded audio, or of paths.
        captions: columns of captions, best first.
        labels: columns of labels.
        id: column of identifiers, unique in the whole collection.
    """

    audio: str = ""
    captions: Sequence[str] = ()
    labels: Sequence[str] = ()
    id: str = ""


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The columns that a table's clips are made of.

    Attributes:
        audio: column with the encoded bytes, "" if there are only paths.
        path: column of paths, "" if there is none, "audio.path" for a field of `audio`.
        captions: columns of captions.
        labels: column of labels -> the names of its class numbers.
        id: column of identifiers, or "".
        plain: columns whose values are taken as they are.
    """

    audio: str
    path: str
    captions: tuple[str, ...]
    labels: Mapping[str, Sequence[str]]
    id: str
    plain: tuple[str, ...]

    def needed(self) -> list[str]:
        """Returns all but the audio's bytes, as Parquet names them."""
        names = (self.path, *self.captions, *self.labels, self.id, *self.plain)
        return [name for name in dict.fromkeys(names) if name]


def find_columns(schema: "pa.Schema", choice: ColumnChoice, table: object) -> TableColumns:
    """Finds the columns.

    Args:
        schema: of the table; where Hugging Face `datasets` wrote it, it says which columns are audio and classes.
        choice: of the user.
        table: what errors call it.

    Raises:
        CollectionError: no or several columns of audio, none of captions or labels, or one that the user names is
            missing.
    """
    features = _features(schema)
    chosen = [("audio_column", choice.audio), ("id_column", choice.id)]
    chosen += [("caption_columns", name) for name in choice.captions]
    chosen += [("label_columns", name) for name in choice.labels]
    for option, name in chosen:
        if name and name not in schema.names:
            raise CollectionError(f"{table} has no column {name!r}, which {option} names; {_listed(schema)}")
    audio, path = _audio_columns(schema, features, choice.audio, table)
    taken = (audio, path, choice.id)
    captions = choice.captions or caption_columns(name for name in schema.names if name not in taken)
    labels = choice.labels or [
        name
        for name in schema.names
        if name not in (*taken, *captions)
        and (_class_names(features, name) or (name in label_columns(schema.names) and _is_text(schema, name)))
    ]
    if not captions and not labels:
        raise CollectionError(
            f"{table} has no column that looks like captions or labels; {_listed(schema)}: "
            "name them with caption_columns or label_columns"
        )
    return TableColumns(
        audio=audio,
        path=path,
        captions=tuple(captions),
        labels={name: _class_names(features, name) for name in labels},
        id=choice.id,
        plain=tuple(name for name in PLAIN_FIELDS if name in schema.names and name not in (*taken, *captions, *labels)),
    )


def _audio_columns(schema: "pa.Schema", features: Mapping[str, Any], chosen: str, table: object) -> tuple[str, str]:
    """Returns the column of bytes and that of paths, either of which may be missing."""
    import pyarrow as pa

    def holds_bytes(name: str) -> bool:
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    typed = [name for name, feature in features.items() if _type_of(feature) == "Audio" and name in schema.names]
    structs = [name for name in schema.names if pa.types.is_struct(schema.field(name).type) and holds_bytes(name)]
    named = [name for name in _AUDIO_NAMES if name in schema.names and holds_bytes(name)][:1]
    candidates = [chosen] if chosen else typed or structs or named
    if len(candidates) > 1:
        raise CollectionError(
            f"{table} has several columns of audio, {', '.join(candidates)}; name one with audio_column"
        )
    for name in candidates:
        kind = schema.field(name).type
        if holds_bytes(name):
            return name, f"{name}.path" if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else ""
        if not _is_text(schema, name):
            raise CollectionError(
                f"{table} has samples, not encoded audio, in column {name!r} ({kind}); save it again with "
                f'cast_column("{name}", Audio())'
            )
        return "", name
    paths = [name for name in _PATH_NAMES if name in schema.names and _is_text(schema, name)]
    if paths:
        return "", paths[0]
    raise CollectionError(f"{table} has no column of audio; {_listed(schema)}: name it with audio_column")


def _features(schema: "pa.Schema") -> Mapping[str, Any]:
    """Returns what Hugging Face `datasets` says about the columns, nothing of tables that others wrote."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}


def _type_of(feature: Any) -> str:
    return feature.get("_type", "") if isinstance(feature, dict) else ""


def _class_names(features: Mapping[str, Any], name: str) -> Sequence[str]:
    """Returns the names of a column of class numbers, or of lists of these."""
    feature = features.get(name)
    if isinstance(feature, list):  # the way in which older versions write lists
        feature = feature[0] if feature else None
    elif isinstance(feature, dict) and _type_of(feature) in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    return feature.get("names", ()) if isinstance(feature, dict) and _type_of(feature) == "ClassLabel" else ()


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _listed(schema: "pa.Schema") -> str:
    return "its columns are " + ", ".join(f"{field.name} ({field.type})" for field in schema)
