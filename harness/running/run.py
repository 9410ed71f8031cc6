"""One invocation of `run`: the run's folder, its cells one after the other, and the tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pudnet_bench.harness.console.progress import Display, span
from pudnet_bench.harness.console.terminal import print_styled
from pudnet_bench.harness.measuring import provenance
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning import request as recipes
from pudnet_bench.harness.planning.estimate import Estimate, estimate, training_estimate
from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.planning.request import Recipe
from pudnet_bench.harness.running.executors import Executor, Local
from pudnet_bench.harness.running.job import cells_behind
from pudnet_bench.harness.running.worker import Worker, family_images, missing_jobs, with_bases
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.results.rendering.render import show
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import PlannedCell, PlannedVariant, PlanRecord, RunRecord
from pudnet_bench.slurm.cluster import Cluster


def run_plan(
    plan: Plan,
    folder: Path,
    command: str,
    compute: Compute,
    cache_dir: Path,
    with_paper: bool,
    executor: Executor | None = None,
    recipe: Recipe | None = None,
) -> int:
    """Run the plan's missing cells, write the tables, and return how many cells failed.

    `recipe` is what the plan was made from, kept with the run where it is given; executors of several processes need it.
    A failing cell is reported with its cause and the others go on. Errors of the output folder (OSError) end the run.
    """
    run = open_run(plan, folder, command, compute)
    invocation = run.record.invocations[-1]
    with run.exclusive():
        if recipe is not None:
            recipes.keep(run, recipe)
        with Display() as display:
            worker = Worker(plan, run, compute, cache_dir, display, recipe=recipe)
            jobs = missing_jobs(plan, run, worker.context.store)
            failed = (executor or Local()).perform(jobs, worker, recipe)
        run.end_invocation(invocation, provenance.now(), provenance.load())
        show(run, with_paper)
    if failed:
        print(
            f"{len(failed)} of {len(plan.cells)} cells failed; run the same command again to try them again",
            file=sys.stderr,
        )
    return len(failed)


def open_run(plan: Plan, folder: Path, command: str, compute: Compute) -> Run:
    """The run in `folder`, started or resumed. Raises StoreError if the folder holds something else."""
    return Run.create_or_open(folder, run_record(plan, command, compute))


def run_record(plan: Plan, command: str, compute: Compute) -> RunRecord:
    """The record of a run of `plan` that begins now."""
    return RunRecord(
        suite=plan.suite.name, profile=plan.profile.name, device=compute.name, precision=compute.precision,
        plan=plan_record(plan), invocations=(provenance.begin_invocation(command, compute),),
    )  # fmt: skip


def submit_plan(
    plan: Plan, folder: Path, command: str, compute: Compute, cluster: Cluster, recipe: Recipe, shard: int | None
) -> None:
    """Submit what is missing of the plan to a cluster, and say which jobs do it."""
    from pudnet_bench.harness.running import slurm_jobs as clusters

    run = open_run(plan, folder, command, compute)
    with run.exclusive():
        recipes.keep(run, recipe)
        sent = clusters.submit(plan, run, recipe, clusters.keep_cluster(run, cluster), shard)
    ids = list(dict.fromkeys(entry.job_id.split("_")[0] for entry in sent))
    trainings = sum(bool(entry.job.training) for entry in sent)
    print(
        f"{folder}: {trainings} meta-trainings and {len(sent) - trainings} pieces of {cells_behind([e.job for e in sent])} "
        f"cells submitted as {', '.join(ids)}"
        if sent
        else f"{folder}: nothing is missing that is not in the queue"
    )


def plan_record(plan: Plan) -> PlanRecord:
    """The plan as the run's record has it."""
    return PlanRecord(
        title=plan.suite.title,
        figure=plan.figure,
        reference=plan.suite.reference,
        paper_groups={cell.family.name: cell.trained_on.meta_groups for cell in plan.cells},
        targets=plan.targets,
        families=tuple((family.name, family.label) for family in plan.families),
        variants=tuple(
            PlannedVariant(
                name=v.name, label=v.label, snapshots=v.snapshots, figure_line=v.curve, figure_x=v.x, derived_from=v.row,
            )
            for v in plan.variants
        ),
        cells=tuple(
            PlannedCell(
                key=cell.key, method=cell.variant.name, family=cell.family.name, target=cell.target.name, seed=cell.seed,
                groups=cell.groups, artifact=cell.artifact.key if cell.artifact else "",
            )
            for cell in plan.cells
        ),
    )  # fmt: skip


def dry_run(plans: Sequence[Plan], compute: Compute, cache_dir: Path) -> None:
    """Print each plan: cells, artifacts to train, and about how much time and disk they take on this device."""
    store = ArtifactStore(cache_dir)
    trainings: set[str] = set()
    artifacts: set[str] = set()
    total = Estimate()
    for plan in plans:
        grid = Table("cell", "family", "target", "seed", "groups", "artifact", "time", box=None, header_style="bold")
        images_of = family_images(plan, compute)
        for cell in plan.cells:
            images_of(cell.family.name)  # a family that does not fit its source is found now
            state = "-"
            about = estimate(cell, compute)
            for needing in with_bases(cell):
                state = "-" if needing.artifact is None else "there"
                if needing.artifact is not None and not store.has(needing.artifact):
                    state = "shared" if needing.training_key in trainings else "to train"
                    if needing.training_key not in trainings:
                        about += training_estimate(needing, compute)
                    trainings.add(needing.training_key)
                if needing.artifact is not None:
                    artifacts.add(needing.artifact.key)
            total += about
            grid.add_row(
                escape(cell.variant.name), escape(cell.family.name), cell.target.name, str(cell.seed), str(cell.groups),
                state, span(about.least, about.seconds),
            )  # fmt: skip
        print(f"{plan.suite.name}, {plan.profile.name}: {len(plan.cells)} cells, {len(plan.artifacts)} artifacts")
        print_styled(grid)
    cells = sum(len(plan.cells) for plan in plans)
    print(
        f"in all {cells} cells and {len(artifacts)} distinct artifacts, from {len(trainings)} meta-trainings that are not "
        f"there yet; about {span(total.least, total.seconds)} on {compute.name} ({compute.precision}), by when validation ends "
        f"meta-training; {total.bytes / 1e6:.0f} MB of disk"
    )
