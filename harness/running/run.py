"""One invocation of `run`: open the run, perform its missing jobs or submit them, render the tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pudnet_bench.harness.console.progress import Display, span
from pudnet_bench.harness.console.terminal import print_table
from pudnet_bench.harness.measuring import provenance
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.estimate import Estimate, estimate, training_estimate
from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.planning.request import RunRequest, save_request
from pudnet_bench.harness.running.executors import Executor, Local
from pudnet_bench.harness.running.job import cells_behind
from pudnet_bench.harness.running.worker import Worker, family_images, missing_jobs, with_bases
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.results.rendering.render import show
from pudnet_bench.results.rendering.run_tables import merge_plans
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm.cluster import Cluster


def run_plan(
    plan: Plan,
    request: RunRequest,
    folder: Path,
    compute: Compute,
    *,
    command: str = "",
    with_paper: bool = False,
    executor: Executor | None = None,
) -> int:
    """Measure the plan's missing cells, write the tables, and return how many cells failed.

    A failing cell is logged with its cause and the others continue.

    Args:
        request: What the plan was made from; saved with the run.
        command: The command line, for the record.
        with_paper: Whether tables show the paper's numbers too.
        executor: Performs the jobs; `Local` by default.

    Raises:
        OSError: The output folder cannot be written; ends the run.
    """
    run = open_run(plan, folder, command, compute)
    with run.alone():
        record(plan, run)
        save_request(run.folder, request)
        with Display() as display:
            worker = Worker(plan, request, run, compute, display)
            failed = (executor or Local()).perform(missing_jobs(plan, run, worker.context.store), worker)
        run.update_manifest(ended=provenance.now())
        show(run, with_paper)
    if failed:
        print(f"{len(failed)} of {len(plan.cells)} cells failed; repeat the command to retry them", file=sys.stderr)
    return len(failed)


def open_run(plan: Plan, folder: Path, command: str, compute: Compute) -> Run:
    """The run in `folder`, new or resumed. Raises StoreError where the folder holds something else."""
    manifest = provenance.manifest(plan.suite.name, plan.profile.name, command, compute)
    return Run.create_or_open(folder, {**manifest, "plan": plan_record(plan)})


def record(plan: Plan, run: Run) -> None:
    """Add the plan to those of the run. Only for the process that holds the run."""
    run.update_manifest(plan=merge_plans(Run.open(run.folder).manifest["plan"], plan_record(plan)))


def submit_plan(
    plan: Plan,
    request: RunRequest,
    folder: Path,
    compute: Compute,
    *,
    command: str,
    cluster: Cluster,
    shard: int | None,
) -> None:
    """Submit what is missing of the plan to a cluster, and print which jobs do it."""
    from pudnet_bench.harness.running.slurm_jobs import save_cluster, submit

    run = open_run(plan, folder, command, compute)
    with run.alone():
        record(plan, run)
        save_request(run.folder, request)
        sent = submit(plan, run, request, save_cluster(run, cluster), shard)
    if not sent:
        print(f"{folder}: nothing to submit; what is missing is in the queue")
        return
    ids = list(dict.fromkeys(entry.job_id.split("_")[0] for entry in sent))
    trainings = sum(bool(entry.job.training) for entry in sent)
    cells = cells_behind([entry.job for entry in sent])
    print(
        f"{folder}: {trainings} meta-trainings and {len(sent) - trainings} shards of {cells} cells submitted as "
        f"{', '.join(ids)}"
    )


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


def print_plans(plans: Sequence[Plan], compute: Compute, cache_dir: Path) -> None:
    """Print each plan: its cells, the artifacts to train, and an estimate of time and disk on this device."""
    store = ArtifactStore(cache_dir)
    trainings: set[str] = set()
    artifacts: set[str] = set()
    total = Estimate()
    for plan in plans:
        rows = []
        images_of = family_images(plan, compute)
        for cell in plan.cells:
            images_of(cell.family.name)  # a family that does not fit its source is found now
            state = "-"
            about = estimate(cell, compute)
            for needing in with_bases(cell):
                state = "-" if needing.artifact is None else "cached"
                if needing.artifact is None:
                    continue
                artifacts.add(needing.artifact.key)
                if not store.has(needing.artifact):
                    state = "shared" if needing.training_key in trainings else "to train"
                    if needing.training_key not in trainings:
                        about += training_estimate(needing, compute)
                    trainings.add(needing.training_key)
            total += about
            names, counts = (cell.variant.name, cell.family.name, cell.target.name), (str(cell.seed), str(cell.groups))
            rows.append((*names, *counts, state, span(about.least, about.seconds)))
        print(f"{plan.suite.name}, {plan.profile.name}: {len(plan.cells)} cells, {len(plan.artifacts)} artifacts")
        print_table(rows, header=("cell", "family", "target", "seed", "groups", "artifact", "time"))
    cells = sum(len(plan.cells) for plan in plans)
    print(
        f"total: {cells} cells, {len(artifacts)} artifacts, {len(trainings)} meta-trainings to run; about "
        f"{span(total.least, total.seconds)} on {compute.name} ({compute.precision}), depending on when validation stops "
        f"meta-training; {total.bytes / 1e6:.0f} MB of disk"
    )
