"""The fields of one clip, as manifests, sidecars, archives and tables give them: checked, and made an entry.

Which columns of a table, or keys of a JSON object, hold captions and labels, and what their values mean.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from slap_jax.data.collections.entries import AudioFile, AudioLocation, Entry, Rejection
from slap_jax.errors import UserError

DEFAULT_SPLIT = "train"
RESERVED_SPLIT = "all"
FOLDER_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "eval")

# More than any clip needs: what is longer is a file of another kind, which must not fill the memory.
LONGEST_TEXT = 4 << 20
_SPLIT_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)

# "train-00000-of-00004.parquet"
_SHARD_OF = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")


class CollectionError(UserError, ValueError):
    """A collection that cannot be read at all; single bad clips are rejections."""


class RejectedClip(Exception):
    """Leaves the reading of one clip.

    Attributes:
        reason: a word for counting.
        detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def at(self, where: str, id: str = "") -> Rejection:
        """Returns the rejection of the clip at a place."""
        return Rejection(where, id, self.reason, self.detail)


def make_entry(
    fields: Mapping[str, Any], audio: AudioLocation, *, id: str, split: str, source: str, where: str
) -> Entry:
    """Checks the fields of a clip; which there are, docs/collections.md says under "The manifest".

    Args:
        fields: by the manifest's keys; others are ignored.
        audio: where the audio is.
        id: of a clip whose fields have none.
        split: likewise.
        source: likewise.
        where: for messages.

    Raises:
        RejectedClip: a field of another type than expected, or neither a caption nor a label.
    """
    labels = _labels(fields.get("labels"))
    return Entry(
        id=text_field(fields, "id") or id,
        audio=audio,
        captions=_captions(fields, needed=not labels),
        split=_split(text_field(fields, "split") or split),
        labels=labels,
        regions=_regions(fields.get("regions")),
        source=text_field(fields, "source") or text_field(fields, "source_package") or source,
        caption_source=text_field(fields, "caption_source"),
        licence=text_field(fields, "licence") or text_field(fields, "license"),
        duration_s=_seconds(fields.get("duration_s"), "duration_s"),
        where=where,
    )


def audio_file(root: Path, stated: str) -> AudioFile:
    """Finds a file by its path relative to `root`.

    Links are followed, which data folders are often made of; the path itself may not climb out.

    Raises:
        RejectedClip: it leads out of `root`, or there is no such file, or it cannot be reached.
    """
    relative = os.path.relpath(stated, root) if os.path.isabs(stated) else os.path.normpath(stated)
    if relative == os.pardir or relative.startswith(os.path.join(os.pardir, "")):
        raise RejectedClip("outside_root", f"path {stated!r} leads out of {root}; set the audio root to a folder above")
    path = os.path.join(root, relative)
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_file = False
    except (OSError, ValueError) as error:  # no permission, a link to itself, a name that cannot be one
        reason = error.strerror if isinstance(error, OSError) else error
        raise RejectedClip("unreadable_file", f"path {stated!r} in {root} cannot be read: {reason}") from error
    if not is_file:
        raise RejectedClip("missing_file", f"path {stated!r} names no file in {root}")
    return AudioFile(Path(path))


def text_field(fields: Mapping[str, Any], key: str) -> str:
    """Returns a field that is one text or number, without spaces around it; "" if it is absent.

    Raises:
        RejectedClip: something else.
    """
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RejectedClip("bad_field", f"{key} is {_short(value)}; expected text")
    return _sound(str(value), key).strip()


