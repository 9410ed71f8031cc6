"""A run on disk: `record.json` says how it was made, `cells/` holds one Parquet file for each finished cell.

A cell that is being measured has shards, `cells/<key>.<first>-<last>.parquet`, each with the rows of complete groups;
`Run.finish` merges them into `cells/<key>.parquet`. All files are written atomically, and nothing is pickled.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from pudnet_bench.results.store import files
from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.rows import (
    ROW_SCHEMA,
    merge,
    read_groups,
    read_rows,
    read_table,
    table_of,
    write_frame,
    write_table,
)
from pudnet_bench.results.store.run_record import MANIFEST, RECORD, Invocation, PlannedCell, RunRecord, decode, encode

if TYPE_CHECKING:
    import pandas as pd

_IDENTITY = ("suite", "profile", "device", "precision")
_SHARD = re.compile(r"(?P<key>.+)\.(?P<first>\d+)-(?P<last>\d+)")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_@=+,.-]{0,199}")
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """What is on disk of a cell: its distinct `groups`, ascending int64, and whether its finished file is there."""

    groups: np.ndarray
    finished: bool

    def covers(self, cell: PlannedCell) -> bool:
        """Whether all of the planned groups are there, merged into the finished file."""
        return self.finished and len(self.groups) >= cell.groups


NOTHING = Progress(np.empty(0, np.int64), finished=False)


@dataclass
class Run:
    """A run's folder and its record as last read, from `create_or_open` (to measure) or `open` (to read)."""

    folder: Path
    record: RunRecord

    @classmethod
    def create_or_open(cls, folder: Path, record: RunRecord) -> Run:
        """Start a run in `folder`, or resume the one in it: plan and invocations of `record` are added to its own.

        A damaged record is set aside with a warning and replaced: the cells do not need it.

        Raises StoreError if the folder is in use by another process, or holds something else or a run of another suite,
        profile, device or precision; OSError if it cannot be written.
        """
        path = _record_path(folder)
        if not path.exists():
            _refuse_foreign_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
        elif (folder / "cells").is_dir():
            try:
                files.read_checksummed_json(path.read_bytes())
            except ValueError as error:
                files.quarantine(path, str(error))
        else:
            cls.open(folder)  # refuses another program's manifest before a file is created beside it
        run = cls(folder, record)
        with run.exclusive():
            if _record_path(folder).exists():
                run = cls.open(folder)
                before = run.record
                for name in _IDENTITY:
                    ours, theirs = getattr(before, name), getattr(record, name)
                    if ours != theirs:
                        raise StoreError(
                            f"{folder} holds a run of {name} {ours!r}, not {theirs!r}: give another folder with --out."
                        )
                invocations = (*before.invocations, *record.invocations)
                run.record = replace(before, plan=before.plan.merged(record.plan), invocations=invocations)
            run._write_record()
            run._cells.mkdir(exist_ok=True)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in `folder`; writes nothing. Raises StoreError if there is none or its record cannot be read."""
        path = _record_path(folder)
        try:
            return cls(folder, decode(path.read_bytes(), path.name))
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"There is no run in {folder}: it has no {RECORD}. Give the folder of a run.") from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): repeat the `run` command, or give another folder; its cells are untouched."
            ) from error

    def end_invocation(self, invocation: Invocation, ended: str, load_end: tuple[float, ...]) -> None:
        """Record when `invocation`, one of the run's own, ended. Only for the process that made it."""
        record, closed = Run.open(self.folder).record, replace(invocation, ended=ended, load_end=load_end)
        calls = tuple(closed if call == invocation else call for call in record.invocations)
        self.record = replace(record, invocations=calls)
        self._write_record()

    def finished(self, key: str) -> bool:
        """Whether the cell's merged file is there and undamaged."""
        return self._read_rows(self._path("cells", key)) is not None

    def groups_done(self, key: str) -> set[int]:
        """Groups of the cell that are measured and safe on disk, in shards or in the finished file."""
        return set(self.progress_of(key).groups.tolist())

    def progress_of(self, key: str) -> Progress:
        """What is on disk of one cell, verified."""
        return self._progress(key, self._shards(key), self._verified_groups)

    def progress(self, *, verified: bool) -> dict[str, Progress]:
        """What is on disk of every cell with a file, from one pass over the folder.

        Unless `verified`, only the numbers of the groups are read: a tenth of the time, and damage to the other columns
        goes unnoticed until they are read.
        """
        read = self._verified_groups if verified else self._bare_groups
        return {key: self._progress(key, shards, read) for key, shards in self._shards_by_key().items()}

    def write_shard(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of complete groups of a cell (columns: `ROW_SCHEMA`); once this returns they survive a crash.

        Raises ValueError if the rows do not fit the schema, OSError if the folder cannot be written.
        """
        table = table_of(key, rows)
        groups = table["group"].to_numpy()
        path = self._cells / f"{_checked(key)}.{groups.min()}-{groups.max()}.parquet"
        # Groups 0, 2, 5 and then 0, 3, 5 share a name: the second write must not lose group 2.
        before = self._read_rows(path)
        write_table(path, table if before is None else merge([table, before]))

    def complete(self, key: str, rows: Sequence[Mapping[str, Any]], groups: int) -> bool:
        """Write the last `rows` of a cell of so many groups: to its finished file if none is missing then, else to a shard.

        Returns whether the cell is finished. Only for the process that has `locked` the cell: of several that measured
        its groups, the last finishes it. Raises what `write_shard` and `finish` raise.
        """
        last = [table_of(key, rows)] if rows else []
        if set(merge([*self._tables(key, self._shards(key)), *last])["group"].to_pylist()) >= set(range(groups)):
            self.finish(key, last)
            return True
        if rows:
            self.write_shard(key, rows)
        return False

    def finish(self, key: str, last: Sequence[pa.Table] = ()) -> None:
        """Merge the cell's shards and the `last` tables into `cells/<key>.parquet`, then remove the shards.

        Safe to be killed anywhere: until the rename the shards are all there is, after it they are copies of groups in the
        merged file, which readers skip and the next `finish` removes. Raises StoreError if nothing is measured, or a shard
        is damaged (the others stay as they are).
        """
        path, shards = self._path("cells", key), self._shards(key)
        tables = [self._read_rows(shard) for shard in shards]
        if None in tables:
            raise StoreError(f"A shard of the cell {key} in {self._cells} is damaged: run again to replace it.")
        tables = [table for table in (self._read_rows(path), *tables, *last) if table is not None]
        if not tables:
            raise StoreError(f"Nothing of the cell {key} is measured in {self._cells}: run it first.")
        if shards or last:
            write_table(path, merge(tables))
        for shard in shards:
            shard.unlink(missing_ok=True)

    def planned_frame(self) -> pd.DataFrame:
        """The `frame` of the cells in the run's plan."""
        return self.frame([cell.key for cell in self.record.plan.cells])

    def frame(self, keys: Collection[str] | None = None) -> pd.DataFrame:
        """All rows measured so far (of the cells `keys`, or of all): the columns of `ROW_SCHEMA` and `finished`, bool.

        Ordered by cell key, group and the order in which the snapshots were yielded, however often the run was
        interrupted. Cells that are still being measured are included. An unknown memory is NaN.
        """
        known = self._shards_by_key()
        tables = []
        for key in sorted(known if keys is None else known.keys() & set(keys)):
            rows = merge(self._tables(key, known[key]))
            done = pa.array(np.full(rows.num_rows, self._path("cells", key).exists()))
            tables.append(rows.append_column("finished", done))
        empty = ROW_SCHEMA.append(pa.field("finished", pa.bool_())).empty_table()
        frame: pd.DataFrame = pa.concat_tables(tables or [empty]).to_pandas()
        unknown = frame["peak_memory_bytes"] < 0
        if unknown.any():
            frame["peak_memory_bytes"] = frame["peak_memory_bytes"].astype(float).mask(unknown)
        return frame

    def save_curve(self, key: str, curve: pd.DataFrame) -> None:
        """Save what the meta-training behind a cell reported: a row for each report."""
        write_frame(self._path("curves", key), curve)

    def curve(self, key: str) -> pd.DataFrame | None:
        """What `save_curve` saved; None if there is none, or if it was damaged and is now set aside, with a warning."""
        return self._read_frame(self._path("curves", key))

    def save_derived(self, key: str, name: str, table: pd.DataFrame) -> None:
        """Save a table that takes long to compute from a cell; `name` says from what of it, and how."""
        write_frame(self._path("derived", key, f".{name}.parquet"), table)

    def derived(self, key: str, name: str) -> pd.DataFrame | None:
        """What `save_derived` saved under `name`; None if there is none, or if it was damaged."""
        return self._read_frame(self._path("derived", key, f".{name}.parquet"))

    def save_parameters(self, key: str, group: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save arrays of the network that was fitted to a group (safetensors, checksummed)."""
        from safetensors.numpy import save

        path = self._parameters_path(key, group)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, files.checksummed(save(dict(arrays))))

    def has_parameters(self, key: str, group: int) -> bool:
        """Whether the arrays of the group are there and undamaged."""
        return self._read(self._parameters_path(key, group), files.read_checksummed) is not None

    def parameters(self, key: str, groups: Collection[int]) -> dict[str, np.ndarray]:
        """What `save_parameters` saved for `groups`, stacked in their order, [n, ...]. Raises StoreError if one is lost."""
        from safetensors.numpy import load

        found = []
        for group in groups:
            path = self._parameters_path(key, group)
            if (data := self._read(path, files.read_checksummed)) is None:
                raise StoreError(f"{path} is missing, and its group is measured: repeat the `run` command.")
            found.append(load(data))
        return {name: np.stack([arrays[name] for arrays in found]) for name in (found[0] if found else ())}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the run, so that no other process measures it or changes its record. Raises StoreError naming its holder."""
        with (self.folder / ".lock").open("a+") as file:
            if not files.try_lock(file):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise StoreError(
                    f"{self.folder} is in use by {holder}: wait for it, or give another folder with --out."
                )
            with files.naming(self.folder / ".lock"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Lock one cell, waiting for its holder: of several processes that measured its groups, one finishes it."""
        folder = self.folder / ".locks"
        folder.mkdir(exist_ok=True)
        with files.locked(folder / _checked(key)):
            yield

    @property
    def _cells(self) -> Path:
        return self.folder / "cells"

    def _write_record(self) -> None:
        write_atomically(self.folder / RECORD, encode(self.record))

    def _path(self, folder: str, key: str, ending: str = ".parquet") -> Path:
        return self.folder / folder / f"{_checked(key)}{ending}"

    def _parameters_path(self, key: str, group: int) -> Path:
        return self._path("parameters", key, f"/{group}.safetensors.sealed")

    def _files(self, prefix: str = "") -> list[tuple[str, Path]]:
        """(key, file) of every Parquet file in `cells/` with such a name; shards in the order of their groups."""
        found = []
        for name in os.listdir(self._cells) if self._cells.is_dir() else ():  # noqa: PTH208 - a run has many files
            if not name.startswith(prefix) or not name.endswith(".parquet") or name.startswith("."):
                continue
            path = self._cells / name
            shard = _SHARD.fullmatch(path.stem)
            order = (shard["key"], int(shard["first"]), int(shard["last"])) if shard else (path.stem, -1, -1)
            found.append((order, path))
        return [(order[0], path) for order, path in sorted(found)]

    def _shards(self, key: str) -> list[Path]:
        return [path for known, path in self._files(key) if known == key and _SHARD.fullmatch(path.stem)]

    def _shards_by_key(self) -> dict[str, list[Path]]:
        """The shards of every cell with a file, from one listing: one for each cell would grow with their square."""
        found: dict[str, list[Path]] = {}
        for key, path in self._files():
            shards = found.setdefault(key, [])
            if path.stem != key:
                shards.append(path)
        return found

    def _tables(self, key: str, shards: Sequence[Path]) -> list[pa.Table]:
        # Shards before the merged file: if another process finishes the cell in between, the merged file is there.
        tables = [self._read_rows(shard) for shard in shards]
        tables.insert(0, self._read_rows(self._path("cells", key)))
        return [table for table in tables if table is not None]

    def _progress(self, key: str, shards: Sequence[Path], read: Callable[[Path], np.ndarray | None]) -> Progress:
        parts = [read(shard) for shard in shards]  # before the merged file, as in `_tables`
        merged = read(self._path("cells", key))
        found = [part for part in (merged, *parts) if part is not None]
        return Progress(np.unique(np.concatenate([NOTHING.groups, *found])), merged is not None)

    def _verified_groups(self, path: Path) -> np.ndarray | None:
        rows = self._read_rows(path)
        return None if rows is None else rows["group"].to_numpy()

    def _bare_groups(self, path: Path) -> np.ndarray | None:
        return self._read(path, read_groups)

    def _read_rows(self, path: Path) -> pa.Table | None:
        record = self.record
        return self._read(
            path, partial(read_rows, precision=record.unrecorded_precision, threads=record.unrecorded_threads)
        )

    def _read_frame(self, path: Path) -> pd.DataFrame | None:
        table = self._read(path, read_table)
        return None if table is None else table.to_pandas()

    def _read(self, path: Path, parse: Callable[[bytes], T]) -> T | None:
        """The parsed file; None if it is missing, or was damaged and is now set aside."""
        try:
            with files.reading(path):
                data = path.read_bytes()  # an OSError here is the folder's fault, below it is pyarrow's word for damage
        except FileNotFoundError:
            return None
        try:
            return parse(data)
        except (pa.ArrowException, OSError, ValueError) as error:
            files.quarantine(path, str(error).splitlines()[0])
            return None


def _record_path(folder: Path) -> Path:
    """The file of the run's record: that of format 2 only where there is no newer one."""
    older = folder / MANIFEST
    return older if older.exists() and not (folder / RECORD).exists() else folder / RECORD


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, not a folder: give another folder with --out.")
    # A run that was killed while its first record was written has a temporary file, and one whose record was damaged
    # has it set aside.
    names = {path.name for path in folder.iterdir()} - {".lock"} if folder.exists() else set()
    ours = not names.isdisjoint({f"{RECORD}.corrupt", f"{MANIFEST}.corrupt"})
    if not ours and any(not name.startswith((f".{RECORD}.", f".{MANIFEST}.")) for name in names):
        raise StoreError(
            f"{folder} is not empty and holds no run (no {RECORD}): give a new or empty folder with --out."
        )


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or _SHARD.fullmatch(key):
        raise StoreError(
            f"{key!r} cannot name a cell: use up to 200 letters, digits and _@=+,.- (not ending like '.0-9')."
        )
    return key
