"""Measure and publish everything that only a GPU can show, in 25 minutes on one.

    python -m tests.benchmarks.gpu_session NAME [--scale tiny] [--steps doctor,table1] [--minutes 25] [--dry-run]

The steps do not depend on one another, and each runs in a process of its own: one that fails or runs out of time leaves what it
has measured, and the next one starts. Nothing is overwritten: a step whose folder exists is skipped, so that a session may be
done in parts. On a CPU the tiny scale tries it out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.measuring.provenance import begin_invocation, now
from pudnet_bench.results.rendering.escaping import escape_markdown
from pudnet_bench.results.store.files import write_atomically
from pudnet_bench.results.store.folders import RUNS, cache_folder
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import RECORD

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Path("results/published")
MINUTES = 25
GRACE = 20.0  # seconds that a step has to save what it measured, once its time is over
LEARNERS = "pretrained,matchnet,protonet,meta-baseline,meta-deepbdc,pudnet"
SCRATCH = "adam,gc"
FAMILIES = ("--families", "fashion,cifar100", "--profile", "standard", "--paper")
LOG, STEP = "log.txt", "step.json"

SUBJECTS = ("prediction", "meta-training", "scratch", "graphs", "overhead", "growth", "peers")
# What the scales run for a table: meta-learners, training from scratch on fewer groups, and MUSML, whose steps are long.
TABLES: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "full": {
        "table1": (
            (*FAMILIES, "--methods", LEARNERS, "--training-groups", "500"),
            (*FAMILIES, "--methods", SCRATCH, "--groups", "10"),
            (*FAMILIES, "--methods", "musml", "--training-groups", "50", "--groups", "20"),
        ),
        "table2": (
            (*FAMILIES, "--methods", LEARNERS, "--training-groups", "100"),
            (*FAMILIES, "--methods", SCRATCH, "--groups", "3"),
        ),
    },
    "tiny": {
        "table1": (("--methods", f"protonet,{SCRATCH},pudnet", "--training-groups", "2", "--groups", "2"),),
        "table2": (("--methods", "protonet,pudnet", "--training-groups", "2", "--groups", "2"),),
    },
}
SECONDS = {"doctor": 60, "tests": 180, "bench": 60, "table": 330}


class SessionError(BenchError):
    """A session that cannot be run as requested; says why and what to do instead."""


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other.

    Attributes:
        name: Name of the step and of its folder.
        seconds: Limit for all commands together.
        commands: Arguments of `python`.
        run: The run folder that they write, if any.
    """

    name: str
    seconds: int
    commands: tuple[tuple[str, ...], ...]
    run: Path | None = None


@dataclass(frozen=True)
class StepResult:
    """What became of a step; `outcome` is "done", "exit code N" or "out of time after N s"."""

    name: str
    commands: list[str]
    started: str
    seconds: float
    outcome: str


def steps(scale: str, compute: Compute, folder: Path) -> list[Step]:
    """The steps of a session that is published in `folder`, in their order."""
    where = ("--device", compute.device.type, "--precision", compute.precision)
    found = [
        Step("doctor", SECONDS["doctor"], (("-m", "harness", "doctor"),)),
        Step("tests", SECONDS["tests"], (("-m", "pytest", "-n", "0", "-m", "cuda", "-rs", "-v", "tests"),)),
    ]
    for subject in SUBJECTS:
        brief = ("--quick", "--rounds", "1") if scale == "tiny" else ("--quick",) if subject == "peers" else ()
        benchmarks = f"tests/benchmarks/test_{subject.replace('-', '_')}_speed.py"
        published = str((folder / f"bench-{subject}").absolute())  # pytest runs in the checkout
        only = ("-k", "bare_loop") if subject == "overhead" else ()  # the rest of it computes nothing on a GPU
        command = ("-m", "pytest", "-n", "0", "-q", benchmarks, *only, *where, *brief, "--published", published)
        found.append(Step(f"bench-{subject}", SECONDS["bench"], (command,)))
    for table, choices in TABLES[scale].items():
        run = RUNS / folder.name / table
        commands = (("-m", "harness", "run", table, *choice, *where, "--out", str(run)) for choice in choices)
        found.append(Step(table, SECONDS["table"], tuple(commands), run))
    return found


