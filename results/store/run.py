"""A run on disk: `manifest.json` says how it was made, `cells/` holds one Parquet file for each finished cell.

A cell that is being measured leaves shards, `cells/<key>.<first>-<last>.parquet`, each with the rows of whole groups;
`Run.finish` merges them into `cells/<key>.parquet`. Every file is written under a temporary name in the same folder,
flushed to disk and then renamed, so a final name never holds half a file. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pudnet_bench.results.store.files import (
    StoreError,
    holding,
    locked,
    sealed,
    sealed_json,
    set_aside,
    unsealed,
    unsealed_json,
    write_atomically,
)

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Version of the layout on disk; raised when a column changes its name or meaning. From 2 on JSON files have a checksum."""

ROW_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in [
            ("cell", pa.string()),  # the cell's key
            ("suite", pa.string()),
            ("method", pa.string()),  # name of the variant
            ("family", pa.string()),
            ("target", pa.string()),
            ("seed", pa.int64()),
            ("group", pa.int64()),
            ("snapshot", pa.string()),  # "" when a method hands over only one
            ("accuracy", pa.float64()),  # fraction, 0 to 1
            ("seconds", pa.float64()),  # fit time until this snapshot, by the clock of the device
            ("wall_seconds", pa.float64()),
            ("evaluation_seconds", pa.float64()),
            ("data_seconds", pa.float64()),
            ("peak_memory_bytes", pa.int64()),
            ("n_fit", pa.int64()),  # images
            ("n_test", pa.int64()),  # images
            ("n_classes", pa.int64()),
            ("device", pa.string()),
            ("artifact", pa.string()),  # "" if none
            ("meta_train_seconds", pa.float64()),  # NaN if none
            ("training_groups", pa.float64()),  # that meta-training used; NaN if none
            ("epochs", pa.float64()),  # NaN when the snapshot is not one of an iterative training
            ("fit_flops", pa.float64()),  # of fit until this snapshot; NaN if unknown
            ("test_flops", pa.float64()),  # of the classifier, per test image; NaN if unknown
            ("parameters", pa.float64()),  # learned before any unseen group, BatchNorm's statistics included; 0 if none
            ("energy_joules", pa.float64()),  # of fit until this snapshot; NaN where the device does not report it
        ]
    ]
)
"""The columns of a row: one (group, snapshot) of a cell. A cell has one seed, so its groups are unique in it.

Columns are only ever added at the end; of a file that was written before, they are read as NaN.
"""

_FIRST_COLUMNS = 22  # of the oldest files in this format

_CHECKSUM = b"pudnet-bench.sha256"
_MANIFEST = "manifest.json"
_IDENTITY = ("suite", "profile", "device")
_INVOCATION = ("command", "started", "git_commit")
_SHARD = re.compile(r"(?P<key>.+)\.(?P<first>\d+)-(?P<last>\d+)")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_@=+,.-]{0,199}")


