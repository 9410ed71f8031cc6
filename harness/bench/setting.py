"""What a subject measures with: the device, images, how many rounds; and what it has to say of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import load, locate

EMBEDDED = "digits"
QUICK_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """``rounds`` 0 leaves their number to the subject; ``quick`` asks for few, and for no more than a minute of each subject.

    ``notes`` are what a reader of the ratios must know: a subject adds to them what it could not measure as it meant to.
    """

    compute: Compute
    cache: Path
    data: Path | None = None
    rounds: int = 0
    quick: bool = False
    notes: list[str] = field(default_factory=list)

    def turns(self, usual: int) -> int:
        """How many rounds, where the subject's own number is ``usual``."""
        return self.rounds or (min(usual, QUICK_ROUNDS) if self.quick else usual)

    def images(self, family: str) -> FamilyImages:
        """The images of ``family`` on the device; the embedded digits, with a note, where its source is not found."""
        if locate(FAMILIES[family].source, data_dir=self.data) is None and family != EMBEDDED:
            self.notes.append(
                f"{FAMILIES[family].label}: '{FAMILIES[family].source}' was not found (--data), digits are in its place"
            )
            family = EMBEDDED
        chosen = FAMILIES[family]
        source = load(chosen.source, data_dir=self.data, cache_dir=self.cache, size=chosen.image_size)
        return FamilyImages(chosen, source, self.compute.device)
