"""The command line. Heavy modules are imported inside the commands that need them, so that ``list`` is instant."""

from __future__ import annotations

import ast
import errno
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.cli import completion
from pudnet_bench.harness.console.plain_text import printable
from pudnet_bench.results.store.folders import cache_folder, find_folder, run_folder

if TYPE_CHECKING:
    from pudnet_bench.results.store.run import Run

app = typer.Typer(
    help="Predicting a ConvNet's parameters against training it and against meta-learners, under one clock.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # A shell completes a program by its name, and `python -m harness` has none of its own; pudnet-bench has.
    add_completion=Path(sys.argv[0]).name != "__main__.py",
)
data_app = typer.Typer(help="Image sources: list them, fetch them, verify them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
new_app = typer.Typer(help="Begin a method, a suite or a family of your own.", no_args_is_help=True)
app.add_typer(new_app, name="new")

USAGE, FAILED, INTERRUPTED = 2, 1, 130
DATA_VARIABLE, CACHE_VARIABLE = "PUDNET_BENCH_DATA", "PUDNET_BENCH_CACHE"


class TableFormat(StrEnum):
    """How ``table`` prints."""

    latex = "latex"
    markdown = "markdown"
    csv = "csv"


DataOption = Annotated[Path | None, typer.Option("--data", envvar=DATA_VARIABLE, help="Folder with the image sources.")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", envvar=CACHE_VARIABLE, help="Folder for decoded images and artifacts.")
]
SourceOption = Annotated[
    list[str] | None, typer.Option("--source", help="NAME=DIR: an image folder of your own; repeatable.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or a suite.", autocompletion=completion.runs)
]
PaperOption = Annotated[bool, typer.Option("--paper", help="Set the paper's numbers beside the measured ones.")]
ShardOption = Annotated[int | None, typer.Option(min=1, help="For slurm: groups measured by one job.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="For slurm: follow the jobs to their end.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Run the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    app()


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Turn what a user can put right into one sentence and exit code 2, Ctrl-C into 130; the rest keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, and the same command goes on from there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {printable(sentence)}", file=sys.stderr)
        raise typer.Exit(USAGE) from None


def _sentence(error: Exception) -> str | None:
    """The one sentence for an error that the user can put right, None for any other."""
    if isinstance(error, OSError) and error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    ):
        where = f"'{error.filename}'" if error.filename else "the output folder"
        return (
            f"cannot write {where}: {os.strerror(error.errno).lower()}; choose another folder with --out (runs) or --cache "
            "(artifacts and images), or make room; what was measured so far is kept"
        )
    return str(error) if isinstance(error, BenchError) else None


class UsageError(BenchError):
    """An argument that cannot be used; says which and the way out."""


@app.command("list")
def list_everything(as_json: JsonOption = False) -> None:
    """Suites, methods, families, targets and profiles, a line each."""
    from pudnet_bench.methods.registry import entries
    from pudnet_bench.suites.catalog import PROFILES, SUITES
    from pudnet_bench.suites.families import FAMILIES

    if as_json:
        _print_json(
            {
                "suites": [
                    {"name": s.name, "title": s.title, "targets": s.targets, "families": s.families, "figure": s.figure}
                    for s in SUITES.values()
                ],
                "methods": [{"name": m.name, "description": m.description} for m in entries().values()],
                "families": [asdict(f) for f in FAMILIES.values()],
                "profiles": [asdict(p) for p in PROFILES.values()],
            }
        )
        return
    sections: dict[str, list[tuple[str, str]]] = {
        "suites": [(s.name, f"{s.title}; {', '.join(s.families)}") for s in SUITES.values()],
        "methods": [(m.name, m.description) for m in entries().values()],
        "families": [
            (
                f.name,
                f"{f.label}: {f.source}, {f.training_classes}/{f.unseen_classes} classes, {f.ways} ways, {f.images} images",
            )
            for f in FAMILIES.values()
        ],
        "profiles": [(p.name, p.description) for p in PROFILES.values()],
    }
    from rich.markup import escape
    from rich.table import Table

    from pudnet_bench.harness.console.terminal import print_styled

    for title, lines in sections.items():
        grid = Table.grid(padding=(0, 2))
        for name, text in lines:
            grid.add_row(f"  {escape(name)}", escape(text))
        print_styled(f"[bold]{title}[/bold]", grid)


@app.command()
def run(
    suites: Annotated[
        list[str],
        typer.Argument(
            help="Suites to run, such as table1; all of them: all; your own: path/to/suite.py.",
            autocompletion=completion.suites,
        ),
    ],
    profile: Annotated[
        str, typer.Option(help="Scale: quick, standard or paper.", autocompletion=completion.profiles)
    ] = "quick",
    methods: Annotated[
        str | None, typer.Option(help="Only these methods, separated by commas.", autocompletion=completion.methods)
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="FILE.py:Class, a method of your own; repeatable.", autocompletion=completion.method_file),
    ] = None,
    families: Annotated[
        str | None, typer.Option(help="Only these families, separated by commas.", autocompletion=completion.families)
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="These targets, separated by commas.", autocompletion=completion.targets)
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="These seeds, separated by commas.")] = None,
    groups: Annotated[int | None, typer.Option(min=1, help="Unseen groups to measure, for every method.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=completion.devices)] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="ImageNet weights (.safetensors, timm's names) for pretrained-imagenet.")
    ] = None,
    episodes: Annotated[
        str,
        typer.Option(help="Who draws the training episodes: own or learn2learn.", autocompletion=completion.episodes),
    ] = "own",
    training_groups: Annotated[
        str | None,
        typer.Option(
            help="Meta-train for so many groups, without validation; several (100,1000) give a row after each."
        ),
    ] = None,
    groups_per_step: Annotated[
        int, typer.Option(min=1, help="Groups whose mean gradient makes a step of meta-training; the paper's is one.")
    ] = 1,
    training_processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the groups of a step, with the same outcome; without, one for each GPU, and one "
            "on a CPU.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, fp32 or bf16 (autocast).", autocompletion=completion.precisions)
    ] = "auto",
    clock: Annotated[
        str,
        typer.Option(
            help="harness: training from scratch at its best; paper: as a plain script has it (DataLoader, float32)."
        ),
    ] = "harness",
    executor: Annotated[
        str,
        typer.Option(
            help="local, local-processes:N (several at a time, which slow one another down) or slurm.",
            autocompletion=completion.executors,
        ),
    ] = "local",
    cluster: Annotated[
        Path | None,
        typer.Option(help="For slurm: a TOML file that says how jobs are submitted; examples in slurm/clusters."),
    ] = None,
    shard: ShardOption = None,
    wait: WaitOption = False,
    data: DataOption = None,
    cache: CacheOption = None,
    source: SourceOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder (several suites: a folder for each inside it).")
    ] = None,
    paper: PaperOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan, with estimates of time and disk.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Measure one or more suites, or go on with them where they were interrupted."""
    with plain_errors(debug):
        from pudnet_bench.methods.registry import check_name
        from pudnet_bench.suites.catalog import PROFILES, SUITES
        from pudnet_bench.suites.declaration import pick

        if episodes not in ("own", "learn2learn"):
            raise UsageError(f"--episodes takes own or learn2learn, not '{episodes}'")
        if clock not in ("harness", "paper"):
            raise UsageError(f"--clock takes harness or paper, not '{clock}'")
        for name in suites:
            if name != "all" and not name.endswith(".py"):
                pick("suite", name, SUITES)
        pick("profile", profile, PROFILES)
        for name in (not method and _names(methods)) or ():  # --methods may also name a class given with --method
            check_name(name)
        folders = _folders(source)
        for name in _names(families) or ():
            if name not in folders:
                from pudnet_bench.suites.families import family

                family(name)

        names = list(dict.fromkeys(SUITES if suites == ["all"] else suites))
        from pudnet_bench.harness.measuring.device import choose
        from pudnet_bench.harness.planning.plan import Choice
        from pudnet_bench.harness.planning.request import Recipe
        from pudnet_bench.harness.running.executors import executor_named
        from pudnet_bench.harness.running.run import dry_run as print_plan
        from pudnet_bench.harness.running.run import run_plan
        from pudnet_bench.harness.training.distributed import gpu_count, rank_count

        if (executor == "slurm") != (cluster is not None):
            raise UsageError("--executor slurm needs --cluster FILE.toml, and only it takes one")
        profile_of_cluster = None
        if cluster is not None:
            from pudnet_bench.harness.running.slurm_jobs import compute_of
            from pudnet_bench.slurm.cluster import load as load_cluster

            profile_of_cluster = load_cluster(cluster)
            compute = compute_of(profile_of_cluster, device, precision)
        else:
            performs = executor_named(executor)
            compute = choose(device, precision)
            rank_count(training_processes or 0, groups_per_step, gpu_count(compute.device))
        cache_dir = cache_folder(cache)
        choice = Choice(
            _names(methods), tuple(_method_file(file) for file in method or ()), _names(families), _names(targets),
            _numbers("--seeds", seeds, 0), groups, episodes, weights.expanduser().absolute() if weights else None,
            _numbers("--training-groups", training_groups, 1) or (), groups_per_step, clock,
        )  # fmt: skip
        recipes = {
            name: Recipe(
                str(Path(name).expanduser().absolute()) if name.endswith(".py") else name, profile, choice, compute.device.type,
                compute.precision, str(cache_dir.absolute()), str(data.expanduser().absolute()) if data else None,
                {source: str(folder.absolute()) for source, folder in folders.items()}, training_processes or 0,
            )
            for name in names
        }  # fmt: skip
        plans = {name: recipe.plan(compute) for name, recipe in recipes.items()}
        if dry_run:
            print_plan(list(plans.values()), compute, cache_dir)
            return
        command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
        failures = 0
        for name in names:
            plan, recipe = plans[name], recipes[name]
            there = run_folder(out, plan.suite.name, profile, compute.device.type, len(names) > 1)
            if profile_of_cluster is None:
                failures += run_plan(plan, there, command, compute, cache_dir, paper, performs, recipe)
                continue
            from pudnet_bench.harness.running.run import submit_plan

            submit_plan(plan, there, command, compute, profile_of_cluster, recipe, shard)
            if wait:
                failures += _follow(there, paper)
    if failures:
        raise typer.Exit(FAILED)


@app.command()
def status(
    reference: RunArgument,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What a run has measured so far, cell by cell; on a cluster, what Slurm says and where the logs are."""
    with plain_errors(debug):
        from rich.markup import escape
        from rich.table import Table

        from pudnet_bench.harness.console.terminal import print_styled
        from pudnet_bench.harness.running.status import cell_statuses

        found = _find_run(reference)
        record, standing = found.record, cell_statuses(found)
        cells: list[dict[str, Any]] = []
        for cell in record.plan.cells:
            done, here = len(found.groups_done(cell.key)), standing[cell.key]
            state = "partly measured" if here.state == "pending" and done and not here.reason else here.state
            cells.append(
                {**asdict(cell), "done": done, "state": state, "reason": here.reason, "logs": list(map(str, here.logs))}
            )
        if as_json:
            _print_json(
                {
                    "run": str(found.folder),
                    **{name: getattr(record, name) for name in ("suite", "profile", "device")},
                    "cells": cells,
                }
            )
            return
        grid = Table("cell", "family", "target", "seed", "groups", "state", "reason", box=None, header_style="bold")
        for shown in cells:
            grid.add_row(
                escape(shown["method"]),
                escape(shown["family"]),
                shown["target"],
                str(shown["seed"]),
                f"{shown['done']}/{shown['groups']}",
                shown["state"],
                escape(shown["reason"]),
            )
        print(printable(f"{found.folder}: {record.suite}, {record.profile}, {record.device}"))
        print_styled(grid)
        for log in sorted({log for here in standing.values() if here.state in ("failed", "lost") for log in here.logs}):
            print(printable(str(log)))


