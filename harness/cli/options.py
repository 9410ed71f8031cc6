"""Command-line options shared by commands, those of `run`, and the parsing of their values."""

from __future__ import annotations

import ast
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.cli import completion
from pudnet_bench.harness.measuring.device import DeviceKind, Precision
from pudnet_bench.harness.planning.request import ClockRule, Episodes
from pudnet_bench.results.store.folders import expanded, find_folder
from pudnet_bench.suites.sources.catalog import Background

if TYPE_CHECKING:
    from pudnet_bench.results.store.run import Run

DATA_VARIABLE, CACHE_VARIABLE = "PUDNET_BENCH_DATA", "PUDNET_BENCH_CACHE"


class UsageError(BenchError):
    """An argument that cannot be used; says which and the way out."""


class TableFormat(StrEnum):
    """How a table is printed."""

    LATEX = "latex"
    MARKDOWN = "markdown"
    CSV = "csv"


Data = Annotated[Path | None, typer.Option("--data", help="Folder of the image sources.", envvar=DATA_VARIABLE)]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder for images and artifacts.", envvar=CACHE_VARIABLE)]
Source = Annotated[list[str] | None, typer.Option("--source", help="NAME=DIR, your own image folder; repeatable.")]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Resize the shorter side to N, cut the centre out.", metavar="N", min=8, max=2048),
]
AlphaBackground = Annotated[Background, typer.Option(help="What transparent pixels of --source lie on.")]
AllowCopies = Annotated[bool, typer.Option("--allow-copies", help="Take images that equal others too.")]
Paper = Annotated[bool, typer.Option("--paper", help="Show the paper's numbers too.")]
Shard = Annotated[int | None, typer.Option("--shard", help="Slurm: groups per job.", min=1)]
Wait = Annotated[bool, typer.Option("--wait", help="Slurm: wait for the jobs to end.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Format = Annotated[TableFormat, typer.Option("--format", help="Output format.")]
RunReference = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's folder, or a suite (its latest run).", autocompletion=completion.runs),
]

Suites = Annotated[
    list[str],
    typer.Argument(help="Suites such as table1, `all`, or path/to/suite.py.", autocompletion=completion.suites),
]
Profile = Annotated[str, typer.Option(help="quick, standard or paper.", autocompletion=completion.profiles)]
Methods = Annotated[str | None, typer.Option(help="Methods, comma-separated.", autocompletion=completion.methods)]
MethodFile = Annotated[
    list[str] | None,
    typer.Option(help="FILE.py:Class or package.module:Class; repeatable.", autocompletion=completion.python_files),
]
Families = Annotated[str | None, typer.Option(help="Families, comma-separated.", autocompletion=completion.families)]
Targets = Annotated[str | None, typer.Option(help="Targets, comma-separated.", autocompletion=completion.targets)]
Splits = Annotated[str | None, typer.Option(help="Class splits, comma-separated.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds of each split, comma-separated.")]
Groups = Annotated[int | None, typer.Option(help="Unseen groups per cell.", min=1)]
Device = Annotated[DeviceKind, typer.Option(help="Device to compute on.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Precision of forward passes.")]
Weights = Annotated[Path | None, typer.Option(help="ImageNet weights, .safetensors in timm's names.")]
EpisodeSource = Annotated[Episodes, typer.Option(help="Sampler of training episodes.")]
TrainingGroups = Annotated[str | None, typer.Option(help="Meta-training lengths, comma-separated.")]
GroupsPerStep = Annotated[int, typer.Option(help="Groups per meta-training step.", min=1)]
TrainingProcesses = Annotated[int | None, typer.Option(help="Processes per meta-training [one per GPU].", min=1)]
Controls = Annotated[bool, typer.Option("--controls", help="Add the controls of PudNet's claim.")]
PaperRows = Annotated[bool, typer.Option("--paper-rows", help="Only the rows that the paper has.")]
Clock = Annotated[ClockRule, typer.Option(help="How training from scratch is timed.")]
ExecutorName = Annotated[
    str, typer.Option(help="local, local-processes:N or slurm.", autocompletion=completion.executors)
]
ClusterFile = Annotated[Path | None, typer.Option(help="Slurm: the cluster's TOML file.")]
RunFolder = Annotated[Path | None, typer.Option(help="Run folder; of several suites, their parent.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan with estimates only.")]


def names(text: str | None) -> tuple[str, ...] | None:
    """The names of a comma-separated list; None for none."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def numbers(option: str, text: str | None, smallest: int) -> tuple[int, ...] | None:
    """The distinct numbers of a list such as "0,1,2"; None for none. Raises UsageError naming `option`."""
    try:
        found = tuple(dict.fromkeys(int(number) for number in names(text) or ()))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers separated by commas, not '{text}'") from None
    if any(number < smallest for number in found):
        raise UsageError(f"{option} takes numbers from {smallest} on, not '{text}'")
    return found or None


def keywords(texts: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE as keyword arguments; a value is a Python literal, or else text. Raises UsageError."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option takes NAME=VALUE, not '{text}'")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def source_folders(texts: list[str] | None) -> dict[str, Path]:
    """The absolute folders of NAME=DIR, by name. Raises UsageError."""
    from pudnet_bench.suites.families import FAMILIES
    from pudnet_bench.suites.sources import SOURCES

    found = {}
    for text in texts or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--source takes NAME=DIR, not '{text}'")
        if name in FAMILIES and name not in SOURCES:
            replace = f"replace its images with --source {FAMILIES[name].source}=DIR"
            raise UsageError(f"--source {name}: a built-in family has that name; choose another, or {replace}")
        found[name] = absolute(folder)
    return found


def absolute(path: str | Path) -> Path:
    """The path as it is meant in any folder."""
    return expanded(Path(path)).absolute()


def with_home(value: object) -> object:
    """An argument of a command with `~` expanded: a shell leaves it alone in `--out=~/x`, and so do variables.

    Every path option and argument passes through here; a name that is no path does not begin with `~`.
    """
    if isinstance(value, Path):
        return expanded(value)
    if isinstance(value, str):
        return str(expanded(Path(value))) if value.startswith("~") else value
    return [with_home(each) for each in value] if isinstance(value, list) else value


def find_run(reference: str) -> Run:
    """The run in that folder, or the latest of that suite. Raises StoreError."""
    from pudnet_bench.results.store.run import Run
    from pudnet_bench.suites.catalog import SUITES

    return Run.open(find_folder(reference, tuple(SUITES)))


def print_json(value: Any) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2))
