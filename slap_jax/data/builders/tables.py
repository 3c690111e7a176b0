"""Tables (CSV, TSV) of publishers, read line by line."""

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slap_jax.data.builders.published import LayoutError
from slap_jax.data.collections.entries import Rejection


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        where: file and line.
        fields: column -> text exactly as it stands in the file, spaces included.
    """

    where: str
    fields: dict[str, str]


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    header: bool = True,
    comment: str = "",
    spaces: bool = True,
) -> Iterator[Row | Rejection]:
    """Reads a table.

    Args:
        path: file.
        columns: those that must be there, while others are read too; without a header line, all of them in order.
        delimiter: between fields.
        encoding: of the file.
        header: whether the first line names the columns.
        comment: what lines begin with that are no rows; "" where there are none.
        spaces: whether a space after a delimiter belongs to the field.

    Yields:
        The rows in order. A row with more or fewer fields than the header, such as one whose caption holds a comma
        without quotes, is a rejection: its fields cannot be told apart.

    Raises:
        LayoutError: a column is missing, or the file is not a table of this encoding.
    """
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=not spaces)
        try:
            names = next(reader, []) if header else list(columns)
            missing = [column for column in columns if column not in names]
            if missing:
                raise LayoutError(
                    f"{path} has no column {missing[0]!r}, but {', '.join(names) or 'none at all'}; "
                    f"expected {', '.join(columns)}: take the file as its publisher offers it"
                )
            for cells in reader:
                where = f"{path.name}:{reader.line_num}"
                if not cells or (comment and cells[0].startswith(comment)):
                    continue
                if len(cells) == len(names):
                    yield Row(where, dict(zip(names, cells, strict=True)))
                else:
                    detail = f"the line has {len(cells)} fields; expected {len(names)}, with quotes around commas"
                    yield Rejection(where, cells[0], "bad_row", detail)
        except UnicodeDecodeError as error:
            raise LayoutError(
                f"{path} is not {encoding} text (byte {error.object[error.start]:#04x}); "
                "take the file as its publisher offers it"
            ) from error
        except csv.Error as error:
            raise LayoutError(f"{path}, line {reader.line_num}, is not a table ({error}); download it again") from error


def intact(path: Path, rows: Iterable[Row | Rejection]) -> Iterator[Row]:
    """Passes rows on that `read_table` read from a file of which every row is needed.

    Raises:
        LayoutError: a row is broken.
    """
    for row in rows:
        if isinstance(row, Rejection):
            raise LayoutError(f"{path.parent / row.where} is broken: {row.detail}")
        yield row


def group_rows(
    path: Path, key: str, columns: Sequence[str], *, delimiter: str = ",", encoding: str = "utf-8-sig"
) -> dict[str, list[dict[str, str]]]:
    """Reads a table about clips that another table lists.

    Args:
        path: file.
        key: column that names the clip.
        columns: those that must be there beside it.
        delimiter: between fields.
        encoding: of the file.

    Returns:
        Value of `key` -> the fields of its rows, in order.

    Raises:
        LayoutError: as `read_table`, and where a row is broken.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for row in intact(path, read_table(path, (key, *columns), delimiter=delimiter, encoding=encoding)):
        groups.setdefault(row.fields[key], []).append(row.fields)
    return groups
