"""All that only a GPU can show, in 25 minutes on one: steps that do not need one another, each in a process of its own.

A step that fails, or whose time is over, leaves what it has, and the next one begins. What is there is never written over:
a step whose folder exists is passed over, so a session may be made in parts. On a CPU the tiny scale tries it out.
"""

from __future__ import annotations

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
from pudnet_bench.harness.bench import SUBJECTS
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.provenance import circumstances, now
from pudnet_bench.results.rendering.escaping import escape_markdown
from pudnet_bench.results.store.files import write_atomically
from pudnet_bench.results.store.folders import RUNS
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import RECORD

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = Path("results/published")
MINUTES = 25
LAST_WORDS = 20.0  # seconds that a step has to keep what it measured, once its time is over
LEARNERS = "pretrained,matchnet,protonet,meta-baseline,meta-deepbdc,pudnet"
SCRATCH = "adam,gc"
FAMILIES = ("--families", "fashion,cifar100", "--profile", "standard", "--paper")
LOG, STEP = "log.txt", "step.json"

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
    """A session that cannot be made as it was asked for; says why and the way out."""


@dataclass(frozen=True)
class Step:
    """``commands`` (arguments of python) one after the other within ``seconds`` in all. ``run`` is the run they make, if any."""

    name: str
    seconds: int
    commands: tuple[tuple[str, ...], ...]
    run: Path | None = None


@dataclass(frozen=True)
class StepResult:
    """What became of a step: "done", "exit code N" or "out of time"."""

    name: str
    commands: list[str]
    started: str
    seconds: float
    outcome: str


def steps(scale: str, compute: Compute, folder: Path) -> list[Step]:
    """The steps of a session that is published in ``folder``, in their order."""
    where = ("--device", compute.device.type, "--precision", compute.precision)
    briefly = ("--quick", "--rounds", "1") if scale == "tiny" else ()
    found = [
        Step("doctor", SECONDS["doctor"], (("-m", "harness", "doctor"),)),
        Step("tests", SECONDS["tests"], (("-m", "pytest", "-n", "0", "-m", "cuda", "-rs", "-v", "tests"),)),
    ]
    for subject in SUBJECTS:
        quick = briefly or (("--quick",) if subject == "peers" else ())
        out = ("--out", str(folder / f"bench-{subject}"))
        found.append(
            Step(
                f"bench-{subject}", SECONDS["bench"], (("-m", "harness", "bench", subject, *where, *quick, *out),),
            )
        )  # fmt: skip
    for table, choices in TABLES[scale].items():
        run = RUNS / folder.name / table
        commands = (("-m", "harness", "run", table, *choice, *where, "--out", str(run)) for choice in choices)
        found.append(Step(table, SECONDS["table"], tuple(commands), run))
    return found


def folder_of(name: str, compute: Compute, published: Path = PUBLISHED) -> Path:
    """Where the session ``name`` is published: its name and the GPU's. Raises SessionError for a name that is no file name."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is None:
        raise SessionError(f"a session's name is of letters, digits, - and _, not '{name}'")
    device = "cpu" if compute.device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", compute.name.lower()).strip("-")
    return published / f"{name}-{device}"


def chosen(all_steps: Sequence[Step], names: Sequence[str] | None) -> list[Step]:
    """The steps of these names, or all. Raises SessionError for one that there is not."""
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
    todo: Sequence[Step],
    folder: Path,
    compute: Compute,
    command: str,
    data: Path | None,
    cache: Path,
    minutes: float,
    say: Callable[[str], None],
) -> list[StepResult]:
    """Run the steps that are not there, as far as ``minutes`` reach, publish what they leave, and return what became of them."""
    ends = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    places = {"PUDNET_BENCH_CACHE": cache.absolute(), **({"PUDNET_BENCH_DATA": data.absolute()} if data else {})}
    masked = masks(folder, places)
    session = circumstances(command, compute)
    found = []
    for step in todo:
        own = folder / step.name
        if own.exists():
            say(f"{step.name}: there already")
            continue
        if time.monotonic() + step.seconds > ends:
            say(f"{step.name}: not begun, its {step.seconds} s do not fit; the same command goes on from here")
            continue
        own.mkdir()
        variables = {name: str(path) for name, path in places.items()}
        outcome = _perform(step, own, variables)
        if step.run is not None:
            _publish(step.run, own, variables)
        log = own / LOG
        log.write_text(masked(log.read_text(errors="replace")))
        told = json.dumps({**session, **asdict(outcome)}, indent=2, ensure_ascii=False)
        write_atomically(own / STEP, f"{masked(told)}\n".encode())
        write_atomically(folder / "README.md", readme(folder).encode())
        found.append(outcome)
        say(f"{step.name}: {outcome.outcome}, {outcome.seconds:.0f} s")
    return found


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


def _hear_interrupts() -> None:
    """In a step's process: a session in the background of a script ignores Ctrl-C, and what it starts would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _call(command: Sequence[str], log: Path, variables: Mapping[str, str], seconds: float) -> int | None:
    """The exit code of ``python *command``, or None where ``seconds`` did not suffice. What it prints is added to ``log``."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **variables, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with log.open("a") as out:
        out.write(f"$ {_shown(command)}\n")
        out.flush()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            cwd=ROOT if "pytest" in command else None, preexec_fn=_hear_interrupts,
        )  # fmt: skip
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # as Ctrl-C: what was measured is kept
            with suppress(subprocess.TimeoutExpired):
                process.wait(LAST_WORDS)
            return None
        finally:
            with suppress(ProcessLookupError):  # workers of a DataLoader, a step that does not hear
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _publish(run: Path, own: Path, variables: Mapping[str, str]) -> None:
    """The tables of what was measured, and the record, beside the step's log."""
    if not (run / RECORD).exists():
        return
    _call(("-m", "harness", "collect", str(run), "--paper"), own / LOG, variables, 60)
    for path in (run / RECORD, *sorted((run / "tables").glob("*"))):
        shutil.copy(path, own / path.name)


def masks(folder: Path, places: Mapping[str, Path]) -> Callable[[str], str]:
    """Takes this machine's paths out of a text."""
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
    """What the session's folder says of itself: where and how, each step, and over how many groups the tables are."""
    told: list[dict[str, Any]] = sorted(
        (json.loads(path.read_text()) for path in folder.glob(f"*/{STEP}")), key=lambda step: str(step["started"])
    )
    first = told[0]
    facts = {
        "command": f"`{first['command']}`",
        "commit": ", ".join(dict.fromkeys(step["git_commit"] or "not a checkout" for step in told)),
        "device": f"{first['device']}, {first['precision']}, {first['threads']} threads",
        "driver": first["driver"],
        "torch": first["versions"]["torch"],
        "date": f"{first['started']} to {told[-1]['started']}",
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
                    for step in told
                ),
                "",
                "What each step ran:",
                "",
                "```sh",
                *(command for step in told for command in step["commands"]),
                "```",
                "",
                "What these numbers say is not written yet.",
            ]
        )
        + "\n"
    )


def _groups(run: Path) -> str:
    """How many groups of each method are measured in a run, the fewest where families differ; "" where there is no run."""
    if not (run / RECORD).exists():
        return ""
    found = Run.open(run)
    counts: dict[str, int] = {}
    for cell in found.record.plan.cells:
        done = len(found.groups_done(cell.key))
        counts[cell.method] = min(done, counts.get(cell.method, done))
    return ", ".join(f"{method} {n}" for method, n in counts.items())
