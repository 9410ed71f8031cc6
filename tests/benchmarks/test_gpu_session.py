"""A session on a GPU, tried out on a CPU: its plan, and what becomes of steps that succeed, fail, hang or exist already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer.main
from typer.core import TyperGroup

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.measuring.device import Compute, Precision
from tests.benchmarks import gpu_session as session
from tests.benchmarks.gpu_session import Step

ROOT = Path(__file__).resolve().parents[2]
GPU = Compute(torch.device("cuda"), "NVIDIA H100 80GB HBM3", Precision.BF16)


@pytest.mark.parametrize("scale", session.TABLES)
def test_commands_exist_and_limits_fit_into_the_time(scale: str) -> None:
    steps = session.steps(scale, GPU, Path("results/published/first"))
    assert [step.name for step in steps] == [
        "doctor",
        "tests",
        *(f"bench-{name}" for name in session.SUBJECTS),
        "table1",
        "table2",
    ]
    assert sum(step.seconds for step in steps) <= 60 * session.MINUTES
    files = {f"tests/benchmarks/{path.name}" for path in Path(__file__).parent.glob("test_*_speed.py")}
    assert files == {word for step in steps for command in step.commands for word in command if "_speed" in word}
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for command in (command for step in steps for command in step.commands if "harness" in command):
        name, *words = command[2:]
        group.commands[name].make_context(name, list(words))
        assert name == "doctor" or {"cuda", "bf16"} < set(words)


def test_the_folder_has_the_gpus_name(compute: Compute) -> None:
    assert session.folder_of("first", GPU) == Path("results/published/first-nvidia-h100-80gb-hbm3")
    assert session.folder_of("first", compute) == Path("results/published/first-cpu")


def perform(todo: list[Step], folder: Path, compute: Compute, minutes: float = 5) -> tuple[dict[str, str], list[str]]:
    """What became of the steps that ran, and the lines about all."""
    cache = folder.parent / "cache"
    places = {"PUDNET_BENCH_CACHE": cache}
    results = list(session.perform(todo, folder, compute, places, f"python --cache {cache}", minutes))
    return {found.name: found.outcome for _, found in results if found}, [line for line, _ in results]


def python(name: str, code: str, seconds: int = 60) -> Step:
    return Step(name, seconds, (("-c", code),))


@pytest.mark.slow
def test_steps_that_fail_or_hang_do_not_stop_the_rest(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "GRACE", 1.0)
    folder = tmp_path / "published" / "first-cpu"
    hangs = (
        "import signal, subprocess, sys, time; signal.signal(2, signal.SIG_IGN); print('begun', flush=True); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(7); open(\"left\", \"w\")']); time.sleep(600)"
    )
    todo = [
        python("fails", "import os; print(os.environ['PUDNET_BENCH_CACHE'], os.getcwd()); raise SystemExit(3)"),
        python("hangs", hangs, 4),
        python("stops", "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('kept')", 4),
        Step("two", 60, (("-c", "raise SystemExit(4)"), ("-c", "print('second')"))),
    ]  # fmt: skip
    became, _ = perform(todo, folder, compute)
    assert became == {
        "fails": "exit code 3", "hangs": "out of time after 4 s", "stops": "out of time after 4 s", "two": "exit code 4",
    }  # fmt: skip
    logs = {step.name: (folder / step.name / "log.txt").read_text().splitlines() for step in todo}
    assert logs["fails"][-1] == "$PUDNET_BENCH_CACHE ."
    assert logs["hangs"][-1] == "begun"
    assert logs["stops"][-1] == "kept"
    assert logs["two"][-1] == "second"
    readme = (folder / "README.md").read_text()
    assert "- command: `python --cache $PUDNET_BENCH_CACHE`" in readme
    assert "| [hangs](hangs/) | out of time after 4 s |" in readme
    assert str(tmp_path) not in readme + (folder / "fails/step.json").read_text()
    time.sleep(2)
    assert not (tmp_path / "left").exists()  # the child of the one that hung ended with it


def test_what_is_there_is_passed_over_and_what_does_not_fit_is_left(compute: Compute, tmp_path: Path) -> None:
    folder = tmp_path / "first-cpu"
    one, long, two = python("one", "print(1)"), python("long", "print(2)", 600), python("two", "print(3)")
    became, said = perform([one, long], folder, compute, minutes=2)
    assert became == {"one": "done"}
    assert said[1] == "long: not started, its 600 s do not fit; the same command resumes here"
    before = {path: path.read_bytes() for path in (folder / "one").iterdir()}
    became, said = perform([one, long, two], folder, compute, minutes=11)
    assert became == {"long": "done", "two": "done"}
    assert said[0] == "one: already there"
    assert {path: path.read_bytes() for path in (folder / "one").iterdir()} == before
    assert (folder / "README.md").read_text().count("| done |") == 3


def test_a_run_leaves_its_tables_and_how_many_groups_they_are_over(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, folder = Path("runs/first-cpu/table1"), Path("published/first-cpu")
    words = (
        "-m harness run table1 --methods protonet --families digits --training-groups 2 --groups 3 --device cpu --out"
    )
    measures, fails = (*words.split(), str(run)), ("-c", "raise SystemExit(1)")
    became, _ = perform([Step("table1", 60, (measures, fails), run)], folder, compute)
    assert became == {"table1": "exit code 1"}
    assert {"table1.md", "table1.csv", "table1.tex", "record.json", "step.json", "log.txt"} <= {
        path.name for path in (folder / "table1").iterdir()
    }
    assert json.loads((folder / "table1/record.json").read_text())["suite"] == "table1"
    log = (folder / "table1/log.txt").read_text()
    assert "$ python -c 'raise SystemExit(1)'\n$ python -m harness collect runs/" in log
    assert "| protonet 3 |" in (folder / "README.md").read_text()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tests.benchmarks.gpu_session", *arguments]
    # A worker of xdist names itself in the environment, and pytest-benchmark would be off in the session too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_command_at_the_tiny_scale(tmp_path: Path) -> None:
    words = "first --scale tiny --device cpu --steps bench-graphs --out"
    arguments = (*words.split(), str(tmp_path))
    planned = command(*arguments, "--dry-run")
    assert planned.stdout.splitlines()[0] == "bench-graphs, at most 60 s"
    assert not list(tmp_path.iterdir())
    done = command(*arguments)
    folder = tmp_path / "first-cpu"
    found = json.loads((folder / "bench-graphs/bench.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["subjects"][0]["notes"] == ["CUDA graphs need a GPU, and this device is a CPU"]
    step = json.loads((folder / "bench-graphs/step.json").read_text())
    assert step["commands"][0].endswith("--published results/published/first-cpu/bench-graphs")
    again = command(*arguments)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "bench-graphs: already there")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fi/rst",), "a session's name is made of letters, digits, - and _, unlike 'fi/rst'"),
        (("first", "--steps", "table1,bank"), "unknown step 'bank'; known: doctor, tests, "),
        (("first", "--device", "cpu"), "a session needs a GPU, and this device is a CPU; try it out with --scale tiny"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert session.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {said}")
    assert not (tmp_path / "out").exists()
