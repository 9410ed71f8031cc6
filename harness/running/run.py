"""One invocation of `run`: open the run, perform its missing jobs or submit them, render the tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pudnet_bench.harness.console.progress import Display, span
from pudnet_bench.harness.console.terminal import print_table
from pudnet_bench.harness.measuring import provenance
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.estimate import Estimate, estimate, once_for_alike, training_estimate
from pudnet_bench.harness.planning.plan import Plan, with_bases
from pudnet_bench.harness.planning.request import RunRequest, save_request
from pudnet_bench.harness.running.executors import Executor, Local
from pudnet_bench.harness.running.worker import Worker, missing_jobs, refuse_families_that_do_not_fit
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.results.rendering.render import show
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import PlannedCell, PlannedVariant, PlanRecord, RunRecord
from pudnet_bench.slurm.cluster import Cluster


def run_plan(
    plan: Plan, request: RunRequest, folder: Path, compute: Compute, *,
    command: str = "", with_paper: bool = False, executor: Executor | None = None, debug: bool = False,
) -> int:  # fmt: skip
    """Measure the plan's missing cells, write the tables, and return how many cells failed.

    A failing cell is logged with its cause and the others continue. `command` is recorded; `request`, of which the plan
    was made, is saved for `resume`; `with_paper` adds the paper's numbers to the tables; `debug` shows tracebacks.

    Raises:
        OSError: The output folder cannot be written; ends the run.
    """
    run = open_run(plan, folder, command, compute)
    invocation = run.record.invocations[-1]
    with run.exclusive():
        save_request(run.folder, request)
        with Display(debug) as display:
            worker = Worker(plan, request, run, compute, display)
            failed = (executor or Local()).perform(missing_jobs(plan, run, worker.context.store), worker)
        run.end_invocation(invocation, provenance.now(), provenance.load())
        show(run, with_paper)
    if failed:
        print(f"{len(failed)} of {len(plan.cells)} cells failed; repeat the command to retry them", file=sys.stderr)
    return len(failed)


def open_run(plan: Plan, folder: Path, command: str, compute: Compute) -> Run:
    """The run in `folder`, started or resumed. Raises StoreError if the folder holds something else."""
    record = RunRecord(
        suite=plan.suite.name, profile=plan.profile.name, device=compute.name, precision=str(compute.precision),
        plan=plan_record(plan), invocations=(provenance.begin_invocation(command, compute),),
    )  # fmt: skip
    return Run.create_or_open(folder, record)


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
    invocation = run.record.invocations[-1]
    with run.exclusive():
        save_request(run.folder, request)
        sent = submit(plan, run, request, save_cluster(run, cluster), shard)
        run.end_invocation(invocation, provenance.now(), provenance.load())
    if not sent:
        print(f"{folder}: nothing to submit; what is missing is in the queue")
        return
    ids = list(dict.fromkeys(entry.job_id.split("_")[0] for entry in sent))
    trainings = sum(bool(entry.job.training) for entry in sent)
    cells = len({entry.job.cell for entry in sent if not entry.job.training})
    counts = f"{trainings} meta-trainings and {len(sent) - trainings} shards of {cells} cells"
    print(f"{folder}: {counts} submitted as {', '.join(ids)}")


def plan_record(plan: Plan) -> PlanRecord:
    """The plan as the run's record has it."""
    return PlanRecord(
        title=plan.suite.title, figure=plan.figure, reference=plan.suite.reference, targets=plan.targets,
        paper_groups={cell.family.name: cell.trained_on.meta_groups for cell in plan.cells},
        families=tuple((family.name, family.label) for family in plan.families),
        class_names={cell.family.name: cell.source.class_names for cell in plan.cells},
        variants=tuple(
            PlannedVariant(
                name=v.name, label=v.label, snapshots=v.snapshots, curve_label=v.curve_label, curve_x=v.curve_x,
                parent=v.parent, section=v.section, control_of=v.control_of, effect=v.effect,
            )
            for v in plan.variants
        ),
        cells=tuple(
            PlannedCell(
                key=cell.key, method=cell.variant.name, family=cell.family.name, target=cell.target.name,
                split=cell.split, seed=cell.seed, groups=cell.groups, artifact=cell.artifact.key if cell.artifact else "",
            )
            for cell in plan.cells
        ),
    )  # fmt: skip


def print_plans(plans: Sequence[Plan], compute: Compute, cache_dir: Path) -> None:
    """Print each plan: its cells, the artifacts to train, and an estimate of time and disk on this device."""
    store, total, trainings, artifacts = ArtifactStore(cache_dir), Estimate(), set[str](), set[str]()
    measuring, training = (once_for_alike(each, compute) for each in (estimate, training_estimate))
    for plan in plans:
        refuse_families_that_do_not_fit(plan)
        rows = []
        for cell in plan.cells:
            state, about = "-", measuring(cell)
            for needing in with_bases(cell):
                if needing.artifact is None:
                    state = "-"
                    continue
                artifacts.add(needing.artifact.key)
                shared = "shared" if needing.training_key in trainings else "to train"
                state = "cached" if store.has(needing.artifact) else shared
                if state == "to train":
                    trainings.add(needing.training_key)
                    about += training(needing)
            total += about
            names, counts = (
                (cell.variant.name, cell.family.name, cell.target.name),
                (cell.split, cell.seed, cell.groups),
            )
            rows.append((*names, *map(str, counts), state, span(about.least, about.seconds)))
        print(f"{plan.suite.name}, {plan.profile.name}: {len(plan.cells)} cells, {len(plan.artifacts)} artifacts")
        print_table(rows, header=("cell", "family", "target", "split", "seed", "groups", "artifact", "time"))
    cells = sum(len(plan.cells) for plan in plans)
    numbers = f"{cells} cells, {len(artifacts)} artifacts, {len(trainings)} meta-trainings to run"
    about_all = f"about {span(total.least, total.seconds)} on {compute.name} ({compute.precision})"
    depends = "depending on when validation stops meta-training"
    print(f"total: {numbers}; {about_all}, {depends}; {total.bytes / 1e6:.0f} MB of disk")
