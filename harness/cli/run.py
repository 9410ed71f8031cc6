"""The commands that measure: `run` and `resume`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pudnet_bench.harness.cli import options
from pudnet_bench.harness.cli.options import UsageError, absolute, names, numbers
from pudnet_bench.harness.measuring.device import Compute, DeviceKind, Precision, choose_device
from pudnet_bench.harness.planning.request import REQUESTS, ClockRule, Episodes, RunRequest, load_requests
from pudnet_bench.methods.registry import absolute_reference
from pudnet_bench.results.store.folders import cache_folder, run_folder
from pudnet_bench.suites.sources.catalog import Background

if TYPE_CHECKING:
    from pudnet_bench.harness.planning.plan import Plan
    from pudnet_bench.harness.running.executors import Executor
    from pudnet_bench.slurm.cluster import Cluster

CELLS_FAILED = 1


def run(
    suites: options.Suites, profile: options.Profile = "quick", methods: options.Methods = None,
    method: options.MethodFile = None, families: options.Families = None, targets: options.Targets = None,
    splits: options.Splits = None, seeds: options.Seeds = None, groups: options.Groups = None,
    device: options.Device = DeviceKind.AUTO, weights: options.Weights = None, episodes: options.EpisodeSource = Episodes.OWN,
    training_groups: options.TrainingGroups = None, groups_per_step: options.GroupsPerStep = 1,
    training_processes: options.TrainingProcesses = None, precision: options.PrecisionOption = Precision.AUTO,
    clock: options.Clock = ClockRule.HARNESS, controls: options.Controls = False, paper_rows: options.PaperRows = False,
    executor: options.ExecutorName = "local",
    cluster: options.ClusterFile = None, shard: options.Shard = None, wait: options.Wait = False,
    data: options.Data = None, cache: options.Cache = None, source: options.Source = None,
    image_size: options.ImageSize = None, alpha_background: options.AlphaBackground = Background.WHITE,
    allow_copies: options.AllowCopies = False,
    out: options.RunFolder = None, paper: options.Paper = False, dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Measure suites; resume where an earlier run stopped."""
    request = RunRequest(
        suite="", profile=profile, methods=names(methods), method_files=tuple(map(absolute_reference, method or ())),
        families=names(families), targets=names(targets), splits=numbers("--splits", splits, 0),
        seeds=numbers("--seeds", seeds, 0), groups=groups,
        episodes=episodes, weights=absolute(weights) if weights else None,
        training_groups=numbers("--training-groups", training_groups, 1) or (), groups_per_step=groups_per_step,
        clock=clock, controls=controls, paper_rows=paper_rows,
        device=device, precision=precision, cache=cache_folder(cache).absolute(),
        data=absolute(data) if data else None, sources=options.source_folders(source),
        image_size=image_size, alpha_background=alpha_background, allow_copies=allow_copies,
        training_processes=training_processes or 0,
    )  # fmt: skip
    chosen = _chosen(suites, request)
    backend = _backend(request, executor, cluster)
    kind, resolved = DeviceKind(backend.compute.device.type), backend.compute.precision
    requests = [replace(request, suite=suite, device=kind, precision=resolved) for suite in chosen]
    from pudnet_bench.harness.planning.plan import make_plan
    from pudnet_bench.harness.running.run import plan_record, print_plans
    from pudnet_bench.harness.running.surplus import surplus_before

    plans = [make_plan(request, backend.compute) for request in requests]
    if dry_run:
        print_plans(plans, backend.compute, request.cache)
        return
    failures = 0
    for request, plan in zip(requests, plans, strict=True):
        folder = run_folder(out, plan.suite.name, profile, kind, len(plans) > 1)
        also_here = surplus_before(plan_record(plan), folder)
        failures += backend.perform(plan, request, folder, paper=paper, shard=shard, debug=debug)
        failures += _wait_for_jobs(folder, paper) if cluster and wait else 0
        if also_here and (wait or not cluster):  # a table was printed
            print(also_here, file=sys.stderr)
    if failures:
        raise typer.Exit(CELLS_FAILED)


