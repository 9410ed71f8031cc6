"""Submission where Slurm's own settings are in the way: from inside a job, small arrays, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.running.status import cell_statuses, submitted
from pudnet_bench.results.store.run import Run
from tests.slurm.local_slurm import LocalSlurm
from tests.slurm.local_slurm.runs import PROFILE as LOCAL
from tests.slurm.local_slurm.runs import on_slurm, until

pytestmark = pytest.mark.slurm

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]
ROOT = Path(__file__).parents[3]
PROFILE = """
[slurm]
partition = "main"
cpus_per_task = {cpus}
mem_gb = 1
timeout_min = 10
stderr_to_stdout = true
{more}
"""


def profile(folder: Path, cpus: int = 1, more: str = "") -> Path:
    path = folder / "mine.toml"
    path.write_text(PROFILE.format(cpus=cpus, more=more))
    return path


def times_measured(folder: Path, start: int = 0) -> Counter[int]:
    """How many of the submitted jobs from number `start` on measure each group of the run's only cell."""
    jobs = [entry.job for entry in submitted(Run.open(folder))[start:] if not entry.job.training]
    return Counter(group for job in jobs for group in range(job.first, job.end))


def done(folder: Path) -> bool:
    return {status.state for status in cell_statuses(Run.open(folder)).values()} == {"done"}


