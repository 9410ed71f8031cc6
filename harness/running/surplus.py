"""Say what a run's folder holds beyond what one command asked for. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from pudnet_bench.harness.planning.request import RunRequest, load_requests
from pudnet_bench.results.store.files import StoreError
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import PlannedCell, PlanRecord
from pudnet_bench.suites.catalog import PROFILES

LISTED = 3  # names or ranges of numbers, so that the line stays short
_FIELDS = {"method": "methods", "family": "families", "target": "targets", "split": "splits", "seed": "seeds"}
_place = attrgetter(*_FIELDS)


def surplus_before(asked: PlanRecord, folder: Path) -> str:
    """`surplus` of the run in `folder`, if there is one, before a command that asks for the plan `asked`."""
    try:
        run = Run.open(folder)
    except StoreError:
        return ""
    return surplus(asked.cells, run.record.plan.merged(asked).cells, _groups_on_disk(run))


def surplus_of_last(run: Run) -> str:
    """`surplus` of a run on disk over what the latest of its several `run` commands asked for."""
    requests = load_requests(run.folder)
    if len(requests) < 2:
        return ""
    return surplus(asked_by(requests[-1], run.record.plan), run.record.plan.cells, _groups_on_disk(run))


def _groups_on_disk(run: Run) -> dict[str, list[int]]:
    return {key: progress.groups.tolist() for key, progress in run.progress(verified=False).items()}


def surplus(asked: Sequence[PlannedCell], planned: Sequence[PlannedCell], done: Mapping[str, Collection[int]]) -> str:
    """A line such as "also here: seeds 0, groups 3 to 5", or "" where the folder holds nothing that was not asked for.

    Args:
        asked: The cells that the command asked for, with its numbers of groups.
        planned: Those of the run, which are in its table.
        done: The groups on disk, by the key of their cell.
    """
    measured = [cell for cell in planned if done.get(cell.key)]
    places = {_place(cell): cell.groups for cell in asked}
    others = [cell for cell in measured if _place(cell) not in places]
    known = {field: {getattr(cell, field) for cell in asked} for field in _FIELDS}
    parts = []
    for field, plural in _FIELDS.items():
        if new := dict.fromkeys(getattr(cell, field) for cell in others if getattr(cell, field) not in known[field]):
            parts.append(f"{plural} {_listed(list(new))}")
    mixed = [cell for cell in others if all(getattr(cell, field) in known[field] for field in _FIELDS)]
    if mixed:
        parts.append(_counted(len(mixed), "other cell"))
    most = {cell.method: max(other.groups for other in asked if other.method == cell.method) for cell in asked}
    if further := {
        group
        for cell in measured
        for group in done[cell.key]
        if cell.method in most and group >= places.get(_place(cell), most[cell.method])
    }:
        parts.append(f"groups {_listed(sorted(further))}")
    if left_out := done.keys() - {cell.key for cell in planned}:
        parts.append(f"{_counted(len(left_out), 'cell')} not in the table")
    return f"also here: {', '.join(parts)}" if parts else ""


def asked_by(request: RunRequest, plan: PlanRecord) -> list[PlannedCell]:
    """The cells of the run's plan that `request` asks for, as far as its options say without planning it again."""
    parents = {variant.name: variant.parent or variant.name for variant in plan.variants}
    pairs = request.splits_and_seeds(PROFILES[request.profile].splits)
    methods = None if request.method_files else request.methods  # the names of a file's methods are in the file
    return [
        replace(cell, groups=min(cell.groups, request.groups or cell.groups))
        for cell in plan.cells
        if (methods is None or not {cell.method, parents.get(cell.method, "")}.isdisjoint(methods))
        and (request.families is None or any(_of_family(cell, name) for name in request.families))
        and (request.targets is None or cell.target in request.targets)
        and (cell.split, cell.seed) in pairs
    ]


def _of_family(cell: PlannedCell, name: str) -> bool:
    """Whether the cell is of the family `name`, or of a part of that mixture."""
    return cell.family == name or cell.family.endswith(f".{name}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _listed(values: Sequence[str] | Sequence[int]) -> str:
    """Names in their order, or numbers with "3 to 5" for three or more in a row; the first few."""
    names = [str(value) for value in values]
    if all(isinstance(value, int) for value in values):
        runs = groupby(enumerate(sorted(map(int, values))), key=lambda item: item[1] - item[0])
        rows = [[number for _, number in run] for _, run in runs]
        parts = ([f"{row[0]} to {row[-1]}"] if len(row) > 2 else map(str, row) for row in rows)
        names = [name for part in parts for name in part]
    shown, more = names[:LISTED], len(names) - LISTED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
