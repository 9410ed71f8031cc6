"""Tables of measured rows: their schema, their checksum, and how several are merged."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pudnet_bench.results.store.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {
    "cell": pa.string(),  # the cell's key
    "suite": pa.string(),
    "method": pa.string(),  # name of the variant
    "family": pa.string(),
    "target": pa.string(),
    "seed": pa.int64(),
    "group": pa.int64(),
    "snapshot": pa.string(),  # "" when a method yields only one
    "accuracy": pa.float64(),  # fraction, 0 to 1
    "seconds": pa.float64(),  # fit time until this snapshot, by the device's clock
    "wall_seconds": pa.float64(),
    "evaluation_seconds": pa.float64(),
    "data_seconds": pa.float64(),
    "peak_memory_bytes": pa.int64(),  # of a fit; -1 if unknown
    "n_fit": pa.int64(),  # images
    "n_test": pa.int64(),  # images
    "n_classes": pa.int64(),
    "device": pa.string(),
    "artifact": pa.string(),  # "" if none
    "meta_train_seconds": pa.float64(),  # NaN if none
    "training_groups": pa.float64(),  # that meta-training used; NaN if none
    "epochs": pa.float64(),  # NaN when the snapshot is not one of an iterative training
    "fit_flops": pa.float64(),  # of fit until this snapshot; NaN if unknown
    "test_flops": pa.float64(),  # of the classifier, per test image; NaN if unknown
    "parameters": pa.float64(),  # learned before any unseen group, BatchNorm statistics included; 0 if none
    "energy_joules": pa.float64(),  # of fit until this snapshot; NaN where the device does not report it
    "precision": pa.string(),  # "" if unknown
    "threads": pa.int64(),  # of torch; 0 if unknown
    "split": pa.int64(),  # seed of the class split
    "classes": pa.string(),  # the group's class ids in the source, in the order of its labels: "3 9"; "" if unknown
}
ROW_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()])
"""The columns of a row: one (group, snapshot) of a cell. A cell has one class split and seed, so its groups are unique in it.

Columns are only ever added at the end; `read_rows` fills those that an older file lacks.
"""

_FIRST_COLUMNS = 22  # of the oldest files that are read
_CHECKSUM = b"pudnet-bench.sha256"


def table_of(key: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """`rows` of the cell `key` as a table. Raises ValueError if they do not fit `ROW_SCHEMA`."""
    if not rows:
        raise ValueError(f"no rows given for the cell {key}")
    for row in rows:
        if wrong := row.keys() ^ set(ROW_SCHEMA.names):
            raise ValueError(f"a row of the cell {key} lacks or adds columns: {', '.join(sorted(wrong))}")
        if row["cell"] != key:
            raise ValueError(f"a row of the cell {row['cell']} was given for the cell {key}")
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=ROW_SCHEMA)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"a row of the cell {key} does not fit the columns: {error}") from error
    if empty := [name for name in ROW_SCHEMA.names if table[name].null_count]:
        raise ValueError(f"a row of the cell {key} has no value (None) in: {', '.join(empty)}")
    return table


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """One table ordered by group; a group in several tables is taken from the first of them."""
    # Not `empty_table`, which imports pandas; nor `take`, which imports pyarrow.compute, where nothing is out of order.
    joined = pa.concat_tables(tables) if tables else pa.Table.from_batches([], ROW_SCHEMA)
    groups = _numpy(joined["group"])
    if len(tables) <= 1 and (groups[1:] >= groups[:-1]).all():
        return joined
    order = np.argsort(groups, kind="stable")  # the rows of a group: those of its first table first
    table = np.repeat(np.arange(len(tables)), [part.num_rows for part in tables])[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = groups[order[1:]] != groups[order[:-1]]
    first = table[begins][np.cumsum(begins) - 1]
    return joined.take(order[table == first])


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame of any columns as a checksummed Parquet file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Column by column: from_pandas would turn NaN into null, whose bytes are not defined.
    write_table(path, pa.table({name: pa.array(column.to_numpy()) for name, column in frame.items()}))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as a checksummed Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_CHECKSUM: _checksum(table)}), sink)
    write_atomically(path, sink.getvalue())


def read_rows(data: bytes, precision: str, threads: int) -> pa.Table:
    """Read rows; raises as `read_table`.

    Columns added after they were written get `precision`, `threads`, split 0, no classes, or NaN.
    """
    known: dict[str, Any] = {"precision": precision, "threads": threads, "split": 0, "classes": ""}
    table = read_table(data, of_rows=True)
    for column in list(ROW_SCHEMA)[table.num_columns :]:
        value = pa.scalar(known.get(column.name, float("nan")), column.type)
        table = table.append_column(column, pa.repeat(value, table.num_rows))
    return table


def read_groups(data: bytes) -> np.ndarray:
    """The column `group` alone, int64 [rows], of a file of rows. Raises as `read_table`, but verifies no checksum."""
    file = pq.ParquetFile(io.BytesIO(data))
    if not _row_fields(file.schema_arrow.names):
        raise ValueError("its columns are not those of a row")
    return _numpy(file.read(["group"], use_threads=False)["group"])


def read_table(data: bytes, *, of_rows: bool = False) -> pa.Table:
    """Read the content of a checksummed Parquet file.

    Raises ValueError, pyarrow.ArrowException or OSError if it is damaged, or not of rows where it should be.
    """
    table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)  # a third of the time of pq.read_table
    if of_rows and not table.schema.equals(pa.schema(_row_fields(table.column_names))):
        raise ValueError("its columns are not those of a row")
    if (table.schema.metadata or {}).get(_CHECKSUM) != _checksum(table):
        raise ValueError("its checksum does not match")
    return table.replace_schema_metadata(None)


def _row_fields(names: Sequence[str]) -> list[pa.Field]:
    """The fields of a file of rows with the columns `names`, which may be of an earlier version; else none."""
    fields = list(ROW_SCHEMA)[: len(names)]
    return fields if len(names) >= _FIRST_COLUMNS and [column.name for column in fields] == list(names) else []


def _checksum(table: pa.Table) -> bytes:
    """SHA-256 in hex over the values, which Parquet's footer does not protect, and over the names unless they are a row's."""
    digest = hashlib.sha256()
    if not _row_fields(table.column_names):
        digest.update(json.dumps(table.column_names).encode())
    for name in table.column_names:
        column = table[name]
        text = pa.types.is_string(column.type)
        digest.update(json.dumps(column.to_pylist()).encode() if text else _numpy(column).tobytes())
    return digest.hexdigest().encode()


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a column; those of numbers without pandas, which `to_numpy` would spend half a second to import."""
    values = column.combine_chunks()
    plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    return np.from_dlpack(values) if plain and not values.null_count else values.to_numpy(zero_copy_only=False)
