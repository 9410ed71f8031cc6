"""FLOPs as counted, against what multiplications and additions by hand come to."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pudnet_bench.harness.measuring.flops import UNKNOWN, FlopCount, SnapshotFlops, count, counted
from pudnet_bench.harness.running.cell import test_accuracy as accuracy_on_test
from pudnet_bench.harness.running.cell import warm_up
from pudnet_bench.methods import registry
from pudnet_bench.methods.base import Dataset, Group, Method, Snapshot, TargetSpec
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import Source

ROOT = Path(__file__).parents[3]
DIGITS = TargetSpec("convnet3", (1, 8, 8))
MULTIPLY_ADD = 2
# ConvNet-3 on 8x8 pixels: kernels of 3x3, 64 channels, on maps of 8x8, 4x4 and 2x2 positions; one feature a channel.
CONVOLUTIONS = [MULTIPLY_ADD * side * side * 9 * channels * 64 for side, channels in ((8, 1), (4, 64), (2, 64))]
FEATURES = 64
HEAD = MULTIPLY_ADD * FEATURES * 2  # a linear layer, or logits by prototypes, of two classes


@pytest.fixture
def group(digits_images: FamilyImages) -> Group:
    return digits_images.group("training", 0, 0)


def counted_on(group: Group, method: Method) -> FlopCount:
    return count(method, group, accuracy_on_test)


@pytest.mark.parametrize("name", ["adam", "gc"])
def test_training_from_scratch_by_hand(group: Group, name: str) -> None:
    found = counted_on(group, registry.find(name)(DIGITS, 6))
    forward = sum(CONVOLUTIONS) + HEAD
    backward = 2 * forward - CONVOLUTIONS[0]  # of weights and inputs; images need no gradient
    width_of_features = sum(CONVOLUTIONS)  # found by one image before training
    (first,) = found.snapshots
    assert (first.name, first.epochs) == ("1 epochs", 1)
    assert first.fit == 100 * (forward + backward) + width_of_features
    assert first.test == forward
    later = Snapshot(lambda images: images, "30 epochs", 30)
    assert found.of(later, 100) == (30 * first.fit, forward)
    assert all(math.isnan(flops) for flops in found.of(later, 101))
    assert all(math.isnan(flops) for flops in found.of(Snapshot(lambda images: images, "another"), 100))


def test_a_plain_script_computes_the_same(group: Group) -> None:
    adam = registry.find("adam")
    plain = adam(DIGITS, 6, epochs=(1,), loop="dataloader")  # type: ignore[call-arg]
    assert counted_on(group, plain) == counted_on(group, adam(DIGITS, 6))


def test_later_epochs_follow_by_proportion(group: Group) -> None:
    """What comes before the first epoch, here one image in three hundred, is counted once for each."""
    adam = registry.find("adam")
    first, whole = (counted_on(group, adam(DIGITS, 6, epochs=epochs)) for epochs in ((1, 4), (4,)))  # type: ignore[call-arg]
    extrapolated = first.of(Snapshot(lambda images: images, "4 epochs", 4), 100)[0]
    assert extrapolated - whole.snapshots[0].fit == 3 * sum(CONVOLUTIONS)
    assert extrapolated == pytest.approx(whole.snapshots[0].fit, rel=0.004)


@pytest.mark.parametrize(
    ("name", "means", "distances"),
    [
        ("pretrained", 20 * HEAD, HEAD),  # class means, and cosines to them, are products of matrices
        ("protonet", 0, 0),  # learn2learn's means and distances are not
    ],
)
def test_class_means_of_features_by_hand(group: Group, name: str, means: int, distances: int) -> None:
    (found,) = counted_on(group, registry.find(name)(DIGITS, 6)).snapshots
    assert found.fit == 20 * sum(CONVOLUTIONS) + means  # ten images of each of two classes
    assert found.test == sum(CONVOLUTIONS) + distances


def test_pudnet_by_hand(group: Group) -> None:
    (found,) = counted_on(group, registry.find("pudnet")(DIGITS, 6)).snapshots
    sketch = 100 * MULTIPLY_ADD * 8 * 8 * 25 * 32 + MULTIPLY_ADD * 32 * 16 * 128  # one 5x5 block; one Linear
    step = MULTIPLY_ADD * (256 * 256 + 256 * 128 + 128 * 128)  # gates, candidate, output
    generators = sum(
        MULTIPLY_ADD * (128 * 8 * 9 + 9 * 8 * 16 + 9 * 16 * channels * 64) for channels in (1, 64, 64)
    )  # fmt: skip
    support = 20 * (sum(CONVOLUTIONS) + HEAD)
    assert found.fit == sketch + 3 * step + generators + support
    assert found.test == sum(CONVOLUTIONS) + HEAD


class Products(Method):
    """Yields `names` with `epochs`, and multiplies matrices of ten by ten before each."""

    name = "products"
    names: tuple[str, ...] = ("early", "late")
    epochs: tuple[float, ...] = (math.nan, math.nan)
    multiply: Any = staticmethod(torch.matmul)

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        for name, epochs in zip(self.names, self.epochs, strict=True):
            self.multiply(torch.ones(10, 10), torch.ones(10, 10))
            head = torch.eye(64, dataset.n_classes)
            yield Snapshot(lambda images: self.multiply(images.flatten(1), head), name, epochs)  # noqa: B023


PRODUCT, CLASSIFIED = MULTIPLY_ADD * 10**3, MULTIPLY_ADD * 64 * 2


def of_kind(**changes: Any) -> Method:
    return type("Changed", (Products,), changes)(DIGITS, 6)


def test_fits_are_counted_to_their_end_unless_epochs_tell_the_rest(group: Group) -> None:
    both = [("early", PRODUCT, CLASSIFIED), ("late", 2 * PRODUCT, CLASSIFIED)]
    for kind, expected in (
        ({}, both),
        ({"epochs": (1.0, 2.0)}, both),
        ({"iterative": True}, both),
        ({"iterative": True, "epochs": (1.0, 2.0)}, both[:1]),
        ({"iterative": True, "epochs": (0.0, 1.0)}, both),  # nothing can be told from what no epoch has made
    ):
        found = counted_on(group, of_kind(**kind))
        assert [(s.name, s.fit, s.test) for s in found.snapshots] == expected, kind


def test_what_happens_between_two_items_is_not_counted() -> None:
    def work() -> Iterator[Tensor]:
        for _ in range(2):
            yield torch.ones(10, 10) @ torch.ones(10, 10)

    totals = []
    for product, flops in counted(work()):
        product @ product
        totals.append(flops)
    assert totals == [PRODUCT, 2 * PRODUCT]


@pytest.mark.parametrize("iterative", [False, True])
def test_a_compiled_method_is_compiled_before_it_is_measured(digits_images: FamilyImages, iterative: bool) -> None:
    compilations: list[int] = []

    def backend(graph: Any, _: object) -> Any:
        compilations.append(1)
        return graph.forward

    torch._dynamo.reset()
    method = of_kind(iterative=iterative, multiply=staticmethod(torch.compile(torch.matmul, backend=backend)))
    said: list[str] = []
    found = warm_up(method, digits_images, 0, said.append)
    compiled = len(compilations)
    assert compiled > 0
    if iterative:  # its only fit has to be the one that compiles
        assert found == UNKNOWN
        assert "FLOPs are not counted (RuntimeError: Detected recompile" in said[0]
    else:
        assert [s.fit for s in found.snapshots] == [PRODUCT, 2 * PRODUCT]
        assert not said
    next(method.fit(digits_images.group("unseen", 0, 0).fit))
    assert len(compilations) == compiled


def test_a_count_that_fails_fails_nothing(digits_images: FamilyImages) -> None:
    def unbearable(a: Tensor, b: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("no modes here\nplease")
        return torch.matmul(a, b)

    said: list[str] = []
    assert warm_up(of_kind(multiply=staticmethod(unbearable)), digits_images, 0, said.append) == UNKNOWN
    assert said == ["FLOPs are not counted (NotImplementedError: no modes here)"]


def test_what_is_recorded_is_not_counted(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="records a CUDA graph"):
        counted_on(group, of_kind())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_steps_of_a_cuda_graph_are_not_counted_and_warm_up_all_the_same(digits: Source) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    images = FamilyImages(FAMILIES["digits"], digits, device)
    said: list[str] = []
    for loop in ("graph", "device"):
        method = registry.find("adam")(DIGITS, 6, epochs=(1,), loop=loop)  # type: ignore[call-arg]
        found = warm_up(method, images, 0, said.append)
        assert (found == UNKNOWN) == (loop == "graph")
        (snapshot,) = method.fit(images.group("unseen", 0, 0).fit)
        assert snapshot.classifier(images.group("unseen", 0, 0).test.images).isfinite().all()
    assert len(said) == 1
    assert "records a CUDA graph" in said[0]
    assert found.snapshots[0].test == sum(CONVOLUTIONS) + HEAD


def test_halves_of_other_classes_do_not_stand_for_those_measured(digits_images: FamilyImages) -> None:
    halves = FamilyImages.__new__(FamilyImages)
    halves.__dict__.update(digits_images.__dict__, family=replace(digits_images.family, images=0, ways=4))
    measured = halves.group("unseen", 0, 0)
    assert warm_up(of_kind(), halves, 0, print).images == len(measured.fit)


def test_nothing_is_known_of_what_was_not_counted() -> None:
    snapshot = Snapshot(lambda images: images, "", 3)
    assert all(math.isnan(flops) for flops in UNKNOWN.of(snapshot, 0))
    before_training = FlopCount(100, (SnapshotFlops("start", 0.0, 5.0, 1.0),))
    assert all(math.isnan(flops) for flops in before_training.of(snapshot, 100))


def test_counting_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from pudnet_bench.harness.measuring.flops import counted\n"
        "a = torch.ones(10, 10, requires_grad=True)\n"
        "products = ((a @ a).sum().backward() for _ in range(1))\n"
        "assert [flops for _, flops in counted(products)] == [6000], 'forward, and two products backward'\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
