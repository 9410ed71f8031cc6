"""The request of a run: one typed object from the command line to every process and node. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pudnet_bench.harness.measuring.device import DeviceKind, Precision
from pudnet_bench.results.store.files import checksummed_json, quarantine, read_checksummed_json, write_atomically
from pudnet_bench.suites.sources.catalog import Background

REQUESTS = "requests.json"


class Episodes(StrEnum):
    """Who samples the training episodes."""

    OWN = "own"
    LEARN2LEARN = "learn2learn"


class ClockRule(StrEnum):
    """How training from scratch is timed: at its fastest, or as the loop of a plain script."""

    HARNESS = "harness"
    PAPER = "paper"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What one `run` asks of one suite; None keeps the suite's or the profile's own choice.

    In a saved request, paths are absolute and `device` and `precision` are resolved, so every process plans alike.

    Attributes:
        splits: Seeds of the class splits.
        seeds: Seeds of the trainings and groups of each split; None: the split's own.
        suite: A name in the catalog or the path of a suite file (`.py`).
        controls: Whether the rows of `suites.catalog.CONTROLS` are added to the suite's.
        paper_rows: Whether the suite's rows that the paper does not have are left out.
        training_processes: Processes that share a meta-training, 0 for one per GPU. Does not change what is measured.
        sources: Image folders of the user's own, by name.
        image_size: Side in pixels to which the images of every family are brought; None: each family's own.
        alpha_background: What transparent pixels of the user's own images are laid on.
        allow_copies: Whether images that equal others take part.
    """

    suite: str
    profile: str = "quick"
    methods: tuple[str, ...] | None = None
    method_files: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    splits: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    groups: int | None = None
    episodes: Episodes = Episodes.OWN
    weights: Path | None = None
    training_groups: tuple[int, ...] = ()
    groups_per_step: int = 1
    clock: ClockRule = ClockRule.HARNESS
    controls: bool = False
    paper_rows: bool = False
    device: DeviceKind = DeviceKind.AUTO
    precision: Precision = Precision.AUTO
    cache: Path
    data: Path | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    training_processes: int = 0
    image_size: int | None = None
    alpha_background: Background = Background.WHITE
    allow_copies: bool = False

    def splits_and_seeds(self, splits: int) -> list[tuple[int, int]]:
        """Each class split with each of its seeds, for a profile of so many `splits`."""
        return [(split, seed) for split in self.splits or range(splits) for seed in self.seeds or (split,)]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))  # paths as strings
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunRequest:
        """The request that `to_json` wrote. Raises KeyError, TypeError, ValueError or AttributeError otherwise."""
        fields: dict[str, Any] = {"splits": (0,)}  # of a request from before there were others
        fields |= {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for name in ("weights", "data", "cache"):
            fields[name] = Path(fields[name]) if fields[name] else None
        enums = {"episodes": Episodes, "clock": ClockRule, "device": DeviceKind, "precision": Precision}
        fields |= {name: kind(fields[name]) for name, kind in enums.items()}
        fields["alpha_background"] = Background(fields.get("alpha_background", Background.WHITE))
        fields["sources"] = {name: Path(folder) for name, folder in fields["sources"].items()}
        return cls(**fields)


def load_requests(folder: Path) -> list[RunRequest]:
    """The requests of the run in `folder`, the latest last; empty, with a warning, where they are damaged."""
    path = folder / REQUESTS
    if not path.exists():
        return []
    try:
        return [RunRequest.from_json(values) for values in read_checksummed_json(path.read_bytes())["requests"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        quarantine(path, str(error))
        return []


def save_request(folder: Path, request: RunRequest) -> None:
    """Add `request` to those of the run in `folder`, once."""
    requests = [other.to_json() for other in load_requests(folder) if other != request] + [request.to_json()]
    write_atomically(folder / REQUESTS, checksummed_json({"requests": requests}))