@app.command()
def cancel(
    reference: RunArgument,
    debug: DebugOption = False,
) -> None:
    """Cancel the jobs of a run on a cluster; what is measured stays."""
    with plain_errors(debug):
        from pudnet_bench.harness.running.status import cancel as cancel_jobs

        found = _find_run(reference)
        jobs = cancel_jobs(found)
        print(f"{found.folder}: {len(jobs)} jobs cancelled; `python -m harness resume {found.folder}` goes on")


@app.command()
def resume(
    reference: RunArgument,
    shard: ShardOption = None,
    wait: WaitOption = False,
    paper: PaperOption = False,
    debug: DebugOption = False,
) -> None:
    """Go on with a run where it is, as it was asked for: submit or measure what is missing."""
    failures = 0
    with plain_errors(debug):
        from pudnet_bench.harness.planning import request as recipes
        from pudnet_bench.harness.running import slurm_jobs as cluster
        from pudnet_bench.harness.running.run import run_plan, submit_plan

        found = _find_run(reference)
        kept = recipes.kept(found)
        if not kept:
            raise UsageError(f"{found.folder} does not say what was asked for; give its `run` command again")
        command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
        profile = cluster.kept_cluster(found)
        for recipe in kept:
            if profile is None:
                compute = recipe.compute()
                failures += run_plan(
                    recipe.plan(compute),
                    found.folder,
                    command,
                    compute,
                    Path(recipe.cache),
                    paper,
                    None,
                    recipe,
                )
            else:
                compute = cluster.compute_of(profile, recipe.device, recipe.precision)
                submit_plan(recipe.plan(compute), found.folder, command, compute, profile, recipe, shard)
        if profile is not None and wait:
            failures += _follow(found.folder, paper)
    if failures:
        raise typer.Exit(FAILED)