def test_a_job_submits_a_run(local_slurm: LocalSlurm, method_file: MethodFile, cache_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "inside.sh"
    call = map(str, on_slurm(profile(tmp_path, cpus=2), "--methods", "own", "--method", method_file(), "--groups", 2))
    script.write_text(
        "#!/bin/bash\n#SBATCH --mem-per-cpu=500 --cpus-per-task=1 -n1 --gres-flags=enforce-binding\n"
        f"export OMP_NUM_THREADS=1 MASTER_ADDR=node1 SBATCH_MEM_BIND=local SITE_MODULE=loaded PYTHONPATH={ROOT}\n"
        "env >env.txt\n"
        f"exec {sys.executable} -m harness {' '.join(call)} --out out --cache {cache_dir}\n"
    )
    output = tmp_path / "inside.log"
    ended = subprocess.run(["sbatch", "-W", f"--output={output}", script], cwd=tmp_path, timeout=200)
    assert ended.returncode == 0, output.read_text()
    assert "SLURM_MEM_PER_CPU=500" in (tmp_path / "env.txt").read_text()  # what the inner jobs must not see
    until(lambda: done(tmp_path / "out"), 200.0)
    (entry,) = submitted(Run.open(tmp_path / "out"))
    assert "SLURM_MEM_PER_CPU" not in local_slurm.run("scontrol", "show", "job", entry.job_id)


def test_what_a_job_inherits(local_slurm: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    from pudnet_bench.slurm.launcher import outside_job

    of_a_job = {"SLURM_MEM_PER_CPU": "1", "SLURM_JOB_ID": "3", "SBATCH_MEM_BIND": "local", "SRUN_CPUS_PER_TASK": "4"}
    kept = {"SBATCH_ACCOUNT": "us", "LOADEDMODULES": "cuda", "PATH": os.environ["PATH"]}
    for name, value in {**of_a_job, **kept}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with outside_job():
        assert not of_a_job.keys() & os.environ.keys()
        assert kept.items() <= os.environ.items()
        assert os.environ["SLURM_CONF"] == str(local_slurm.conf)
    assert dict(os.environ) == before


@pytest.fixture
def small_arrays(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    """A Slurm whose arrays have at most six tasks."""
    with LocalSlurm(tmp_path_factory.mktemp("small"), settings={"MaxArraySize": "6"}) as slurm:
        monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
        yield slurm


def test_arrays_are_as_large_as_the_cluster_allows(
    local_slurm: LocalSlurm,
    small_arrays: LocalSlurm,
    command_line: CommandLine,
    method_file: MethodFile,
    tmp_path: Path,
) -> None:
    call = ("--methods", "own", "--method", method_file(), "--groups", 14, "--shard", 1, "--out", "out")
    sent = command_line(*on_slurm(LOCAL, *call))
    assert sent.exit_code == 0, sent.output
    entries = submitted(Run.open(tmp_path / "out"))
    assert list(Counter(entry.job_id.partition("_")[0] for entry in entries).values()) == [6, 6, 2]
    assert times_measured(tmp_path / "out") == dict.fromkeys(range(14), 1)
    assert command_line("cancel", "out").exit_code == 0


HELD = "[slurm.additional_parameters]\nhold = true\n"  # the jobs stay in the queue, and no time passes


def test_no_group_is_measured_twice_whatever_the_shard(
    local_slurm: LocalSlurm, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    own = ("--methods", "own", "--method", method_file(), "--out", "out")
    held = on_slurm(profile(tmp_path, more=HELD), *own)
    assert command_line(*held, "--groups", 10, "--shard", 8).exit_code == 0
    with pytest.warns(UserWarning, match="--shard 4 is not used: out is cut into shards of 8 groups"):
        again = command_line(*held, "--groups", 10, "--shard", 4)
    assert "nothing to submit" in again.output
    assert command_line(*held, "--groups", 20).exit_code == 0  # the job of groups 8 and 9 is still in the queue
    assert times_measured(tmp_path / "out") == dict.fromkeys(range(20), 1)
    ranges = [(entry.job.first, entry.job.end) for entry in submitted(Run.open(tmp_path / "out"))]
    assert sorted(ranges) == [(0, 8), (8, 10), (10, 16), (16, 20)]
    assert command_line("cancel", "out").exit_code == 0
    assert {status.state for status in cell_statuses(Run.open(tmp_path / "out")).values()} == {"lost"}
    with pytest.warns(UserWarning, match="--shard 5 is not used"):
        assert command_line("resume", "out", "--shard", 5).exit_code == 0
    assert times_measured(tmp_path / "out", 4) == dict.fromkeys(range(20), 1)
    assert {status.state for status in cell_statuses(Run.open(tmp_path / "out")).values()} == {"pending"}


def dependencies(slurm: LocalSlurm, job_id: str) -> str:
    shown = slurm.run("scontrol", "show", "job", job_id)
    return next(word.partition("=")[2] for word in shown.split() if word.startswith("Dependency="))


def test_array_parallelism_holds_for_all_jobs_of_a_kind(
    local_slurm: LocalSlurm, command_line: CommandLine, tmp_path: Path
) -> None:
    limit = "array_parallelism = {}\n" + HELD.replace("slurm.", "training.")
    path = profile(tmp_path, more="[training]\n" + limit.format(2))
    call = ("--methods", "protonet,meta-baseline", "--splits", "0,1", "--groups", 1, "--out", "out")
    done = command_line(*on_slurm(path, *call), PUDNET_BENCH_CACHE=str(tmp_path / "cache"))
    assert done.exit_code == 0, done.output
    trainings = [entry for entry in submitted(Run.open(tmp_path / "out")) if entry.job.training]
    arrays = list(dict.fromkeys(entry.job_id.partition("_")[0] for entry in trainings))
    assert len(arrays) == 3  # of two jobs each; Meta-Baseline's wait for their own Pretrained
    limits = local_slurm.run("scontrol", "show", "job", trainings[0].job_id)
    assert "ArrayTaskThrottle=2" in limits
    for earlier, array in pairwise(arrays):
        for entry in trainings:
            if entry.job_id.startswith(f"{array}_"):
                assert f"afterany:{earlier}_*" in dependencies(local_slurm, entry.job_id)


def test_a_refusal_is_one_sentence_with_the_way_out(
    local_slurm: LocalSlurm, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    path = profile(tmp_path, more='nodelist = "n77"')
    call = ("--methods", "own", "--method", method_file(), "--groups", 2, "--shard", 1, "--out", "out")
    refused = command_line(*on_slurm(path, *call))
    assert refused.exit_code == 2
    (line,) = refused.output.strip().splitlines()
    assert line.startswith("error: Slurm rejects the jobs of out/cluster.toml: ")
    assert "change the profile" in line
