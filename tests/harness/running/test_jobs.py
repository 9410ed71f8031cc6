"""A plan cut into jobs: everything once, trainings before what needs them, and the same outcome in several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute, DeviceKind, Precision
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import ClockRule, Episodes, RunRequest, load_requests, save_request
from pudnet_bench.harness.running.executors import ExecutorError, Local, LocalProcesses, executor_named
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.run import open_run
from pudnet_bench.harness.running.worker import Worker, missing_jobs
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.results.store.files import StoreError
from pudnet_bench.results.store.run import Run

CommandLine = Callable[..., Result]
NOISY = """
bias = 3 * torch.randn(dataset.n_classes)
yield Snapshot(lambda images: classifier(images) + bias)
"""
SAME = ["method", "seed", "group", "snapshot", "accuracy"]


def jobs_of(plan: Plan, tmp_path: Path, compute: Compute, shard: int | None = None) -> list[Job]:
    run = open_run(plan, tmp_path / "run", "", compute)
    return missing_jobs(plan, run, ArtifactStore(tmp_path / "cache"), shard)


def test_trainings_come_once_and_before_what_needs_them(
    plan_of: Callable[..., Plan], compute: Compute, tmp_path: Path
) -> None:
    plan = plan_of("table5", targets=("convnet3",))
    jobs = jobs_of(plan, tmp_path, compute)
    trainings = [job.training for job in jobs if job.training]
    assert [key.split("-digits")[0] for key in trainings] == ["pretrained", "meta-deepbdc", "pudnet"]
    begun: set[str] = set()
    for job in jobs:
        assert set(job.needs) <= begun
        begun.add(job.training)
    assert [job.cell for job in jobs if not job.training] == [cell.key for cell in plan.cells]
    baseline = plan_of("table1", methods=("meta-baseline",))
    pretrained, meta_baseline, measured = jobs_of(baseline, tmp_path / "b", compute)
    assert meta_baseline.needs == (pretrained.training,)
    assert measured.needs == (pretrained.training, meta_baseline.training)


def test_milestones_are_one_training(plan_of: Callable[..., Plan], compute: Compute, tmp_path: Path) -> None:
    jobs = jobs_of(plan_of("figure6"), tmp_path, compute)
    assert [bool(job.training) for job in jobs] == [True] + [False] * 5


@pytest.mark.parametrize(("shard", "ranges"), [(None, [(0, 10)]), (4, [(0, 4), (4, 8), (8, 10)]), (50, [(0, 10)])])
def test_groups_are_cut_into_shards(
    plan_of: Callable[..., Plan], compute: Compute, tmp_path: Path, shard: int | None, ranges: list[tuple[int, int]]
) -> None:
    plan = plan_of(methods=("adam",), groups=10)
    jobs = jobs_of(plan, tmp_path, compute, shard)
    assert [(job.first, job.end) for job in jobs] == ranges
    assert len({job.title for job in jobs}) == len(jobs)


def test_only_what_is_missing_is_planned(
    command_line: CommandLine, method_file: Callable[..., str], plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    reference = method_file()
    assert command_line("run", "table1", "--methods", "own", "--method", reference, "--groups", 5).exit_code == 0
    run = Run.open(tmp_path / "runs/table1-quick-cpu")
    store = ArtifactStore(tmp_path / "cache")
    choice = {"methods": ("own",), "method_files": (reference,)}
    on = Compute(torch.device("cpu"), "", Precision(run.record.precision))
    assert missing_jobs(plan_of(groups=5, on=on, **choice), run, store) == []
    (more,) = missing_jobs(plan_of(groups=9, on=on, **choice), run, store, 4)[:1]
    assert (more.first, more.end) == (4, 8)


def test_a_request_survives_the_disk_and_gives_the_same_plan(tmp_path: Path, cache_dir: Path, compute: Compute) -> None:
    choice = {"methods": ("pudnet",), "groups": 3, "seeds": (0, 2), "training_groups": (1, 2)}
    full = RunRequest(
        suite="table1", weights=Path("w.safetensors"), device=DeviceKind.CPU, precision=Precision.FP32, cache=cache_dir,
        data=Path("data"), sources={"mine": Path("folder")}, episodes=Episodes.LEARN2LEARN, clock=ClockRule.PAPER, **choice,
    )  # fmt: skip
    plain = RunRequest(suite="table1", methods=("pudnet",), cache=cache_dir)
    for request in (full, plain, full):
        save_request(tmp_path, request)
    assert load_requests(tmp_path) == [plain, full]  # each once, the latest last
    again = load_requests(tmp_path)[0]
    assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(plain).values()]
    elsewhere = Compute(torch.device("cpu"), "", Precision.FP32)
    here, there = make_plan(plain, compute), make_plan(again, elsewhere)
    assert [cell.key for cell in here.cells] == [cell.key for cell in there.cells]


def test_several_processes_give_the_same_accuracies(
    command_line: CommandLine, method_file: Callable[..., str], tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own,protonet,meta-baseline", "--method", method_file(NOISY), "--groups", 4)
    ladder = ("--training-groups", "2,3")
    frames = []
    for name, executor in (("one", "local"), ("two", "local-processes:2")):
        done = command_line(
            *call, *ladder, "--executor", executor, "--out", name, PUDNET_BENCH_CACHE=str(tmp_path / f"cache-{name}")
        )
        assert done.exit_code == 0, done.output
        frame = Run.open(tmp_path / name).frame()
        assert frame["finished"].all()
        frames.append(frame.sort_values(SAME[:4], ignore_index=True)[SAME])
    assert frames[0]["accuracy"].nunique() > 3
    pd.testing.assert_frame_equal(*frames)


def test_a_failure_in_a_process_is_told_and_the_others_go_on(
    command_line: CommandLine, method_file: Callable[..., str], tmp_path: Path
) -> None:
    reference = method_file('raise ValueError("odd")')
    call = ("run", "table1", "--methods", "own,adam", "--method", reference, "--groups", 1)
    done = command_line(*call, "--executor", "local-processes:2", "--out", "out")
    assert done.exit_code == 1
    assert "ValueError: odd" in done.output
    assert "1 of 2 cells failed" in done.output
    assert set(Run.open(tmp_path / "out").frame()["method"]) == {"adam"}


def test_a_training_that_fails_is_tried_once_and_fails_its_cells(
    command_line: CommandLine, method_file: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "from pudnet_bench.methods.base import Method, Snapshot\n\n\n"
        "class Bad(Method):\n    name = 'bad'\n\n"
        "    def meta_train(self, groups, session):\n        raise ValueError('odd')\n\n"
        "    def fit(self, dataset):\n        yield Snapshot(None)\n"
    )
    (tmp_path / "mine.py").write_text(
        "from pudnet_bench.suites.declaration import Suite, Variant\n"
        "ROWS = (Variant('a', 'bad', 'A'), Variant('b', 'bad', 'B'))\n"
        "SUITE = Suite('mine', 'Mine', ('convnet3',), ('digits',), ROWS)\n"
    )
    done = command_line("run", "mine.py", "--method", f"{path}:Bad")
    assert done.exit_code == 1
    assert done.output.count("ValueError: odd") == 1
    assert done.output.count("its meta-training failed") == 2
    assert "2 of 2 cells failed" in done.output


def test_a_run_is_one_processs_at_a_time(
    command_line: CommandLine, method_file: Callable[..., str], tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", 1, "--out", "out")
    assert command_line(*call).exit_code == 0
    with Run.open(tmp_path / "out").exclusive():
        refused = command_line(*call)
        assert refused.exit_code == 2
        assert "out is in use by process" in refused.output
        with pytest.raises(StoreError, match="in use by process"), Run.open(tmp_path / "out").exclusive():
            pass
    assert command_line(*call).exit_code == 0


@pytest.mark.parametrize("name", ["", "locl", "local-processes", "local-processes:0", "local-processes:x", "slurm:2"])
def test_an_unknown_executor_is_refused(name: str) -> None:
    with pytest.raises(ExecutorError, match="--executor is local, local-processes:N or slurm, not"):
        executor_named(name)
    assert isinstance(executor_named("local"), Local)
    assert executor_named("local-processes:3") == LocalProcesses(3)


def test_a_job_of_code_that_has_changed_since_says_so(
    plan_of: Callable[..., Plan], compute: Compute, tmp_path: Path, cache_dir: Path
) -> None:
    plan, request = plan_of(methods=("adam",)), RunRequest(suite="table1", methods=("adam",), cache=cache_dir)
    run = open_run(plan, tmp_path / "run", "", compute)
    failure = Worker(plan, request, run, compute, Display()).perform(Job("adam-of-before", end=1))
    assert failure is not None
    assert (
        "the code or the images of adam-of-before have changed since it was planned; `resume` measures" in failure.line
    )