@app.command()
def collect(
    reference: RunArgument,
    paper: PaperOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a run's tables and figures from what is measured so far; cells that are not finished carry their n."""
    with plain_errors(debug):
        from pudnet_bench.results.rendering.render import show

        show(_find_run(reference), paper)


@app.command()
def table(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_SUITE", help="A run's folder, or a suite (its latest run).", autocompletion=completion.runs
        ),
    ],
    format: Annotated[TableFormat, typer.Option(help="latex, markdown or csv.")] = TableFormat.markdown,
    paper: PaperOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print a run's table."""
    with plain_errors(debug):
        from pudnet_bench.results.rendering.run_tables import table_records, table_text

        found = _find_run(reference)
        if as_json:
            _print_json(table_records(found, paper))
        else:
            print(table_text(found, format.value, paper), end="")


@app.command()
def compare(
    run_a: Annotated[
        str,
        typer.Argument(
            metavar="RUN_A", help="A run's folder, or a suite (its latest run).", autocompletion=completion.runs
        ),
    ],
    run_b: Annotated[
        str, typer.Argument(metavar="RUN_B", help="The run that is held against it.", autocompletion=completion.runs)
    ],
    format: Annotated[TableFormat, typer.Option(help="latex, markdown or csv.")] = TableFormat.markdown,
    debug: DebugOption = False,
) -> None:
    """Two runs of one suite, on two devices, commits or settings: differences, intervals and a verdict for each cell."""
    with plain_errors(debug):
        from pudnet_bench.results.rendering.run_tables import compare_runs

        print(compare_runs(_find_run(run_a), _find_run(run_b), format.value), end="")


