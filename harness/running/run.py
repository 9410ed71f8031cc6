"""One invocation of ``run``: the run's folder, its cells one after the other, and the tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from pudnet_bench.results.rendering.rendered import Images, Request
from pudnet_bench.results.rendering.run_tables import merge_plans
from pudnet_bench.results.store.run import Run
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
    request: Request | None = None,
) -> int:
    """Run the plan's missing cells, write the tables, and return how many cells failed.

    ``recipe`` is what the plan was made from, kept with the run where it is given; executors of several processes need it.
    ``request`` is kept where all is measured, so that it finds its answer when it comes again.
    A failing cell is reported with its cause and the others go on. Errors of the output folder (OSError) end the run.
    """
    run = open_run(plan, folder, command, compute)
    with run.alone():
        record(plan, run, recipe)
        with Display() as display:
            worker = Worker(plan, run, compute, cache_dir, display, recipe=recipe)
            jobs = missing_jobs(plan, run, worker.context.store)
            failed = (executor or Local()).perform(jobs, worker, recipe)
            complete = not jobs or not missing_jobs(plan, run, worker.context.store)
        run.update_manifest(ended=provenance.now())
        if request is not None and not complete:
            request = replace(request, digest="")
        show(run, with_paper, request, images(plan))
    if failed:
        print(
            f"{len(failed)} of {len(plan.cells)} cells failed; run the same command again to try them again",
            file=sys.stderr,
        )
    return len(failed)


def open_run(plan: Plan, folder: Path, command: str, compute: Compute) -> Run:
    """The run in ``folder``, begun or gone on with. Raises StoreError where the folder holds something else."""
    manifest = provenance.manifest(plan.suite.name, plan.profile.name, command, compute)
    return Run.create_or_open(folder, {**manifest, "plan": plan_record(plan)})


def record(plan: Plan, run: Run, recipe: Recipe | None) -> None:
    """Add the plan to those of the run, and keep what it was made from. Only for the process that holds the run."""
    run.update_manifest(plan=merge_plans(Run.open(run.folder).manifest["plan"], plan_record(plan)))
    if recipe is not None:
        recipes.keep(run, recipe)


def submit_plan(
    plan: Plan, folder: Path, command: str, compute: Compute, cluster: Cluster, recipe: Recipe, shard: int | None
) -> None:
    """Submit what is missing of the plan to a cluster, and say which jobs do it."""
    from pudnet_bench.harness.running import slurm_jobs as clusters

    run = open_run(plan, folder, command, compute)
    with run.alone():
        record(plan, run, recipe)
        sent = clusters.submit(plan, run, recipe, clusters.keep_cluster(run, cluster), shard)
    ids = list(dict.fromkeys(entry.job_id.split("_")[0] for entry in sent))
    trainings = sum(bool(entry.job.training) for entry in sent)
    print(
        f"{folder}: {trainings} meta-trainings and {len(sent) - trainings} pieces of {cells_behind([e.job for e in sent])} "
        f"cells submitted as {', '.join(ids)}"
        if sent
        else f"{folder}: nothing is missing that is not in the queue"
    )


def images(plan: Plan) -> list[Images]:
    """What the plan's cells are measured on and trained on."""
    sources = [pair for c in plan.cells for pair in ((c.family, c.source), (c.trained_on, c.training_source))]
    return list(dict.fromkeys(Images(family.source, family.image_size, source.state) for family, source in sources))


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as it stands in the manifest: what reading a table or a status needs."""
    return {
        "title": plan.suite.title,
        "figure": plan.figure,
        "paper_groups": {c.family.name: c.trained_on.meta_groups for c in plan.cells},
        "targets": list(plan.targets),
        "families": [[family.name, family.label] for family in plan.families],
        "variants": [
            {
                "name": v.name,
                "label": v.label,
                "snapshots": [list(snapshot) for snapshot in v.snapshots],
                "curve": v.curve_label,
                "x": v.curve_x,
                "row": v.parent,
            }
            for v in plan.variants
        ],
        "cells": [
            {
                "key": cell.key,
                "method": cell.variant.name,
                "family": cell.family.name,
                "target": cell.target.name,
                "seed": cell.seed,
                "groups": cell.groups,
                "artifact": cell.artifact.key if cell.artifact else "",
            }
            for cell in plan.cells
        ],
    }


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
