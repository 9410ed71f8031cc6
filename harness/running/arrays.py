"""Gather the jobs of a run into few Slurm arrays, each task waiting for its own training alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pudnet_bench.harness.running.job import Job

Task = tuple[Job, ...]  # a training, or shards of cells that wait for the same trainings, performed one after the other
Shape = tuple[str, tuple["Shape", ...]]  # the kind of a task, and the shapes of those that wait for it
Behind = Mapping[str, Sequence[Task]]  # tasks by the training that they wait for


@dataclass(frozen=True)
class TaskArray:
    """Tasks that are submitted together.

    They wait for the trainings that they need: all for the same ones, or, `one_by_one`, each for the training at its own
    place in an array that comes before this one.
    """

    tasks: tuple[Task, ...]
    one_by_one: bool = False

    @property
    def jobs(self) -> list[Job]:
        return [job for task in self.tasks for job in task]


def tasks_of(jobs: Sequence[Job], groups: int) -> list[Task]:
    """Each job as a task of its own, or shards that wait for the same trainings together as far as they have `groups`."""
    tasks, last = list[list[Job]](), dict[tuple[str, ...], tuple[list[Job], int]]()
    for job in jobs:
        task, taken = ([], 0) if job.training else last.get(job.needs, ([], 0))
        taken += job.end - job.first
        if not task or taken > groups:
            task, taken = [], job.end - job.first
            tasks.append(task)
        task.append(job)
        if not job.training:
            last[job.needs] = task, taken
    return [tuple(task) for task in tasks]


def arrays(tasks: Sequence[Task], size: int) -> list[TaskArray]:
    """The arrays of up to `size` tasks, those that others wait for first.

    Trainings with alike tasks behind them are one array, and so are the first of these tasks, the second ones, and so on: as
    many arrays as one training has tasks behind it, however many trainings there are. Where there are more such tasks than
    trainings, those of one training are an array.
    """
    trainings = {task[0].training for task in tasks if task[0].training}
    behind, first = dict[str, list[Task]](), dict[tuple[tuple[str, ...], Shape], list[Task]]()
    for task in tasks:
        if needs := [key for key in task[0].needs if key in trainings]:
            behind.setdefault(needs[-1], []).append(task)
    for task in tasks:
        if trainings.isdisjoint(task[0].needs):
            first.setdefault((task[0].needs, _shape(task, behind)), []).append(task)
    ordered = sorted(first.values(), key=lambda alike: not alike[0][0].training)
    parts = (part for alike in ordered for part in _slices(alike, size))
    return [array for part in parts for array in _with_those_behind(part, behind, size)]


def _shape(task: Task, behind: Behind) -> Shape:
    if not task[0].training:
        return "cells", ()
    return "training", tuple(sorted(_shape(each, behind) for each in behind.get(task[0].training, ())))


def _with_those_behind(
    alike: Sequence[Task], behind: Behind, size: int, one_by_one: bool = False
) -> Iterator[TaskArray]:
    """The array of tasks of one shape, and then those of all that wait for them."""
    yield TaskArray(tuple(alike), one_by_one)
    by_shape = [_by_shape(behind.get(task[0].training, ()), behind) for task in alike if task[0].training]
    for shape in by_shape[0] if by_shape else ():
        rows = [waiting[shape] for waiting in by_shape]  # those behind each training, as many for each
        in_turn = len(rows) > 1 and len(rows[0]) <= len(rows)
        batches = zip(*rows, strict=True) if in_turn else (part for row in rows for part in _slices(row, size))
        for batch in batches:
            yield from _with_those_behind(batch, behind, size, in_turn)


def _by_shape(tasks: Sequence[Task], behind: Behind) -> dict[Shape, list[Task]]:
    """Trainings before cells, in the order given."""
    found: dict[Shape, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: not task[0].training):
        found.setdefault(_shape(task, behind), []).append(task)
    return found


def _slices(tasks: Sequence[Task], size: int) -> Iterator[Sequence[Task]]:
    """The tasks in their order, at most `size` at a time."""
    return (tasks[start : start + size] for start in range(0, len(tasks), size))