@app.command()
def report(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs' folders, or suites (the latest run of each).", autocompletion=completion.runs
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page's file; without, report.html in the folder of the first run.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Everything about one or more runs on one page for a browser, which needs no network: tables, plots, provenance."""
    with plain_errors(debug):
        from pudnet_bench.results.rendering.run_report import write_report

        path = write_report([_find_run(reference) for reference in references], out)
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


@data_app.command("list")
def data_list(data: DataOption = None, source: SourceOption = None, debug: DebugOption = False) -> None:
    """Every image source, and where it was found."""
    with plain_errors(debug):
        from rich.markup import escape
        from rich.table import Table

        from pudnet_bench.harness.console.terminal import print_styled
        from pudnet_bench.suites.sources import SOURCES
        from pudnet_bench.suites.sources.loading import locate

        folders = _folders(source)
        grid = Table.grid(padding=(0, 2))
        for name, text in {
            **{n: f"image folder {p}" for n, p in folders.items()},
            **{s.name: s.description for s in SOURCES.values()},
        }.items():
            found = locate(name, data_dir=data, folders=folders)
            grid.add_row(
                escape(name),
                escape(text),
                "embedded" if name == "digits" else escape(str(found)) if found else "[dim]not found[/dim]",
            )
        print_styled(grid)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Sources to download.", autocompletion=completion.sources)],
    data: DataOption = None,
    debug: DebugOption = False,
) -> None:
    """Download sources through torchvision."""
    with plain_errors(debug):
        from pudnet_bench.suites.sources.loading import fetch

        if data is None:
            raise UsageError(f"data fetch needs a folder to put images into: give --data DIR or set {DATA_VARIABLE}")
        for name in names:
            print(f"{name}: {fetch(name, data)}")


@data_app.command("verify")
def data_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sources to verify; all that are found if none is named.", autocompletion=completion.sources
        ),
    ] = None,
    data: DataOption = None,
    cache: CacheOption = None,
    source: SourceOption = None,
    debug: DebugOption = False,
) -> None:
    """Decode every image again and compare with the cache."""
    with plain_errors(debug):
        from pudnet_bench.suites.sources import SOURCES
        from pudnet_bench.suites.sources.loading import locate, verify

        folders = _folders(source)
        for name in names or [n for n in {**SOURCES, **folders} if locate(n, data_dir=data, folders=folders)]:
            found = verify(name, data_dir=data, cache_dir=cache_folder(cache), folders=folders)
            print(
                f"{found.name}: {found.images} images of {found.classes} classes, {found.size[0]}x{found.size[1]}, "
                f"{found.channels} channels, content {found.fingerprint[:16]}, {found.path}"
            )


