"""What the printed intervals cover when class splits of real images are drawn anew, against all class tuples of the source."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pudnet_bench.results.analysis.intervals import Estimate, estimate, estimate_difference
from pudnet_bench.suites.sources.loading import load

REDRAWS = 350
BAND = (0.93, 0.97)
FEATURES = 64
METHODS = ("pixels", "whitened", "whitened, other images")


@dataclass(frozen=True)
class Images:
    """A source's classes in samples, each with centroids of fit images and scores of test images, so that groups are cheap.

    `scores` has for each method [classes, samples, test images, classes, samples]: lower is nearer. The first two methods
    are nearest centroids in principal components, as they are and whitened; the third is the second with other fit images.
    """

    scores: tuple[np.ndarray, ...]
    unseen: int
    ways: int

    @property
    def classes(self) -> int:
        return len(self.scores[0])

    @classmethod
    def of(cls, by_class: list[np.ndarray], samples: int, n_fit: int, n_test: int, unseen: int, ways: int) -> "Images":
        rng = np.random.default_rng(0)
        some = np.concatenate([images[:200] for images in by_class])
        mean = some.mean(axis=0)
        lengths, axes = np.linalg.eigh(np.cov((some - mean).T))
        orders = [[rng.permutation(len(images)) for _ in range(samples)] for images in by_class]
        pairs = list(zip(by_class, orders, strict=True))
        fit = np.array([[images[order[:n_fit]].mean(axis=0) for order in each] for images, each in pairs])
        test = np.array([[images[order[n_fit : n_fit + n_test]] for order in each] for images, each in pairs])
        scores = []
        for scale in (np.ones(FEATURES), lengths[-FEATURES:] ** -0.5):
            centroids = ((fit - mean) @ (axes[:, -FEATURES:] * scale)).reshape(-1, FEATURES)
            points = ((test - mean) @ (axes[:, -FEATURES:] * scale)).reshape(-1, FEATURES)
            distances = (centroids**2).sum(axis=1) - 2 * points @ centroids.T
            scores.append(distances.reshape(len(by_class), samples, n_test, len(by_class), samples).astype(np.float32))
        return cls((scores[0], scores[1], scores[1]), unseen, ways)

    def accuracies(self, tuples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Accuracy of each method [n, 3] on groups of these classes [n, ways], each with images of its own."""
        samples = self.scores[0].shape[1]
        test = rng.integers(samples, size=tuples.shape)
        other = [(test + rng.integers(1, samples, size=tuples.shape)) % samples for _ in range(2)]
        found = []
        for scores, fit in zip(self.scores, (test, *other), strict=True):
            there = scores[tuples[:, :, None], test[:, :, None], :, tuples[:, None, :], fit[:, None, :]]
            found.append((there.argmin(axis=2) == np.arange(self.ways)[None, :, None]).mean(axis=(1, 2)))
        return np.stack(found, axis=1)

    def tuples(self, groups: int, rng: np.random.Generator) -> np.ndarray:
        """Classes of the groups of one new class split [groups, ways]: a few tuples take turns, many are drawn."""
        unseen = rng.choice(self.classes, self.unseen, replace=False)
        if math.comb(self.unseen, self.ways) > 100:
            return np.array([rng.choice(unseen, self.ways, replace=False) for _ in range(groups)])
        every = np.array(list(combinations(unseen, self.ways)))
        return np.concatenate([rng.permutation(every) for _ in range(-(-groups // len(every)))])[:groups]

    @cached_property
    def truth(self) -> np.ndarray:
        """Mean accuracy of each method [3] over all class tuples; over 40,000 of them where they are too many."""
        rng = np.random.default_rng(1)
        if math.comb(self.classes, self.ways) <= 100:
            tuples = np.repeat(list(combinations(range(self.classes), self.ways)), 400, axis=0)
        else:
            tuples = np.array([rng.choice(self.classes, self.ways, replace=False) for _ in range(40_000)])
        return np.mean([self.accuracies(part, rng).mean(axis=0) for part in np.split(tuples, 10)], axis=0)


@pytest.fixture(scope="module", params=["fashion-mnist", "cifar-100"])
def images(request: pytest.FixtureRequest, real_data: Path, cache_dir: Path) -> Images:
    source = load(request.param, data_dir=real_data, cache_dir=cache_dir)
    pixels = np.asarray(source.images, dtype=np.float32).reshape(len(source.images), *source.images.shape[1:]) / 255
    if request.param == "cifar-100":  # a quarter of the resolution: the covariance of all pixels takes minutes
        pixels = pixels.reshape(len(pixels), 3, 16, 2, 16, 2).mean(axis=(3, 5))
    by_class = [
        pixels[source.labels == each].reshape(-1, math.prod(pixels.shape[1:]))
        for each in range(len(source.class_names))
    ]
    return Images.of(by_class, 12, 150, 150, 4, 2) if len(by_class) == 10 else Images.of(by_class, 4, 50, 20, 20, 5)


def measured(images: Images, splits: int, groups: int, training: float, rng: np.random.Generator) -> list[pd.DataFrame]:
    """Rows of each method on the same newly drawn splits, whose trainings add effects of this deviation."""
    tuples = np.concatenate([images.tuples(groups, rng) for _ in range(splits)])
    split = np.repeat(np.arange(splits), groups)
    names = [" ".join(map(str, one)) for one in tuples.tolist()]
    rows = pd.DataFrame({"split": split, "seed": split, "group": np.tile(np.arange(groups), splits), "classes": names})
    accuracies = images.accuracies(tuples, rng) + rng.normal(0, training, (splits, len(METHODS)))[split]
    return [rows.assign(accuracy=column) for column in accuracies.T]


def covered(found: list[Estimate], truth: float, unit: str) -> float:
    printed = [one for one in found if one.unit]
    assert {one.unit for one in printed} == {unit}
    assert len(printed) >= 0.3 * len(found)  # others have too few degrees of freedom for an interval
    return float(np.mean([abs(one.mean - truth) <= one.half_width() for one in printed]))


def allowed(share: float, errors: float) -> float:
    """A share, moved by so many binomial standard errors of REDRAWS."""
    return share + errors * math.sqrt(share * (1 - share) / REDRAWS)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("splits", "groups", "training", "unit"),
    [
        (1, 100, 0.0, "classes"),
        (2, 50, 0.02, "classes"),
        (3, 40, 0.02, "classes"),
        (5, 40, 0.0, "classes"),
        (5, 100, 0.01, "classes"),
        (10, 40, 0.02, "splits"),
    ],
)
def test_printed_intervals_cover_the_mean_over_all_class_tuples(
    images: Images, splits: int, groups: int, training: float, unit: str, record_property: Callable[[str, object], None]
) -> None:
    """93 to 97% of the redraws, give or take three binomial errors; two splits may be covered more often.

    The last pair of methods is one classifier with other images to fit (A/A): it is called different in at most 5%.
    """
    rng, truth = np.random.default_rng(splits * groups), 100 * images.truth
    rows = [measured(images, splits, groups, training, rng) for _ in range(REDRAWS)]
    shares = {
        METHODS[i]: covered([estimate(one[i], 100 * one[i]["accuracy"]) for one in rows], truth[i], unit)
        for i in (0, 1)
    }
    shares["difference"] = covered([estimate_difference(one[0], one[1]) for one in rows], truth[0] - truth[1], unit)
    same = [estimate_difference(one[1], one[2]) for one in rows]
    different = float(np.mean([one.p_value < 0.05 for one in same]))
    record_property("coverage", shares | {"A/A different": different})
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    print(f"{images.classes} classes, {splits} x {groups} groups, training {training}: {shown}, A/A {different:.1%}")
    assert min(shares.values()) >= allowed(BAND[0], -3), shares
    assert max(shares.values()) <= (1 if splits == 2 else allowed(BAND[1], 3)), shares
    assert different <= allowed(0.05, 3)
