"""What was asked of ``run``, as JSON: from it any process, on this machine or a node, makes the same plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.measuring.device import Compute, choose
from pudnet_bench.harness.planning.plan import Choice, Plan, make_plan
from pudnet_bench.harness.planning.suite_file import suite_in_file
from pudnet_bench.results.store.files import checksummed_json, quarantine, read_checksummed_json, write_atomically
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.declaration import Suite, pick
from pudnet_bench.suites.sources.loading import Source, load

FILE = "recipes.json"


@dataclass(frozen=True)
class Recipe:
    """The arguments of one ``run`` of one suite. Paths are absolute; ``device`` and ``precision`` are resolved, not "auto".

    ``suite`` is a name of the catalog or the path of a suite file. ``training_processes`` share a meta-training, 0 for one
    on each GPU; they are not part of what is measured.
    """

    suite: str
    profile: str
    choice: Choice
    device: str
    precision: str
    cache: str
    data: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    training_processes: int = 0

    def compute(self, here: bool = True) -> Compute:
        """The device. With ``here`` False it need not be in this machine, and has no name."""
        if here:
            return choose(self.device, self.precision)
        return Compute(torch.device(self.device), "", "bf16" if self.precision == "bf16" else "fp32")

    def plan(self, compute: Compute) -> Plan:
        """The plan, the same in every process. Raises what ``make_plan`` raises."""
        load_source = partial(_loaded, self.data, self.cache, tuple(self.sources.items()))
        suite = find_suite(self.suite)
        return make_plan(suite, PROFILES[self.profile], self.choice, compute, load_source, tuple(self.sources))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        weights = self.choice.weights
        return {**asdict(self), "choice": {**asdict(self.choice), "weights": str(weights) if weights else None}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """The recipe that ``to_json`` gave."""
        choice: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values["choice"].items()
        }
        choice["weights"] = Path(choice["weights"]) if choice["weights"] else None
        return cls(**{**values, "choice": Choice(**choice)})


@cache
def _loaded(
    data: str | None, cache_dir: str, sources: tuple[tuple[str, str], ...], name: str, size: int | None
) -> Source:
    folders = {source: Path(folder) for source, folder in sources}
    return load(name, data_dir=Path(data) if data else None, cache_dir=Path(cache_dir), folders=folders, size=size)


def find_suite(name: str) -> Suite:
    """The suite of that name, or in the file of that name (ending in .py)."""
    return suite_in_file(Path(name)) if name.endswith(".py") else pick("suite", name, SUITES)


def kept(run: Run) -> list[Recipe]:
    """The recipes of a run, in the order in which they were last asked for; none where they were damaged, with a warning."""
    path = run.folder / FILE
    if not path.exists():
        return []
    try:
        return [Recipe.from_json(values) for values in read_checksummed_json(path.read_bytes())["recipes"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        quarantine(path, str(error))
        return []


def keep(run: Run, recipe: Recipe) -> None:
    """Add ``recipe`` to those of the run, once."""
    recipes = [other.to_json() for other in kept(run) if other != recipe] + [recipe.to_json()]
    write_atomically(run.folder / FILE, checksummed_json({"recipes": recipes}))
