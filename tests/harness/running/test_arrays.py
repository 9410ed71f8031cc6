"""Jobs in few arrays: whatever the trainings, each task comes after what it waits for, and at the same place in its array."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pudnet_bench.harness.running.arrays import Task, arrays, tasks_of
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.slurm_jobs import default_shard


def training(key: str, *needs: str) -> Job:
    return Job(f"cell-{key}", key, needs=needs)


def shards(cell: str, number: int, *needs: str) -> list[Job]:
    return [Job(cell, first=10 * n, end=10 * n + 10, needs=needs) for n in range(number)]


def checked(tasks: Iterable[Task], size: int = 1000) -> list[list[Job]]:
    """The jobs of the arrays, after checking that each array may be submitted as Slurm takes it."""
    given, places, found = list(tasks), dict[str, tuple[int, int]](), []
    for number, array in enumerate(arrays(given, size)):
        assert len(array.tasks) <= size
        parents = [places[task[0].needs[-1]] for task in array.tasks if task[0].needs]
        if array.one_by_one:
            assert parents == [(parents[0][0], place) for place in range(len(array.tasks))]
            assert len(array.tasks) > 1
        else:
            assert len({task[0].needs for task in array.tasks}) == 1
        places |= {task[0].training: (number, place) for place, task in enumerate(array.tasks)}
        found.append(array.jobs)
    assert sorted(job.title for jobs in found for job in jobs) == sorted(job.title for task in given for job in task)
    return found


@pytest.mark.parametrize("number", [10, 100, 300])
def test_the_number_of_arrays_does_not_grow_with_that_of_trainings(number: int) -> None:
    jobs = [job for n in range(number) for job in (training(f"t{n}"), *shards(f"c{n}", 4, f"t{n}"))]
    jobs += [job for n in range(number) for job in shards(f"d{n}", 3)]
    assert len(checked(tasks_of(jobs, 0))) == 1 + 4 + 1


def test_trainings_that_build_on_others_wait_for_their_own() -> None:
    jobs = []
    for n in range(20):
        base, first, second = f"base{n}", f"first{n}", f"second{n}"
        jobs += [training(base), training(first, base), training(second, base, first)]
        jobs += [*shards(f"b{n}", 2, base), *shards(f"f{n}", 3, base, first), *shards(f"s{n}", 1, base, first, second)]
    assert len(checked(tasks_of(jobs, 0))) == 3 + 2 + 3 + 1


def test_what_is_behind_few_trainings_is_an_array_for_each() -> None:
    jobs = [job for n in range(2) for job in (training(f"t{n}"), *shards(f"c{n}", 40, f"t{n}"))]
    assert len(checked(tasks_of(jobs, 0))) == 1 + 2


def test_arrays_are_cut_to_the_size_that_the_cluster_takes() -> None:
    jobs = [job for n in range(25) for job in (training(f"t{n}"), *shards(f"c{n}", 2, f"t{n}"))]
    assert [len(each) for each in checked(tasks_of([*jobs, *shards("d", 25)], 0), 10)] == [
        *[10, 10, 10], *[10, 10, 10], *[5, 5, 5], *[10, 10, 5],
    ]  # fmt: skip
    few = [training("t"), *shards("c", 25, "t")]
    assert [len(each) for each in checked(tasks_of(few, 0), 10)] == [1, 10, 10, 5]


def test_what_waits_for_a_training_in_the_queue_waits_for_that() -> None:
    assert [array.one_by_one for array in arrays(tasks_of(shards("c", 3, "live"), 0), 10)] == [False]


def test_no_jobs_are_no_arrays() -> None:
    assert arrays(tasks_of([], 0), 10) == []


def test_a_task_holds_shards_that_wait_for_the_same_as_far_as_they_have_groups() -> None:
    jobs = [training("t"), *shards("c", 1, "t"), *shards("a", 3), *shards("d", 1, "t"), *shards("b", 2)]
    assert [[job.title for job in task] for task in tasks_of(jobs, 30)] == [
        ["train-t"], ["c.0-9", "d.0-9"], ["a.0-9", "a.10-19", "a.20-29"], ["b.0-9", "b.10-19"],
    ]  # fmt: skip
    assert [len(task) for task in tasks_of(jobs, 0)] == [1] * len(jobs)


def test_jobs_of_a_large_run_measure_more_groups_each() -> None:
    assert default_shard([500] * 30) == 50
    assert default_shard([500] * 400) == 100
    assert default_shard([500] * 5_000) == 800  # more than a cell has: one job each
    assert default_shard([3] * 5_000) == 50
