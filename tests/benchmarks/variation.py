"""Shares of variance between datasets of every PudNet of a run, for docs/does-the-dataset-matter.md.

    python -m tests.benchmarks.variation RUN > variation.csv

Takes the artifacts from the cache that the run was measured with, and the run's own unseen groups, 0 to 39.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import choose_device
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import load_requests
from pudnet_bench.harness.running.cell import RunContext, prepare
from pudnet_bench.harness.running.worker import family_images
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.methods.pudnet.controls import PudNetControl
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.pudnet.variation import Variation, variation

GROUPS = 40
COLUMNS = ("method", "family", "target", "split", "seed", "artifact", "groups")


def rows(plan: Plan, context: RunContext) -> Iterator[dict[str, object]]:
    """A row for each trained PudNet of the plan: which it is, and its `Variation`."""
    for cell in plan.cells:
        if not issubclass(cell.method, PudNet) or issubclass(cell.method, PudNetControl):
            continue
        method, artifact = prepare(cell, context)
        assert isinstance(method, PudNet)
        assert artifact is not None
        images = context.images_of(cell.family.name, cell.split)
        found: Variation = variation(method, (images.unseen(cell.seed, index).fit for index in range(GROUPS)))
        names = (cell.variant.name, cell.family.name, cell.target.name, cell.split, cell.seed, artifact.key, GROUPS)
        yield {**dict(zip(COLUMNS, names, strict=True)), **dataclasses.asdict(found)}


def main(folder: Path) -> None:
    """Write the rows of the run's last request as CSV to stdout."""
    request = load_requests(folder)[-1]
    compute = choose_device(request.device, request.precision)
    plan = make_plan(request, compute)
    context = RunContext(family_images(plan, compute), ArtifactStore(request.cache), compute, Display())
    writer = csv.DictWriter(sys.stdout, (*COLUMNS, *(field.name for field in dataclasses.fields(Variation))))
    writer.writeheader()
    writer.writerows(rows(plan, context))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
