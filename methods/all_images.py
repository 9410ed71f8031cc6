"""Feature methods that learn from every fit image of a group, as training from scratch does.

The paper's predictors classify by 10 images per class, while training from scratch learns from all 500 or 600. This method
removes the difference: the features are another method's, learned once, and only the classifier changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pudnet_bench.methods.base import Dataset, ImagePasses, Method, MethodError, Snapshot, TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner, Logits
from pudnet_bench.methods.targets import STATISTICS_IMAGES

HEADS = ("own", "ridge")
PENALTIES = 10.0 ** torch.arange(
    -6, 3, dtype=torch.float64
)  # times the mean squared length of a centred feature vector


class AllImages(Method):
    """The trained method `base`, fitted to all fit images of a group instead of a few per class.

    Args:
        base: A method with `support_per_class`; its artifact is shared with its own rows.
        head: "own": the classifier of `base`. "ridge": ridge regression of the classes on the features of at most 2,000
            images (`ridge`), for a `base` that is a `FeatureLearner`.
        base_options: Options of `base`.

    Raises:
        MethodError: for an unknown `head`, and for a `base` that does not fit it.
    """

    name: ClassVar[str] = "all-images"

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        base: str = "pretrained",
        head: str = "own",
        base_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(target, n_training_classes)
        if head not in HEADS:
            raise MethodError(f"all-images' head is {' or '.join(HEADS)}, not '{head}'")
        self.head = head
        self.base: Any = None

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return options.get("base", "pretrained"), dict(options.get("base_options") or {})

    def start_from(self, base: Method) -> None:
        if not hasattr(base, "support_per_class"):
            raise MethodError(f"all-images needs a base with support_per_class, and {base.name} has none")
        if self.head == "ridge" and not isinstance(base, FeatureLearner):
            raise MethodError(f"all-images' ridge head needs a base with fixed features, unlike {base.name}")
        self.base = base
        self.base.support_per_class = sys.maxsize

    def to(self, device: torch.device) -> None:
        if self.base is not None:
            self.base.to(device)

    def fit_passes(self, images: int, support: int) -> ImagePasses:
        return ImagePasses(predicted=images)

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        if self.base is None:
            raise MethodError("all-images has no base method; call start_from before fit")
        if self.head == "own":
            yield from self.base.fit(dataset)
        else:
            yield Snapshot(self._ridge_classifier(dataset.at_most(STATISTICS_IMAGES)))

    @torch.no_grad()
    def _ridge_classifier(self, dataset: Dataset) -> Logits:
        self.base.modules.eval()
        logits = ridge(self.base.features(dataset.images), dataset.labels, dataset.n_classes)

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            return logits(self.base.features(images))

        return classify


def ridge(features: Tensor, labels: Tensor, n_classes: int) -> Logits:
    """Return the classifier by ridge regression of one-hot `labels` int64 [n] on `features` float [n, d].

    Solved in its dual form, in float64 and on the features' device. The penalty is the one of `PENALTIES` with the smallest
    leave-one-out squared error, which has a closed form (Allen 1974, PRESS); only fit images choose it.
    """
    x, y = features.double(), F.one_hot(labels, n_classes).double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    values, vectors = torch.linalg.eigh(x @ x.T)
    values = values.clamp_min(0)
    scale = values.mean().clamp_min(1e-30)
    rotated = vectors.T @ y
    solutions, errors = [], []
    for penalty in PENALTIES.to(x.device) * scale:
        shrunk = 1 / (values + penalty)
        solution = vectors @ (shrunk[:, None] * rotated)
        # y - H y = penalty * solution, and 1 - H_ii = penalty * (K + penalty)^-1_ii - 1/n, for the mean is fitted too.
        kept = (penalty * (vectors.square() @ shrunk) - 1 / len(x)).clamp_min(1e-12)
        solutions.append(solution)
        errors.append((penalty * solution / kept[:, None]).square().mean())
    weights = x.T @ torch.stack(solutions)[torch.stack(errors).argmin()]

    def logits(query: Tensor) -> Tensor:
        return ((query.double() - mean_x) @ weights + mean_y).float()

    return logits
