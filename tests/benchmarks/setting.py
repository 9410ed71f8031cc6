"""What a benchmark measures with: device, images, number of rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources.loading import load, locate

QUICK_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """What the command line asks for.

    Attributes:
        compute: Device and precision.
        cache: Folder for decoded images and artifacts.
        data: Folder with the real image sets, if any.
        measuring: Whether anything is timed; otherwise every benchmark runs once, at a small size.
        rounds: Rounds of every benchmark; 0 leaves their number to the benchmark.
        quick: Measure with few rounds, and only what takes no more than a minute.
    """

    compute: Compute
    cache: Path
    data: Path | None = None
    measuring: bool = False
    rounds: int = 0
    quick: bool = False

    def turns(self, usual: int) -> int:
        """The number of rounds of a benchmark that usually takes `usual`."""
        return self.rounds or (min(usual, QUICK_ROUNDS) if self.quick else usual)

    def images(self, family: str) -> SplitImages:
        """The images of `family` on the device; skips the test where its source is not found."""
        chosen = FAMILIES[family]
        if locate(chosen.source, data_dir=self.data) is None:
            pytest.skip(f"{chosen.label}: '{chosen.source}' is not in the folder that PUDNET_BENCH_DATA names")
        source = load(chosen.source, data_dir=self.data, cache_dir=self.cache, size=chosen.image_size)
        return SplitImages(chosen, source, self.compute.device)
