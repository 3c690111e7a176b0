"""Parquet files, Arrow streams and `save_to_disk` folders, as Hugging Face `datasets` writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import datasets.table
import pyarrow as pa
import pyarrow.parquet as pq

from slap_jax.data.collections.huggingface import HuggingFaceTables

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
AUDIO_FEATURE = {"sampling_rate": 16_000, "_type": "Audio"}
TEXT_FEATURE = {"dtype": "string", "_type": "Value"}


def table_of(
    columns: Mapping[str, Sequence[Any]],
    types: Mapping[str, pa.DataType] | None = None,
    features: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Creates a table; "audio" is a struct of bytes and path unless `types` has another type.

    Args:
        columns: name -> values.
        types: of columns whose types cannot be inferred from their values.
        features: what `datasets` writes into the schema; nothing by default.
    """
    types = {"audio": AUDIO, **(types or {})}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    if features is None:
        return table
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, table: pa.Table, rows_per_group: int = 2, **options: Any) -> Path:
    """Writes row groups of a few rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group, **options)
    return path


def write_arrow(path: Path, table: pa.Table, rows_per_batch: int = 2) -> Path:
    """Writes record batches of a few rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=rows_per_batch)
    return path


def dataset_of(table: pa.Table, split: str = "") -> datasets.Dataset:
    """Wraps a table; `Dataset.from_dict` would need torchcodec for audio."""
    split_name = datasets.NamedSplit(split) if split else None
    return datasets.Dataset(datasets.table.InMemoryTable(table), split=split_name)


def cells(*contents):
    """Returns values of an audio column."""
    return [{"bytes": data, "path": f"{index}.wav"} for index, data in enumerate(contents)]


def clips(count, start=0):
    """Returns a table of clips whose audio is their number."""
    numbers = range(start, start + count)
    return table_of({"audio": cells(*(b"%d" % n for n in numbers)), "caption": [f"clip {n}" for n in numbers]})


def parquet(folder, columns, types=None, features=None, **options):
    """Writes a table into a folder and returns the collection."""
    write_parquet(folder / "data.parquet", table_of(columns, types, features), **options)
    return HuggingFaceTables(folder)