def resume(
    reference: options.RunReference,
    shard: options.Shard = None,
    wait: options.Wait = False,
    paper: options.Paper = False,
    debug: options.Debug = False,
) -> None:
    """Resume a run as it was requested."""
    from pudnet_bench.harness.planning.plan import make_plan
    from pudnet_bench.harness.running.slurm_jobs import compute_of, saved_cluster

    run = options.find_run(reference)
    requests, cluster = load_requests(run.folder), saved_cluster(run)
    if not requests:
        raise UsageError(
            f"{run.folder} has no readable {REQUESTS}, which says what to resume; repeat its `run` command"
        )
    failures = 0
    for request in requests:
        asked = request.device, request.precision
        backend = _Backend(compute_of(cluster, *asked) if cluster else choose_device(*asked), None, cluster)
        plan = make_plan(request, backend.compute)
        failures += backend.perform(plan, request, run.folder, paper=paper, shard=shard, debug=debug)
    failures += _wait_for_jobs(run.folder, paper) if cluster and wait else 0
    if failures:
        raise typer.Exit(CELLS_FAILED)


def _chosen(suites: list[str], request: RunRequest) -> list[str]:
    """The suites to run. Refuses unknown names before anything heavy is imported: BenchError with the nearest name."""
    from pudnet_bench.methods.registry import check_name
    from pudnet_bench.suites.catalog import CONTROLS, PROFILES, SUITES
    from pudnet_bench.suites.declaration import pick
    from pudnet_bench.suites.families import family
    from pudnet_bench.suites.mixtures import members, names_mixture

    chosen = [str(absolute(s)) if s.endswith(".py") else s for s in (SUITES if suites == ["all"] else suites)]
    for name in chosen:
        if not name.endswith(".py"):
            pick("suite", name, SUITES)
    pick("profile", request.profile, PROFILES)
    variants = {variant.name for name in chosen if name in SUITES for variant in (*SUITES[name].variants, *CONTROLS)}
    in_files = request.method_files or any(name.endswith(".py") for name in chosen)  # whose names are not known yet
    for name in {*(request.methods or ())} - variants if not in_files else ():
        check_name(name, variants)
    for name in {*(request.families or ())} - {*request.sources}:
        parts, left_out = members(name) if names_mixture(name) else ((name,), ())
        for each in {*parts, *left_out} - {*request.sources}:
            family(each)
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class _Backend:
    """What measures: an executor of this machine (`Local` by default), or the jobs of a cluster."""

    compute: Compute
    executor: Executor | None = None
    cluster: Cluster | None = None

    def perform(
        self, plan: Plan, request: RunRequest, folder: Path, *, paper: bool, shard: int | None, debug: bool
    ) -> int:
        """Measure or submit what is missing of the plan; returns how many cells failed."""
        from pudnet_bench.harness.running.run import run_plan, submit_plan

        command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
        what = plan, request, folder, self.compute
        if self.cluster is None:
            return run_plan(*what, command=command, with_paper=paper, executor=self.executor, debug=debug)
        submit_plan(*what, command=command, cluster=self.cluster, shard=shard)
        return 0


def _backend(request: RunRequest, executor: str, cluster: Path | None) -> _Backend:
    """What measures the request. Raises BenchError where this machine or the cluster cannot."""
    if (executor == "slurm") != (cluster is not None):
        raise UsageError("--executor slurm needs --cluster FILE.toml, and only it takes one")
    if cluster is not None:
        from pudnet_bench.harness.running.slurm_jobs import compute_of
        from pudnet_bench.slurm.cluster import load

        profile = load(cluster)
        return _Backend(compute_of(profile, request.device, request.precision), cluster=profile)
    from pudnet_bench.harness.running.executors import executor_named
    from pudnet_bench.harness.training.distributed import gpu_count, rank_count

    performs = executor_named(executor)
    compute = choose_device(request.device, request.precision)
    rank_count(request.training_processes, request.groups_per_step, gpu_count(compute.device))
    return _Backend(compute, performs)


def _wait_for_jobs(folder: Path, paper: bool) -> int:
    """Wait for a run's jobs, write its tables, and return how many cells are not done."""
    from pudnet_bench.harness.running.status import CellState, cell_statuses, follow
    from pudnet_bench.results.rendering.render import show

    run = options.find_run(str(folder))
    follow(run, lambda line: print(line, file=sys.stderr, flush=True))
    show(run, paper)
    missing = sum(status.state != CellState.DONE for status in cell_statuses(run).values())
    if missing:
        print(f"{missing} cells are not done; `python -m harness status {folder}` says why", file=sys.stderr)
    return missing