@new_app.command("method")
def new_method(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.py", help="To be written; my_method.py has the class MyMethod.")
    ],
    debug: DebugOption = False,
) -> None:
    """Write a method that runs as it is, to be changed into your own."""
    with plain_errors(debug):
        from pudnet_bench.harness.authoring.scaffold import scaffold_method

        print(printable(scaffold_method(file)))


@new_app.command("suite")
def new_suite(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="To be written; my_suite.py has the suite my-suite.")],
    debug: DebugOption = False,
) -> None:
    """Write a suite that runs as it is, to be changed into your own."""
    with plain_errors(debug):
        from pudnet_bench.harness.authoring.scaffold import scaffold_suite

        print(printable(scaffold_suite(file)))


@new_app.command("family")
def new_family(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images, one folder a class.")],
    name: Annotated[str | None, typer.Option(help="The family's name; the folder's, if not given.")] = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Say what family a folder of images would make, and the command that measures on it."""
    with plain_errors(debug):
        from pudnet_bench.harness.authoring.scaffold import look_at_folder

        print(printable(look_at_folder(folder.expanduser(), name, cache_folder(cache))))


@app.command()
def check(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="FILE.py:Class, or a name such as protonet.", autocompletion=completion.method
        ),
    ],
    target: Annotated[str, typer.Option(help="The target network.", autocompletion=completion.target)] = "convnet3",
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, an option of the method, such as epochs=(1,2); repeatable.")
    ] = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Check on embedded digits that a method keeps the contract: a line for each check, exit code 1 if one fails."""
    with plain_errors(debug):
        from pudnet_bench.methods import registry

        options = _options(option)
        if method.endswith(".py"):
            raise UsageError(f"check takes FILE.py:Class, and '{method}' names no class")
        found = registry.find_in_file(method, "check") if ":" in method else registry.find(method)

        from pudnet_bench.harness.authoring.conformance import report, subject_of

        subject = subject_of(found, target, options, cache_folder(cache))
        failures = report(subject, lambda line: print(printable(line), flush=True), debug)
    if failures:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    subjects: Annotated[
        list[str] | None, typer.Argument(metavar="SUBJECT...", help="What to measure; everything if nothing is named.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16 (autocast).")] = "auto",
    rounds: Annotated[
        int, typer.Option(min=0, help="Times that both sides take their turn; 0: each subject's own number.")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few rounds, and only what takes no more than a minute.")
    ] = False,
    data: DataOption = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="A folder for bench.json and bench.md.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Speed in ratios, each against the plain script it names, beside the machine's own limits measured with them."""
    with plain_errors(debug):
        from rich.console import Console

        from pudnet_bench.harness.bench import SUBJECTS
        from pudnet_bench.suites.declaration import pick

        for subject in subjects or ():
            pick("subject", subject, SUBJECTS)

        from pudnet_bench.harness.bench import findings
        from pudnet_bench.harness.bench.limits import limits
        from pudnet_bench.harness.bench.setting import Setting
        from pudnet_bench.harness.measuring.device import choose
        from pudnet_bench.harness.measuring.provenance import circumstances
        from pudnet_bench.results.store.files import write_atomically

        compute = choose(device, precision)
        setting = Setting(compute, cache_folder(cache), data, rounds, quick)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
        found = findings.Findings(circumstances(command, compute), limits(compute.device, 0.1 if quick else 0.5))
        for subject in dict.fromkeys(subjects or SUBJECTS):
            measured = findings.measured(subject, setting, debug)
            found.subjects.append(measured)
            print(f"{subject}: {findings.time(measured.seconds)}", file=sys.stderr, flush=True)
            if out is not None:  # after each subject: what is measured is kept
                write_atomically(out / "bench.json", (json.dumps(findings.as_json(found), indent=2) + "\n").encode())
                write_atomically(out / "bench.md", findings.as_markdown(found).encode())
        if as_json:
            _print_json(findings.as_json(found))
        else:
            findings.show(found, Console())
    if any(subject.failure for subject in found.subjects):
        raise typer.Exit(FAILED)


@app.command()
def gpu_session(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the folder is called, with the GPU's name after it.")
    ],
    scale: Annotated[str, typer.Option(help="full, or tiny: minutes on a CPU, to try it out on digits.")] = "full",
    only: Annotated[str | None, typer.Option("--steps", help="Only these steps, separated by commas.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="A step begins only where its limit fits into them.")] = 25,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16 (autocast).")] = "auto",
    data: DataOption = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Where the folder is made; results/published.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the steps, their limits and commands.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Measure what only a GPU can show, and publish it; the same command goes on with the steps that are not there."""
    with plain_errors(debug):
        from pudnet_bench.harness import gpu_session as session
        from pudnet_bench.harness.measuring.device import choose
        from pudnet_bench.suites.declaration import pick

        pick("scale", scale, session.TABLES)
        compute = choose(device, precision)
        folder = session.folder_of(name, compute, out or session.PUBLISHED)
        todo = session.chosen(session.steps(scale, compute, folder), _names(only))
        if dry_run:
            print(printable("\n".join(session.plan(todo))))
            return
        if scale == "full" and compute.device.type == "cpu":
            raise UsageError(
                "gpu-session needs a GPU, and this device is a CPU; try it out with --scale tiny, or --dry-run"
            )
        command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])

        def say(line: str) -> None:
            print(printable(line), flush=True)

        outcomes = session.perform(todo, folder, compute, command, data, cache_folder(cache), minutes, say)
        print(printable(f"{folder}: README.md, and a folder for each step"))
    if any(outcome.outcome != "done" for outcome in outcomes):
        raise typer.Exit(FAILED)


@app.command()
def doctor(data: DataOption = None, cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """This machine as the harness sees it, and what follows: device, memory, disk, sources, Slurm, speed, times to expect."""
    from rich.markup import escape
    from rich.table import Table

    from pudnet_bench.harness.cli.doctor import examine
    from pudnet_bench.harness.console.terminal import print_styled

    findings = examine(data, cache_folder(cache))
    if as_json:
        _print_json({f.name: {"found": f.found, "implies": f.implies, **f.values} for f in findings})
        return
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        grid.add_row(finding.name, escape(finding.found))
        if finding.implies:
            grid.add_row("", f"[dim]{escape(finding.implies)}[/dim]")
    print_styled(grid)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _follow(folder: Path, paper: bool) -> int:
    """Wait for a run's jobs, write its tables, and return how many cells are not done."""
    from pudnet_bench.harness.running.status import cell_statuses, follow
    from pudnet_bench.results.rendering.render import show

    found = _find_run(str(folder))
    follow(found, lambda line: print(line, file=sys.stderr, flush=True))
    show(found, paper)
    undone = [standing for standing in cell_statuses(found).values() if standing.state != "done"]
    if undone:
        print(f"{len(undone)} cells are not done; `python -m harness status {folder}` says why", file=sys.stderr)
    return len(undone)


def _method_file(reference: str) -> str:
    """FILE.py:Class that means the same in another folder."""
    path, _, name = reference.rpartition(":")
    return f"{Path(path).expanduser().absolute()}:{name}" if path else reference


def _options(texts: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE as keyword arguments; a value is a Python literal, or else text. Raises UsageError."""
    options: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option takes NAME=VALUE, not '{text}'")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def _numbers(option: str, text: str | None, smallest: int) -> tuple[int, ...] | None:
    """The distinct whole numbers of a list such as "0,1,2"; None for none. Raises UsageError naming ``option``."""
    try:
        numbers = tuple(dict.fromkeys(int(number) for number in _names(text) or ()))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers separated by commas, not '{text}'") from None
    if any(number < smallest for number in numbers):
        raise UsageError(f"{option} takes numbers from {smallest} on, not '{text}'")
    return numbers or None


def _folders(sources: list[str] | None) -> dict[str, Path]:
    from pudnet_bench.suites.families import FAMILIES
    from pudnet_bench.suites.sources import SOURCES

    folders = {}
    for text in sources or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--source takes NAME=DIR, not '{text}'")
        if name in FAMILIES and name not in SOURCES:
            raise UsageError(
                f"--source {name}: a built-in family has that name; choose another, or replace its images with "
                f"--source {FAMILIES[name].source}=DIR"
            )
        folders[name] = Path(folder).expanduser()
    return folders


def _find_run(reference: str) -> Run:
    from pudnet_bench.results.store.run import Run
    from pudnet_bench.suites.catalog import SUITES

    return Run.open(find_folder(reference, tuple(SUITES)))
