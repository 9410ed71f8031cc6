"""One invocation of ``run``: the run's folder, its cells one after the other, and the tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import provenance
from harness.artifacts import ArtifactStore
from harness.compute import Compute
from harness.drawing import write_figures
from harness.estimate import Estimate, estimate, training_estimate
from harness.execution import ImagesOf, run_cell
from harness.plan import Cell, Plan
from harness.progress import Display, duration
from harness.rendering import merge_plans, table_text, write_tables
from results.store import Run
from suites.family import FamilyError
from suites.groups import FamilyImages


def run_plan(plan: Plan, folder: Path, command: str, compute: Compute, cache_dir: Path, with_paper: bool) -> int:
    """Run the plan's missing cells, write the tables, and return how many cells failed.

    A failing cell is reported with its cause and the others go on. Errors of the output folder (OSError) end the run.
    """
    record = plan_record(plan)
    manifest = provenance.manifest(plan.suite.name, plan.profile.name, command, compute)
    run = Run.create_or_open(folder, {**manifest, "plan": record})
    run.update_manifest(plan=merge_plans(run.manifest["plan"], record))
    store = ArtifactStore(cache_dir)
    images_of = _images(plan, compute)
    failures = 0
    with Display() as display:
        for cell in plan.cells:
            try:
                run_cell(cell, run, images_of, store, compute, display)
            except (OSError, FamilyError):  # of the output folder or the images: no method's fault
                raise
            except Exception as error:
                failures += 1
                display.say(f"failed: {cell.key}: {type(error).__name__}: {error}")
    run.update_manifest(ended=provenance.now())
    write_tables(run, with_paper)
    figures = write_figures(run, with_paper)
    print(table_text(run, "markdown", with_paper))
    print(f"{folder / 'tables'}: LaTeX, Markdown and CSV", file=sys.stderr)
    if figures:
        print(f"{folder / 'figures'}: {', '.join(path.name for path in figures)}", file=sys.stderr)
    if failures:
        print(
            f"{failures} of {len(plan.cells)} cells failed; run the same command again to try them again",
            file=sys.stderr,
        )
    return failures


def _images(plan: Plan, compute: Compute) -> ImagesOf:
    """Families' images on the device: two at a time, the one that is measured and the one that is trained on."""

    @lru_cache(maxsize=2)
    def images_of(name: str) -> FamilyImages:
        family, source = families[name]
        return FamilyImages(family, source, compute.device, images_of(family.trained_on) if family.trained_on else None)

    families = {cell.family.name: (cell.family, cell.source) for cell in plan.cells}
    families |= {cell.trained_on.name: (cell.trained_on, cell.training_source) for cell in plan.cells}
    return images_of


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
                "curve": v.curve,
                "x": v.x,
                "row": v.row,
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
    console = Console()
    store = ArtifactStore(cache_dir)
    trainings: set[str] = set()
    artifacts: set[str] = set()
    total = Estimate()
    for plan in plans:
        grid = Table("cell", "family", "target", "seed", "groups", "artifact", "time", box=None, header_style="bold")
        images_of = _images(plan, compute)
        for cell in plan.cells:
            images_of(cell.family.name)  # a family that does not fit its source is found now
            state = "-"
            about = estimate(cell, compute)
            for needing in _with_bases(cell):
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
                state, duration(about.seconds),
            )  # fmt: skip
        console.print(
            f"{plan.suite.name}, {plan.profile.name}: {len(plan.cells)} cells, {len(plan.artifacts)} artifacts",
            highlight=False,
        )
        console.print(grid)
    cells = sum(len(plan.cells) for plan in plans)
    console.print(
        f"in all {cells} cells and {len(artifacts)} distinct artifacts, from {len(trainings)} meta-trainings that are not "
        f"there yet; about {duration(total.seconds)} on {compute.name} ({compute.precision}), counting meta-training to its "
        f"limit; {total.bytes / 1e6:.0f} MB of disk",
        highlight=False,
        markup=False,
    )


def _with_bases(cell: Cell) -> list[Cell]:
    """The cells of the methods that ``cell`` builds on, what comes first first, and ``cell``."""
    return [*(_with_bases(cell.base) if cell.base else ()), cell]
