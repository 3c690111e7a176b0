"""What an index knows about files, as a journal of changes: one JSON object a line, never rewritten.

Vectors belong to contents (the hash of a file's bytes), and paths refer to contents. A file that is moved, renamed or
copied is therefore never embedded again.

    {"content": "5f0c...", "first": 12, "rows": 3}                             its vectors are rows 12 to 14
    {"path": "a/b.wav", "size": 32044, "mtime_ns": 17..., "content": "5f0c..."}   a file, or what it is now
    {"path": "a/b.wav"}                                                        the file is gone
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class FileState:
    """A file as it was when it was indexed.

    Attributes:
        size: in bytes.
        mtime_ns: time of its last change.
        content: hash of its bytes.
    """

    size: int
    mtime_ns: int
    content: str


class Contents:
    """The state that a journal tells.

    Attributes:
        files: path relative to the root, with "/", to its state.
        rows: content to (first row, number of rows).
    """

    def __init__(self, journal: bytes = b""):
        """Replays a journal.

        Raises:
            ValueError: a line is not one of those above.
        """
        self.files: dict[str, FileState] = {}
        self.rows: dict[str, tuple[int, int]] = {}
        for line in journal.splitlines():
            self.apply(json.loads(line))

    def apply(self, entry: dict[str, Any]) -> None:
        """Takes over one line of the journal."""
        try:
            if "path" not in entry:
                self.rows[entry["content"]] = (entry["first"], entry["rows"])
            elif "content" in entry:
                self.files[entry["path"]] = FileState(entry["size"], entry["mtime_ns"], entry["content"])
            else:
                self.files.pop(entry["path"], None)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{entry!r} is no entry of a journal") from error

    def check(self, rows: int) -> None:
        """Compares with the number of rows that are finished.

        Raises:
            ValueError: a content has rows beyond these, or a file a content without rows.
        """
        beyond = [content for content, (first, count) in self.rows.items() if first + count > rows]
        lost = [path for path, state in self.files.items() if state.content not in self.rows]
        if beyond or lost:
            raise ValueError(f"the vectors of {(beyond + lost)[0]!r} are missing")

    def live_rows(self) -> int:
        """How many rows belong to a file that is still there."""
        return sum(self.rows[content][1] for content in {state.content for state in self.files.values()})

    def entries(self) -> Iterable[dict[str, Any]]:
        """Yields the shortest journal that tells this state, contents without a file left out."""
        live = {state.content for state in self.files.values()}
        for content, (first, rows) in self.rows.items():
            if content in live:
                yield {"content": content, "first": first, "rows": rows}
        for path, state in self.files.items():
            yield file_entry(path, state)


def file_entry(path: str, state: FileState) -> dict[str, Any]:
    """The line of a file that is there."""
    return {"path": path, **dataclasses.asdict(state)}
