"""Checks the fields of one clip and builds its `Entry`.

Every reader (manifest, folder, tars, tables) converts its clips to the keys of a manifest and calls `make_entry`. A
fault of one clip raises `RejectedClip`, which the reader turns into a `Rejection`. Only a collection that cannot be
read at all raises `CollectionError`.
"""

import codecs
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from slap_jax.data.collections.caption_text import is_missing, plain_captions
from slap_jax.data.collections.entries import (
    AudioFile,
    AudioLocation,
    Entry,
    Rejection,
)
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer
from slap_jax.data.collections.spelling import AmbiguousNameError, find_spelling
from slap_jax.errors import UserError, printable

DEFAULT_SPLIT = "train"
RESERVED_SPLIT = "all"
FOLDER_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "eval")

# No clip needs more text. A longer one is another kind of file, which must not fill the memory.
LONGEST_TEXT = 4 << 20

_WIDE_MARKS = {  # UTF-32 first: its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_WIDE_STARTS = tuple({mark[:1] for mark in _WIDE_MARKS})

_SPLIT_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_SHARD_NAME = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")  # "train-00000-of-00004.parquet"


class CollectionError(UserError, ValueError):
    """A collection that cannot be read at all; single bad clips are rejections."""


class RejectedClip(Exception):
    """A fault of one clip.

    Attributes:
        reason: a word for counting.
        detail: what was found and what was expected.
        clips: number of clips that the fault loses.
    """

    def __init__(self, reason: str, detail: str, clips: int = 1):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.clips = clips

    def at(self, where: str, id: str = "") -> Rejection:
        """Returns the rejection of the clip, with its location."""
        return Rejection(where, id, self.reason, self.detail, self.clips)


def make_entry(
    fields: Mapping[str, Any], audio: AudioLocation, *, id: str, split: str, source: str, where: str
) -> Entry:
    """Checks the fields of a clip, which docs/collections.md lists under "Manifest".

    Args:
        fields: values by the keys of a manifest; other keys are ignored.
        audio: where the audio is stored.
        id: default of the field `id`.
        split: default of the field `split`.
        source: default of the field `source`.
        where: file and line, for messages.

    Raises:
        RejectedClip: a field has the wrong type, the id is a name that is not UTF-8, or there is neither a caption nor
            a label.
    """
    labels = parse_labels(fields.get("labels"))
    return Entry(
        id=text_field(fields, "id") or _file_name(id),
        audio=audio,
        captions=_needed_captions(fields) if not labels else tuple(parse_captions(fields) or ()),
        split=_split(text_field(fields, "split") or split),
        labels=labels,
        regions=parse_regions(fields.get("regions")),
        source=text_field(fields, "source") or text_field(fields, "source_package") or source,
        caption_source=text_field(fields, "caption_source"),
        licence=text_field(fields, "licence") or text_field(fields, "license"),
        duration_s=_seconds(fields.get("duration_s"), "duration_s"),
        where=printable(where),
        group=text_field(fields, "group"),
    )


def audio_file(root: Path, stated: str) -> AudioFile:
    """Finds a file by its path relative to `root`.

    Links are followed, since data folders are often made of them, but the path itself must stay inside `root`. If no
    file has the stated name, one whose name differs only in Unicode form or case is taken.

    Raises:
        RejectedClip: the path leaves `root`, names no file or several, or cannot be reached.
    """
    relative = os.path.relpath(stated, root) if os.path.isabs(stated) else os.path.normpath(stated)
    if relative == os.pardir or relative.startswith(os.path.join(os.pardir, "")):
        raise RejectedClip("outside_root", f"path {stated!r} is outside {root}; set the audio root to a folder above")
    path = os.path.join(root, relative)
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_file = False
    except (OSError, ValueError) as error:  # no permission, a link to itself, an impossible name
        reason = error.strerror if isinstance(error, OSError) else error
        raise RejectedClip("unreadable_file", f"path {stated!r} in {root} cannot be read: {reason}") from error
    if is_file:
        return AudioFile(Path(path))
    try:
        similar = find_spelling(os.fspath(root), relative)
    except AmbiguousNameError as error:
        detail = f"path {stated!r} names no file in {root}, but is similar to {error}; write one of these"
        raise RejectedClip("missing_file", detail) from error
    if similar is None:
        raise RejectedClip("missing_file", f"path {stated!r} names no file in {root}")
    return AudioFile(Path(similar))


def text_field(fields: Mapping[str, Any], key: str) -> str:
    """Returns a field that is a text or an integer, stripped of surrounding spaces; "" if it is absent.

    Raises:
        RejectedClip: it has another type.
    """
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RejectedClip("bad_field", f"{key} is {shorten(value)}; expected text")
    return _unicode(str(value), key).strip()


def decode_text(data: bytes, name: str) -> str:
    """Decodes UTF-8 with or without a byte order mark, and UTF-16 or UTF-32 with one.

    Args:
        data: at most `LONGEST_TEXT` bytes.
        name: what messages call it.

    Raises:
        RejectedClip: it is too long, has another encoding, or is a Git LFS pointer.
    """
    if len(data) > LONGEST_TEXT:
        raise RejectedClip("long_text", f"{name} has more than {LONGEST_TEXT >> 20} MiB; expected the text of one clip")
    if is_pointer(data):
        raise RejectedClip("lfs_pointer", f"{name} {describe_pointer(data)}")
    encoding = "utf-8-sig"
    if data[:1] in _WIDE_STARTS:
        encoding = next((encoding for mark, encoding in _WIDE_MARKS.items() if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at {error.start}"
        if encoding != "utf-8-sig":
            raise RejectedClip("bad_text", f"{name} is damaged {encoding.upper()}: {byte}; save it as UTF-8") from error
        likely = "UTF-16 without a byte order mark" if b"\0" in data else "perhaps Windows-1252 or Latin-1"
        raise RejectedClip("bad_text", f"{name} is not UTF-8: {byte} ({likely}); save it as UTF-8") from error
    if "\0" in text:
        detail = f"{name} holds NUL characters (UTF-16 without a byte order mark, or no text); save it as UTF-8"
        raise RejectedClip("bad_text", detail)
    return text


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        data: UTF-8.
        name: what messages call it.

    Raises:
        RejectedClip: it is too long, not UTF-8, not JSON, or another JSON value.
    """
    text = decode_text(data, name)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise RejectedClip("bad_json", f"{name} is not JSON: {error.msg} at {place}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise RejectedClip("bad_json", f"{name} is not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise RejectedClip("bad_field", f"{name} holds a {type(value).__name__}; expected an object")
    return value


def caption_lines(data: bytes, name: str) -> list[str]:
    """Reads one caption per line.

    Raises:
        RejectedClip: the text is too long, or not UTF-8.
    """
    # Only "\n" ends a line: captions may hold the other characters that str.splitlines() treats as line ends.
    return decode_text(data, name).split("\n")


def collection_name(root: Path) -> str:
    """Returns the default name of a collection: its folder and the folder above, such as "clotho/audio".

    The folder alone does not identify a collection: `dev/audio` and `eval/audio` may both hold a `000.wav`, which are
    different recordings.
    """
    folders = root.resolve().parts[1:] or ("root",)
    return printable("/".join(folders[-2:]))


def split_of_folders(relative: PurePath) -> str:
    """Returns the split of a file: the outermost of its folders that is called like a split, or "train".

    The outermost, because deeper folders may be classes, and "train" is also a sound.
    """
    return next((folder for folder in relative.parts[:-1] if folder in FOLDER_SPLITS), DEFAULT_SPLIT)


def split_of_shard(relative: PurePath) -> str:
    """Returns the split of an archive or a table by its path in the collection.

    A name like "train-00000-of-00004" decides first, then the folders, then the first word of the file name that is
    the name of a split. The default is "train".
    """
    sharded = _SHARD_NAME.match(relative.name)
    if sharded is not None:
        return split_name(sharded["split"])
    if any(folder in FOLDER_SPLITS for folder in relative.parts[:-1]):
        return split_of_folders(relative)
    words = re.split(r"[-._ 0-9]+", relative.name)
    return next((word for word in words if word in FOLDER_SPLITS), DEFAULT_SPLIT)


def split_name(stated: str) -> str:
    """Converts a name like "train.clean-100" into one that records can have: "train_clean_100"."""
    return re.sub(r"\W", "_", stated, flags=re.ASCII)


def require_clips(clips: Iterator[Entry | Rejection], source: object) -> Iterator[Entry | Rejection]:
    """Passes clips through.

    Raises:
        CollectionError: there are none.
    """
    clip = next(clips, None)
    if clip is None:
        raise CollectionError(f"{source} holds no clips; docs/collections.md shows what it must hold")
    yield clip
    yield from clips


def shorten(value: Any) -> str:
    """Formats a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def parse_captions(fields: Mapping[str, Any]) -> list[str] | None:
    """Returns the captions of a clip without empty texts and words for missing values; None if it has no such key.

    Raises:
        RejectedClip: the value is neither a text nor a list of texts, or holds half a character.
    """
    value = fields.get("captions", fields.get("caption"))
    captions = [value] if isinstance(value, str) else value
    if captions is None:
        return None
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise RejectedClip("bad_field", f"captions is {shorten(value)}; expected a list of texts")
    return plain_captions(_unicode(caption, "captions") for caption in captions)


def _needed_captions(fields: Mapping[str, Any]) -> tuple[str, ...]:
    captions = parse_captions(fields)
    if captions is None:
        raise RejectedClip("missing_caption", "there is neither a caption nor a label; expected captions (a list)")
    if not captions:
        value = fields.get("captions", fields.get("caption"))
        texts = [text for text in ([value] if isinstance(value, str) else value) if text.strip()]
        stated = f"is empty or stands for a missing value ({shorten(texts[0])})" if texts else "is empty"
        raise RejectedClip("empty_caption", f"every caption {stated}; expected at least one with words")
    return tuple(captions)


def _split(split: str) -> str:
    if not _SPLIT_NAME.fullmatch(split):
        raise RejectedClip(
            "bad_field", f"split is {shorten(split)}; expected letters, digits and underscores, like 'train'"
        )
    if split == RESERVED_SPLIT:
        raise RejectedClip("bad_field", f"split is {split!r}, which means all splits together; choose another name")
    return split


def parse_labels(value: Any) -> tuple[str, ...]:
    """Converts {"drum": "kick drum"} to ("drum=kick drum",) and keeps a list of texts.

    Raises:
        RejectedClip: the value is neither, or holds half a character.
    """
    if value is None:
        return ()
    if isinstance(value, dict):
        value = [
            f"{key}={item}" for key, items in value.items() for item in (items if isinstance(items, list) else [items])
        ]
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise RejectedClip("bad_field", f"labels is {shorten(value)}; expected an object of texts or a list of texts")
    stripped = (_unicode(label, "labels").strip() for label in value)
    return tuple(label for label in stripped if label and not is_missing(label, caption=False))


def parse_regions(value: Any) -> tuple[tuple[float, float, str], ...]:
    """Reads [{"onset_s": 0.5, "offset_s": 1.0, "caption": "a click"}] or [[0.5, 1.0, "a click"]].

    Raises:
        RejectedClip: the value is neither, or holds half a character.
    """
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
            regions.append((float(onset), float(offset), _unicode(caption, "regions").strip()))
    except (TypeError, ValueError, KeyError):
        raise RejectedClip(
            "bad_field", f"regions is {shorten(value)}; expected a list of onset_s <= offset_s in seconds and caption"
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
        raise RejectedClip("bad_field", f"{key} is {shorten(value)}; expected a positive number of seconds")
    return seconds


def _file_name(name: str) -> str:
    """Rejects a file name with bytes that are not UTF-8, which Python decodes to surrogates."""
    if name != printable(name):
        raise RejectedClip("bad_name", f"the file name {name!r} is not valid UTF-8; rename the file")
    return name


def _unicode(text: str, key: str) -> str:
    """Rejects surrogates, which JSON can express but no file can store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedClip(
            "bad_text",
            f"{key} holds half a character (\\u{ord(text[error.start]):04x}) at {error.start}; correct the text",
        ) from error
    return text