@dataclass
class Run:
    """A run's folder. Get one from `create_or_open` (to measure) or `open` (to read); `manifest` is as last read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def create_or_open(cls, folder: Path, manifest: Mapping[str, Any]) -> Run:
        """Start a run in `folder`, or go on with the run that is there.

        `manifest` has at least suite, profile, device, command, git_commit, versions and started. A run that is there
        keeps its manifest, its first `started` included; the new call is appended to its `invocations`. A damaged manifest
        is set aside, with a warning, and begun again: the cells do not need it.

        Raises StoreError if the folder holds a run of another suite, profile or device, or something else altogether;
        OSError if it cannot be written.
        """
        folder = Path(folder)
        missing = [name for name in (*_IDENTITY, *_INVOCATION, "versions") if name not in manifest]
        if missing:
            raise ValueError(f"the manifest lacks {', '.join(missing)}")
        invocation = {name: manifest[name] for name in _INVOCATION}
        path = folder / _MANIFEST
        if not path.exists():
            _refuse_foreign_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
        elif (folder / "cells").is_dir():
            try:
                unsealed_json(path.read_bytes())
            except ValueError as error:
                set_aside(path, str(error))
        else:
            cls.open(folder)  # says what is wrong with another program's manifest, before a file is made beside it
        with _alone(folder):
            if not path.exists():
                run = cls(folder, {"format": FORMAT, **manifest, "invocations": [invocation]})
            else:
                run = cls.open(folder)
                for name in _IDENTITY:
                    if run.manifest.get(name) != manifest[name]:
                        raise StoreError(
                            f"{folder} holds a run of {name} {run.manifest.get(name)!r}, not {manifest[name]!r}: "
                            f"give another folder with --out."
                        )
                run.manifest["invocations"] = [*run.manifest.get("invocations", []), invocation]
            run._write_manifest()
            run._cells.mkdir(exist_ok=True)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in `folder`; writes nothing. Raises StoreError if there is none or its manifest is unreadable."""
        folder = Path(folder)
        path = folder / _MANIFEST
        try:
            manifest = unsealed_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"There is no run in {folder}: it has no {_MANIFEST}. Give the folder of a run.") from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): give the `run` command again, or another folder; its cells are untouched."
            ) from error
        if manifest.get("format") != FORMAT:
            raise StoreError(
                f"{path} is not the manifest of a run in format {FORMAT}: give another folder, or read this one with "
                f"the version of pudnet-bench that wrote it."
            )
        return cls(folder, manifest)

    def finished(self, key: str) -> bool:
        """Whether the cell's merged file is there and undamaged."""
        path = self._finished_path(key)
        return path.exists() and self._read(path) is not None

    def groups_done(self, key: str) -> set[int]:
        """Groups of the cell that are measured and safe on disk, in shards or in the finished file."""
        return set(self._rows(key)["group"].to_pylist())

    def write_shard(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of whole groups of a cell (columns: `ROW_SCHEMA`); once this returns they survive a crash.

        Raises ValueError for rows that do not fit the schema, OSError when the folder cannot be written.
        """
        table = _table_of(key, rows)
        groups = table["group"].to_numpy()
        path = self._cells / f"{_checked(key)}.{groups.min()}-{groups.max()}.parquet"
        if path.exists() and (before := self._read(path)) is not None:
            # Groups 0, 2, 5 and then 0, 3, 5 share a name: the second write must not lose group 2.
            table = _merged([table, before])
        _write_table(path, table)

    def complete(self, key: str, rows: Sequence[Mapping[str, Any]], groups: int) -> bool:
        """Keep the last `rows` of a cell of so many groups: in its finished file where none is missing then, else as a shard.

        Returns whether the cell is finished. Only for the process that is `holding` the cell: of several that measured its
        groups, the last finishes it. Raises what `write_shard` and `finish` raise.
        """
        mine = [_table_of(key, rows)] if rows else []
        if set(_merged([*self._tables(key), *mine])["group"].to_pylist()) >= set(range(groups)):
            self._finish(key, mine)
            return True
        if rows:
            self.write_shard(key, rows)
        return False

    def finish(self, key: str) -> None:
        """Merge the cell's shards into `cells/<key>.parquet`, then remove them.

        Safe to be killed anywhere: until the rename the shards are all there is, after it they are copies of groups
        in the merged file, which readers skip and the next `finish` removes.

        Raises StoreError if nothing is measured or a shard turns out to be damaged (the others stay as they are).
        """
        self._finish(key, [])

    def _finish(self, key: str, more: Sequence[pa.Table]) -> None:
        path = self._finished_path(key)
        shards = self._shards(key)
        tables = [self._read(shard) for shard in shards]
        if None in tables:
            raise StoreError(f"A shard of the cell {key} in {self._cells} is damaged: run again to measure it anew.")
        tables += more
        if path.exists() and (before := self._read(path)) is not None:
            tables.insert(0, before)
        if not tables:
            raise StoreError(f"Nothing of the cell {key} is measured in {self._cells}: run it first.")
        if shards or more:
            _write_table(path, _merged(tables))
        for shard in shards:
            shard.unlink(missing_ok=True)

    def frame(self, keys: Collection[str] | None = None) -> pd.DataFrame:
        """All rows measured so far (of the cells `keys`, or of all): the columns of `ROW_SCHEMA` and `finished`, bool.

        Ordered by cell key, group and the order in which the snapshots were handed over, however often the run was
        interrupted. Cells that are still being measured are included.
        """
        known = {key for key, _ in self._files()}
        tables = []
        for key in sorted(known if keys is None else known & set(keys)):
            rows = self._rows(key)
            done = pa.array(np.full(rows.num_rows, self._finished_path(key).exists()))
            tables.append(rows.append_column("finished", done))
        empty = ROW_SCHEMA.append(pa.field("finished", pa.bool_())).empty_table()
        return pa.concat_tables(tables or [empty]).to_pandas()

    def keep_curve(self, key: str, curve: pd.DataFrame) -> None:
        """Keep what the meta-training behind a cell reported: any columns, a row for each report."""
        _write_frame(self._curve_path(key), curve)

    def curve(self, key: str) -> pd.DataFrame | None:
        """What ``keep_curve`` kept; None if nothing, or if it was damaged and is now set aside, with a warning."""
        table = self._read(self._curve_path(key), of_rows=False)
        return None if table is None else table.to_pandas()

    def keep_derived(self, key: str, name: str, table: pd.DataFrame) -> None:
        """Keep a table of numbers that takes long to compute from a cell; ``name`` says from what of it, and how."""
        _write_frame(self._derived_path(key, name), table)

    def derived(self, key: str, name: str) -> pd.DataFrame | None:
        """What ``keep_derived`` kept under ``name``; None if nothing, or if it was damaged."""
        table = self._read(self._derived_path(key, name), of_rows=False)
        return None if table is None else table.to_pandas()

    def keep_parameters(self, key: str, group: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays of the network that was fitted to a group (safetensors, sealed)."""
        from safetensors.numpy import save

        path = self._parameters_path(key, group)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, sealed(save(dict(arrays))))

    def keeps_parameters(self, key: str, group: int) -> bool:
        """Whether the arrays of the group are there and undamaged."""
        return self._unsealed(self._parameters_path(key, group)) is not None

    def parameters(self, key: str, groups: Collection[int]) -> dict[str, np.ndarray]:
        """What ``keep_parameters`` kept for ``groups``, stacked in their order: [n, ...] by name.

        Raises StoreError if one is missing or damaged.
        """
        from safetensors.numpy import load

        kept = []
        for group in groups:
            path = self._parameters_path(key, group)
            data = self._unsealed(path)
            if data is None:
                raise StoreError(f"{path} is not there, and its group is measured; give the `run` command again.")
            kept.append(load(data))
        return {name: np.stack([arrays[name] for arrays in kept]) for name in (kept[0] if kept else ())}

    def _curve_path(self, key: str) -> Path:
        return self.folder / "curves" / f"{_checked(key)}.parquet"

    def _derived_path(self, key: str, name: str) -> Path:
        return self.folder / "derived" / f"{_checked(key)}.{name}.parquet"

    def _parameters_path(self, key: str, group: int) -> Path:
        return self.folder / "parameters" / _checked(key) / f"{group}.safetensors.sealed"

    def _unsealed(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return unsealed(data)
        except ValueError as error:
            set_aside(path, str(error))
            return None

    def alone(self) -> AbstractContextManager[None]:
        """Hold the run for this process, so that no other measures it or changes its manifest meanwhile.

        The lock is the kernel's (flock): it ends with the process that holds it, however that ends. Raises StoreError
        naming the process that has it.
        """
        return _alone(self.folder)

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Hold one cell, waiting for whoever has it: of several processes that measured its groups, one finishes it."""
        folder = self.folder / ".locks"
        folder.mkdir(exist_ok=True)
        with holding(folder / _checked(key)):
            yield

    def update_manifest(self, **fields: Any) -> None:
        """Set fields of the manifest (JSON values). Only the process that started the run may call this."""
        self.manifest = {**Run.open(self.folder).manifest, **fields}
        self._write_manifest()

    @property
    def _cells(self) -> Path:
        return self.folder / "cells"

    def _write_manifest(self) -> None:
        write_atomically(self.folder / _MANIFEST, sealed_json(self.manifest))

    def _finished_path(self, key: str) -> Path:
        return self._cells / f"{_checked(key)}.parquet"

    def _files(self, beginning: str = "") -> list[tuple[str, Path]]:
        """(key, file) of every Parquet file in `cells/` with such a name; shards in the order of their groups."""
        found = []
        for name in os.listdir(self._cells) if self._cells.is_dir() else ():  # noqa: PTH208 - a run has many files
            if not name.startswith(beginning) or not name.endswith(".parquet") or name.startswith("."):
                continue
            path = self._cells / name
            shard = _SHARD.fullmatch(path.stem)
            order = (shard["key"], int(shard["first"]), int(shard["last"])) if shard else (path.stem, -1, -1)
            found.append((order, path))
        return [(order[0], path) for order, path in sorted(found)]

    def _shards(self, key: str) -> list[Path]:
        return [path for known, path in self._files(key) if known == key and path != self._finished_path(key)]

    def _tables(self, key: str) -> list[pa.Table]:
        # Shards before the merged file: if another process finishes the cell in between, the merged file is there.
        tables = [self._read(shard) for shard in self._shards(key)]
        tables.insert(0, self._read(self._finished_path(key)))
        return [table for table in tables if table is not None]

    def _rows(self, key: str) -> pa.Table:
        return _merged(self._tables(key))

    def _read(self, path: Path, *, of_rows: bool = True) -> pa.Table | None:
        """The file's rows, with all columns; None if it is not there, or was damaged and is now set aside as `*.corrupt`.

        Without `of_rows` any columns will do.
        """
        try:
            data = path.read_bytes()  # here an OSError is the folder's fault, below it is pyarrow's word for damage
        except FileNotFoundError:
            return None
        try:
            table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)  # a third of the time of pq.read_table
            if of_rows and not table.schema.equals(pa.schema(_row_fields(table.column_names))):
                raise ValueError("its columns are not those of a row")
            if (table.schema.metadata or {}).get(_CHECKSUM) != _checksum(table):
                raise ValueError("its checksum does not match")
        except (pa.ArrowException, OSError, ValueError) as error:
            set_aside(path, str(error).splitlines()[0])
            return None
        table = table.replace_schema_metadata(None)
        for field in list(ROW_SCHEMA)[table.num_columns :] if of_rows else ():
            table = table.append_column(field, pa.array(np.full(table.num_rows, np.nan)))
        return table


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a+") as file:
        if not locked(file):
            file.seek(0)
            raise StoreError(
                f"{folder} is in use by {file.read().strip() or 'another process'}: wait for it, or give another folder with "
                "--out."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, not a folder: give another folder with --out.")
    # A run killed while its first manifest was written leaves a temporary file, and is still ours; one whose manifest was
    # damaged has it set aside.
    names = {path.name for path in folder.iterdir()} - {".lock"} if folder.exists() else set()
    if f"{_MANIFEST}.corrupt" not in names and any(not name.startswith(f".{_MANIFEST}.") for name in names):
        raise StoreError(
            f"{folder} is not empty and holds no run (no {_MANIFEST}): give a new or empty folder with --out."
        )


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or _SHARD.fullmatch(key):
        raise StoreError(
            f"{key!r} cannot name a cell: use up to 200 letters, digits and _@=+,.- (not ending like '.0-9')."
        )
    return key


def _table_of(key: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    if not rows:
        raise ValueError(f"no rows given for the cell {key}")
    expected = set(ROW_SCHEMA.names)
    for row in rows:
        if row.keys() != expected:
            wrong = ", ".join(sorted(row.keys() ^ expected))
            raise ValueError(f"a row of the cell {key} lacks or adds columns: {wrong}")
        if row["cell"] != key:
            raise ValueError(f"a row of the cell {row['cell']} was given for the cell {key}")
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=ROW_SCHEMA)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"a row of the cell {key} does not fit the columns: {error}") from error
    empty = [name for name in ROW_SCHEMA.names if table[name].null_count]
    if empty:
        raise ValueError(f"a row of the cell {key} has no value (None) in: {', '.join(empty)}")
    return table


def _merged(tables: Sequence[pa.Table]) -> pa.Table:
    """One table ordered by group; a group that is in several tables counts once, from the first of them."""
    merged = pa.concat_tables([ROW_SCHEMA.empty_table(), *tables])
    groups = merged["group"].to_numpy()
    order = np.argsort(groups, kind="stable")  # the rows of a group: those of its first table first
    table = np.repeat(np.arange(len(tables)), [part.num_rows for part in tables])[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = groups[order[1:]] != groups[order[:-1]]
    first = table[begins][np.cumsum(begins) - 1]
    return merged.take(order[table == first])


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Column by column: from_pandas would turn NaN into null, whose bytes are not defined.
    _write_table(path, pa.table({name: pa.array(column.to_numpy()) for name, column in frame.items()}))


def _write_table(path: Path, table: pa.Table) -> None:
    write_atomically(path, _parquet(table.replace_schema_metadata({_CHECKSUM: _checksum(table)})))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _row_fields(names: Sequence[str]) -> list[pa.Field]:
    """The fields of a file of rows with the columns `names`, which may be of an earlier version; none if it is no such file."""
    fields = list(ROW_SCHEMA)[: len(names)]
    return fields if len(names) >= _FIRST_COLUMNS and [field.name for field in fields] == list(names) else []


def _checksum(table: pa.Table) -> bytes:
    """SHA-256 over the values, in hex: the footer's own checks do not cover the pages.

    Over the names of the columns too where they are not those of a row.
    """
    digest = hashlib.sha256()
    if not _row_fields(table.column_names):
        digest.update(json.dumps(table.column_names).encode())
    for name in table.column_names:
        column = table[name]
        text = pa.types.is_string(column.type)
        digest.update(json.dumps(column.to_pylist()).encode() if text else column.to_numpy().tobytes())
    return digest.hexdigest().encode()
