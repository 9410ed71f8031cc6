"""What measuring a cell needs besides the cell: images, artifacts, device, display and the request to stop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import SINGLE_PROCESS, Ranks
from pudnet_bench.suites.groups import FamilyImages

ImagesOf = Callable[[str], FamilyImages]
"""The images of the family of that name, on the device; loaded on first use."""


@dataclass(frozen=True)
class RunContext:
    """What all cells of a process share.

    Attributes:
        together: Given a cell, the processes that share its meta-training with this one, while the block lasts.
    """

    images_of: ImagesOf
    store: ArtifactStore
    compute: Compute
    display: Display
    stop_signal: StopSignal = field(default_factory=StopSignal)
    together: Callable[[Cell], AbstractContextManager[Ranks]] = lambda cell: nullcontext(SINGLE_PROCESS)
