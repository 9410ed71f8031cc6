"""A session on a GPU, tried out on a CPU: its plan, and what becomes of steps that end well, fail, hang or are there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer.main
from click.testing import Result
from typer.core import TyperGroup

from pudnet_bench.harness import gpu_session as session
from pudnet_bench.harness.bench import SUBJECTS
from pudnet_bench.harness.cli.commands import app
from pudnet_bench.harness.gpu_session import Step
from pudnet_bench.harness.measuring.device import Compute

CommandLine = Callable[..., Result]
GPU = Compute(torch.device("cuda"), "NVIDIA H100 80GB HBM3", "bf16")


@pytest.mark.parametrize("scale", session.TABLES)
def test_every_command_of_the_plan_is_one_of_the_command_line_and_all_fit_into_the_time(scale: str) -> None:
    steps = session.steps(scale, GPU, Path("results/published/first"))
    assert [step.name for step in steps] == [
        "doctor",
        "tests",
        *(f"bench-{name}" for name in SUBJECTS),
        "table1",
        "table2",
    ]
    assert sum(step.seconds for step in steps) <= 60 * session.MINUTES
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
    """What became of the steps that were run, and the lines that were said."""
    said: list[str] = []
    cache = folder.parent / "cache"
    outcomes = session.perform(todo, folder, compute, f"python --cache {cache}", None, cache, minutes, said.append)
    return {outcome.name: outcome.outcome for outcome in outcomes}, said


def python(name: str, code: str, seconds: int = 60) -> Step:
    return Step(name, seconds, (("-c", code),))


def test_steps_that_fail_or_hang_do_not_stop_the_rest(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "LAST_WORDS", 1.0)
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
    assert said[1] == "long: not begun, its 600 s do not fit; the same command goes on from here"
    before = {path: path.read_bytes() for path in (folder / "one").iterdir()}
    became, said = perform([one, long, two], folder, compute, minutes=11)
    assert became == {"long": "done", "two": "done"}
    assert said[0] == "one: there already"
    assert {path: path.read_bytes() for path in (folder / "one").iterdir()} == before
    assert (folder / "README.md").read_text().count("| done |") == 3


def test_a_run_leaves_its_tables_and_how_many_groups_they_are_over(
    compute: Compute, method_file: Callable[..., str], command_line: CommandLine
) -> None:
    run, folder = Path("runs/first-cpu/table1"), Path("published/first-cpu")
    arguments = (
        "run",
        "table1",
        "--method",
        method_file(),
        "--methods",
        "own",
        "--groups",
        "3",
        "--device",
        "cpu",
        "--out",
        run,
    )
    assert command_line(*arguments).exit_code == 0
    became, _ = perform([Step("table1", 60, (("-c", "raise SystemExit(1)"),), run)], folder, compute)
    assert became == {"table1": "exit code 1"}
    assert {"table1.md", "table1.csv", "table1.tex", "record.json", "step.json", "log.txt"} <= {
        path.name for path in (folder / "table1").iterdir()
    }
    assert json.loads((folder / "table1/record.json").read_text())["suite"] == "table1"
    assert (
        (folder / "table1/log.txt")
        .read_text()
        .startswith("$ python -c 'raise SystemExit(1)'\n$ python -m harness collect runs/")
    )
    assert "| own 3 |" in (folder / "README.md").read_text()


def test_the_command_at_the_tiny_scale(command_line: CommandLine, tmp_path: Path) -> None:
    arguments = ("gpu-session", "first", "--scale", "tiny", "--device", "cpu", "--steps", "bench-graphs")
    planned = command_line(*arguments, "--dry-run")
    assert planned.stdout.splitlines()[0] == "bench-graphs, at most 60 s"
    assert not (tmp_path / "results").exists()
    done = command_line(*arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "results/published/first-cpu"
    assert json.loads((folder / "bench-graphs/bench.json").read_text())["subjects"][0]["subject"] == "graphs"
    again = command_line(*arguments)
    assert again.stdout.splitlines()[0] == "bench-graphs: there already"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fi/rst",), "a session's name is of letters, digits, - and _, not 'fi/rst'"),
        (("first", "--steps", "table1,bank"), "unknown step 'bank'; known: doctor, tests, "),
        (("first", "--scale", "smal"), "unknown scale 'smal'; known: full, tiny"),
        (("first", "--device", "cpu"), "gpu-session needs a GPU, and this device is a CPU; try it out with --scale tiny"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    arguments: tuple[str, ...], said: str, command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("gpu-session", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert not (tmp_path / "results").exists()