def folder_of(name: str, compute: Compute, published: Path = PUBLISHED) -> Path:
    """The folder of the session `name`: its name and the GPU's.

    Raises:
        SessionError: The name is not made of letters, digits, - and _.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is None:
        raise SessionError(f"a session's name is made of letters, digits, - and _, unlike '{name}'")
    device = "cpu" if compute.device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", compute.name.lower()).strip("-")
    return published / f"{name}-{device}"


def chosen(all_steps: Sequence[Step], names: Sequence[str] | None) -> list[Step]:
    """The steps of these names, or all.

    Raises:
        SessionError: There is no step of a name.
    """
    known = [step.name for step in all_steps]
    for name in names or ():
        if name not in known:
            raise SessionError(f"unknown step '{name}'; known: {', '.join(known)}")
    return [step for step in all_steps if names is None or step.name in names]


def plan(todo: Sequence[Step]) -> Iterator[str]:
    """The steps as lines: name, limit, commands."""
    for step in todo:
        yield f"{step.name}, at most {step.seconds} s"
        yield from (f"  {_shown(command)}" for command in step.commands)
    yield f"{len(todo)} steps, at most {sum(step.seconds for step in todo) / 60:.0f} minutes"


def perform(
    todo: Sequence[Step], folder: Path, compute: Compute, places: Mapping[str, Path], command: str, minutes: float
) -> Iterator[tuple[str, StepResult | None]]:
    """Run the steps that have no folder yet, as far as `minutes` allow, and publish what they leave in `folder`.

    Args:
        todo: The steps.
        folder: The session's folder.
        compute: Device and precision, as noted.
        places: Folders of images and cache, by the variable that names them to a step.
        command: The session's command, as noted.
        minutes: A step starts only where its limit fits into what is left of them.

    Yields:
        A line about each step, and what became of it; None for one that did not run.
    """
    ends = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    masked = masks(folder, places)
    session = asdict(begin_invocation(command, compute))
    variables = {name: str(path) for name, path in places.items()}
    for step in todo:
        own = folder / step.name
        if own.exists():
            yield f"{step.name}: already there", None
            continue
        if time.monotonic() + step.seconds > ends:
            yield f"{step.name}: not started, its {step.seconds} s do not fit; the same command resumes here", None
            continue
        own.mkdir()
        outcome = _perform(step, own, variables)
        if step.run is not None:
            _publish(step.run, own, variables)
        log = own / LOG
        log.write_text(masked(log.read_text(errors="replace")))
        noted = json.dumps({**session, **asdict(outcome)}, indent=2, ensure_ascii=False)
        write_atomically(own / STEP, f"{masked(noted)}\n".encode())
        write_atomically(folder / "README.md", readme(folder).encode())
        yield f"{step.name}: {outcome.outcome}, {outcome.seconds:.0f} s", outcome


def _perform(step: Step, own: Path, variables: Mapping[str, str]) -> StepResult:
    began, started, outcome = time.monotonic(), now(), "done"
    for command in step.commands:
        left = step.seconds - (time.monotonic() - began)
        code = _call(command, own / LOG, variables, left) if left > 0 else None
        if code is None:
            outcome = f"out of time after {step.seconds} s"
            break
        if code and outcome == "done":
            outcome = f"exit code {code}"
    return StepResult(step.name, [_shown(c) for c in step.commands], started, time.monotonic() - began, outcome)


def _restore_interrupts() -> None:
    """In a step's process: a session in the background of a script ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _call(command: Sequence[str], log: Path, variables: Mapping[str, str], seconds: float) -> int | None:
    """The exit code of `python *command`, or None after `seconds`. Its output is appended to `log`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **variables, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with log.open("a") as out:
        out.write(f"$ {_shown(command)}\n")
        out.flush()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            cwd=ROOT if "pytest" in command else None, preexec_fn=_restore_interrupts,
        )  # fmt: skip
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # like Ctrl-C: what was measured is saved
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            return None
        finally:
            with suppress(ProcessLookupError):  # workers of a DataLoader, a step that ignores SIGINT
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _publish(run: Path, own: Path, variables: Mapping[str, str]) -> None:
    """Copy the tables of what was measured, and the run's record, beside the step's log."""
    if not (run / RECORD).exists():
        return
    _call(("-m", "harness", "collect", str(run), "--paper"), own / LOG, variables, 60)
    for path in (run / RECORD, *sorted((run / "tables").glob("*"))):
        shutil.copy(path, own / path.name)


def masks(folder: Path, places: Mapping[str, Path]) -> Callable[[str], str]:
    """A function that replaces this machine's paths in a text."""
    names = {
        str(Path.home()): "~",
        str(ROOT): ".",
        str(Path.cwd()): ".",
        str(folder.absolute()): str(PUBLISHED / folder.name),
        **{str(path): f"${name}" for name, path in places.items()},
    }
    pattern = re.compile("|".join(re.escape(path) for path in sorted(names, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda match: names[match[0]], text)


def _shown(command: Sequence[str]) -> str:
    return shlex.join(["python", *command])


def readme(folder: Path) -> str:
    """The README of a session's folder: where and how it ran, each step, and the number of groups behind each table."""
    results: list[dict[str, Any]] = sorted(
        (json.loads(path.read_text()) for path in folder.glob(f"*/{STEP}")), key=lambda step: str(step["started"])
    )
    first = results[0]
    facts = {
        "command": f"`{first['command']}`",
        "commit": ", ".join(dict.fromkeys(step["commit"] or "not a checkout" for step in results)),
        "device": f"{first['device']}, {first['precision']}, {first['threads']} threads",
        "driver": first["driver"],
        "torch": first["versions"]["torch"],
        "date": f"{first['started']} to {results[-1]['started']}",
    }
    return (
        "\n".join(
            [
                f"# {folder.name}",
                "",
                *(f"- {name}: {value}" for name, value in facts.items() if value),
                "",
                "| step | outcome | seconds | n, unseen groups |",
                "| --- | --- | --- | --- |",
                *(
                    f"| [{step['name']}]({step['name']}/) | {step['outcome']} | {step['seconds']:.0f} | "
                    f"{escape_markdown(_groups(RUNS / folder.name / step['name']))} |"
                    for step in results
                ),
                "",
                "A benchmark that misses one of its limits ends with exit code 1. What each step ran:",
                "",
                "```sh",
                *(command for step in results for command in step["commands"]),
                "```",
                "",
                "These numbers have not been interpreted yet.",
            ]
        )
        + "\n"
    )


def _groups(run: Path) -> str:
    """The number of measured groups of each method, the least where families differ; "" where there is no run."""
    if not (run / RECORD).exists():
        return ""
    found = Run.open(run)
    counts: dict[str, int] = {}
    for cell in found.record.plan.cells:
        done = len(found.groups_done(cell.key))
        counts[cell.method] = min(done, counts.get(cell.method, done))
    return ", ".join(f"{method} {n}" for method, n in counts.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu_session",
        description="Measure what only a GPU can show, and publish it; the same command resumes with what is missing.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="name of the folder, which the GPU's name is appended to")
    add("--scale", choices=TABLES, default="full", help="tiny: minutes on a CPU, on digits, to try it out")
    add("--steps", metavar="A,B", help="only these steps")
    add("--minutes", type=float, default=MINUTES, help="a step starts only if its limit fits into them")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto", help="auto, fp32 or bf16 (autocast)")
    add("--data", type=Path, default=os.environ.get("PUDNET_BENCH_DATA"), help="folder with the image sources")
    add("--cache", type=Path, default=os.environ.get("PUDNET_BENCH_CACHE"), help="folder for images and artifacts")
    add("--out", type=Path, default=PUBLISHED, help="where the folder is created; default: %(default)s")
    add("--dry-run", action="store_true", help="only print the steps, their limits and commands")
    return parser


def main(words: Sequence[str]) -> int:
    """Run a session. Returns 0, 1 where a step is not done, or 2 after a sentence on standard error."""
    given = _parser().parse_args(words)
    try:
        compute = choose_device(given.device, given.precision)
        folder = folder_of(given.name, compute, given.out)
        names = [name.strip() for name in given.steps.split(",")] if given.steps else None
        todo = chosen(steps(given.scale, compute, folder), names)
        if given.dry_run:
            print("\n".join(plan(todo)))
            return 0
        if given.scale == "full" and compute.device.type == "cpu":
            raise SessionError(
                "a session needs a GPU, and this device is a CPU; try it out with --scale tiny or --dry-run"
            )
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    places = {"PUDNET_BENCH_CACHE": cache_folder(given.cache).absolute()}
    if given.data:
        places["PUDNET_BENCH_DATA"] = given.data.absolute()
    command, failed = shlex.join(["python", "-m", "tests.benchmarks.gpu_session", *words]), False
    for line, outcome in perform(todo, folder, compute, places, command, given.minutes):
        print(line, flush=True)
        failed = failed or (outcome is not None and outcome.outcome != "done")
    print(f"{folder}: README.md, and a folder for each step")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
