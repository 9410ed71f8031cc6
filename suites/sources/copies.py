"""Images of equal pixels in a source, and what becomes of them.

Of equal images in one class, groups contain the first; an image that several classes have is in no group, as nobody can say
which label is right. So an image is never on two sides of a split: fit and test, support and query, training and unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

NAMED = 2  # examples in a warning


class SourceWarning(UserWarning):
    """Images of a source that are not taken as they lie on disk."""


def _none() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Copies:
    """The images of a source that equal an earlier one, pixel for pixel.

    Attributes:
        positions: int64 [k], ascending.
        firsts: int64 [k], the first image in the source that has the same pixels.
    """

    positions: np.ndarray = field(default_factory=_none)
    firsts: np.ndarray = field(default_factory=_none)

    @classmethod
    def of(cls, hashes: np.ndarray) -> Copies:
        """Find the copies among images by their hashes, int64 [n]."""
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        firsts = first[inverse]
        positions = np.flatnonzero(firsts != np.arange(len(hashes)))
        return cls(positions, firsts[positions])

    def in_one_class(self, labels: np.ndarray) -> np.ndarray:
        """Return the positions of copies whose pixels no other class has, int64, ascending; `labels` int64 [n]."""
        positions: np.ndarray = self.positions[~self._in_several(labels)]
        return positions

    def in_several_classes(self, labels: np.ndarray) -> np.ndarray:
        """Return the positions of all images whose pixels several classes have, int64, ascending; `labels` int64 [n]."""
        several = self._in_several(labels)
        return np.union1d(self.positions[several], self.firsts[several])

    def left_out(self, labels: np.ndarray) -> np.ndarray:
        """Return the positions of the images that are in no group, int64, ascending; `labels` int64 [n]."""
        return np.union1d(self.in_one_class(labels), self.in_several_classes(labels))

    def _in_several(self, labels: np.ndarray) -> np.ndarray:
        differing = self.firsts[labels[self.positions] != labels[self.firsts]]
        return np.isin(self.firsts, differing)

    def described(self, name: str, labels: np.ndarray, named: Callable[[int], str]) -> list[str]:
        """Return a sentence about the copies within the classes of source `name`, and one about those across classes.

        `labels` are int64 [n]; `named` tells people which image is at a position.
        """
        several = self._in_several(labels)
        kinds = (
            (~several, self.in_one_class(labels), "copies of others of their class", "groups contain each image once"),
            (several, self.in_several_classes(labels), "in several classes", "groups contain none of them"),
        )
        sentences = []
        for kind, images, what, outcome in kinds:
            pairs = list(zip(self.positions[kind][:NAMED].tolist(), self.firsts[kind][:NAMED].tolist(), strict=True))
            examples = "; ".join(f"{named(copy)} is {named(first)}" for copy, first in pairs)
            more = "; ..." if np.count_nonzero(kind) > NAMED else ""
            if pairs:
                count = f"{len(images):,} of the {len(labels):,} images of source '{name}' are {what}"
                sentences.append(f"{count} ({examples}{more}): {outcome}")
        return sentences


def hashes(images: np.ndarray) -> np.ndarray:
    """Return a hash of the pixels of each image in contiguous uint8 [n, ...], int64 [n], comparable in this process only.

    Python's keyed 64-bit hash of bytes: a quarter of the time of a cryptographic one, and of a million different images
    two agree with a probability of 3e-8.
    """
    rows = images.reshape(len(images), -1)
    return np.fromiter(map(hash, rows.view(f"V{rows.shape[1]}").ravel().tolist()), np.int64, len(rows))