def decode_text(data: bytes, what: str) -> str:
    """Decodes UTF-8 with or without a byte order mark.

    Args:
        data: at most `LONGEST_TEXT` bytes are accepted.
        what: what messages call it.

    Raises:
        RejectedClip: too long, or not UTF-8.
    """
    if len(data) > LONGEST_TEXT:
        raise RejectedClip("long_text", f"{what} has more than {LONGEST_TEXT >> 20} MiB; expected the text of one clip")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedClip(
            "bad_text", f"{what} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}; save it as UTF-8"
        ) from error


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        data: UTF-8.
        what: what messages call it.

    Raises:
        RejectedClip: too long, not UTF-8, not JSON, or another JSON value.
    """
    text = decode_text(data, what)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise RejectedClip("bad_json", f"{what} is not JSON: {error.msg} at {place}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise RejectedClip("bad_json", f"{what} is not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise RejectedClip("bad_field", f"{what} holds a {type(value).__name__}; expected an object")
    return value


def caption_lines(data: bytes, what: str) -> list[str]:
    """Reads one caption a line.

    Raises:
        RejectedClip: too long, or not UTF-8.
    """
    # Only "\n" ends a line: captions may hold the other characters that str.splitlines() takes for line ends.
    return decode_text(data, what).split("\n")


def split_of_folders(relative: PurePath) -> str:
    """Tells the split of a file by the outermost folder, in its collection, that has the name of one; else "train".

    The outermost, because deeper folders may be classes, and "train" is also a sound.
    """
    return next((folder for folder in relative.parts[:-1] if folder in FOLDER_SPLITS), DEFAULT_SPLIT)


def split_of_shard(relative: PurePath) -> str:
    """Tells the split of an archive or a table by its path in its collection.

    First by a name like "train-00000-of-00004", then by the folders, then by the first word of the file's name that is
    the name of a split; else it is "train".
    """
    sharded = _SHARD_OF.match(relative.name)
    if sharded is not None:
        return split_name(sharded["split"])
    if any(folder in FOLDER_SPLITS for folder in relative.parts[:-1]):
        return split_of_folders(relative)
    words = re.split(r"[-._ 0-9]+", relative.name)
    return next((word for word in words if word in FOLDER_SPLITS), DEFAULT_SPLIT)


def split_name(stated: str) -> str:
    """Makes a name like "train.clean-100" one that records can have: "train_clean_100"."""
    return re.sub(r"\W", "_", stated, flags=re.ASCII)


def some_clips(found: Iterator[Entry | Rejection], source: object) -> Iterator[Entry | Rejection]:
    """Passes clips on.

    Raises:
        CollectionError: there are none.
    """
    clip = next(found, None)
    if clip is None:
        raise CollectionError(f"{source} holds no clips; docs/collections.md shows what it must hold")
    yield clip
    yield from found


def _captions(fields: Mapping[str, Any], needed: bool) -> tuple[str, ...]:
    value = fields.get("captions", fields.get("caption"))
    captions = [value] if isinstance(value, str) else value
    if captions is None:
        if needed:
            raise RejectedClip("missing_caption", "there is neither a caption nor a label; expected captions (a list)")
        return ()
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise RejectedClip("bad_field", f"captions is {_short(value)}; expected a list of texts")
    captions = tuple(_sound(caption, "captions").strip() for caption in captions if caption.strip())
    if needed and not captions:
        raise RejectedClip("empty_caption", "every caption is empty; expected at least one with words")
    return captions


def _split(split: str) -> str:
    if not _SPLIT_NAME.fullmatch(split):
        raise RejectedClip(
            "bad_field", f"split is {_short(split)}; expected letters, digits and underscores, like 'train'"
        )
    if split == RESERVED_SPLIT:
        raise RejectedClip("bad_field", f"split is {split!r}, which means every split together; choose another name")
    return split


def _labels(value: Any) -> tuple[str, ...]:
    """Reads {"drum": "kick drum"} as ("drum=kick drum",) and keeps a list of texts as it is."""
    if value is None:
        return ()
    if isinstance(value, dict):
        value = [
            f"{key}={item}" for key, items in value.items() for item in (items if isinstance(items, list) else [items])
        ]
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise RejectedClip("bad_field", f"labels is {_short(value)}; expected an object of texts or a list of texts")
    return tuple(_sound(label, "labels").strip() for label in value if label.strip())


def _regions(value: Any) -> tuple[tuple[float, float, str], ...]:
    """Reads [{"onset_s": 0.5, "offset_s": 1.0, "caption": "a click"}] or [[0.5, 1.0, "a click"]]."""
    if value is None:
        return ()
    regions = []
    try:
        for region in value:
            onset, offset, caption = (
                (region["onset_s"], region["offset_s"], region["caption"]) if isinstance(region, dict) else region
            )
            if not (0 <= float(onset) <= float(offset) < math.inf and isinstance(caption, str)):
                raise ValueError
            regions.append((float(onset), float(offset), _sound(caption, "regions").strip()))
    except (TypeError, ValueError, KeyError):
        raise RejectedClip(
            "bad_field", f"regions is {_short(value)}; expected a list of onset_s <= offset_s in seconds and caption"
        ) from None
    return tuple(regions)


def _seconds(value: Any, key: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RejectedClip("bad_field", f"{key} is {_short(value)}; expected a positive number of seconds")
    return seconds


def _sound(text: str, key: str) -> str:
    """Refuses half characters (surrogates), which JSON can write but no file can store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedClip(
            "bad_text",
            f"{key} holds half a character (\\u{ord(text[error.start]):04x}) at {error.start}; write it anew",
        ) from error
    return text


def _short(value: Any) -> str:
    """Returns a value for a message, of a length that a person reads."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


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
