"""Training from recorded steps is training step by step. On a CPU a recording is the step itself, so all but the capture runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pudnet_bench.methods import graphs
from pudnet_bench.methods.base import Dataset, MethodError, TargetSpec
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.scratch import Adam, Scratch

TARGET = TargetSpec("convnet3", (1, 8, 8), (("width", 8),))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps repeat themselves; returns a list that grows by one with each recording."""
    recordings: list[int] = []

    def record(step: Any, optimizer: torch.optim.Optimizer) -> Any:
        for _ in range(graphs.WARM_UPS):  # as a capture does: parameters and moments are no longer those of the start
            step()
        recordings.append(1)
        return step

    monkeypatch.setattr(graphs, "recorded", record)
    return recordings


def trained(method: Scratch, dataset: Dataset, seed: int) -> list[dict[str, Tensor]]:
    """The state of the target after each snapshot, and the logits that it gave."""
    torch.manual_seed(seed)
    found = []
    for snapshot in method.fit(dataset):
        assert snapshot.network is not None
        state = {name: value.clone() for name, value in snapshot.network.state_dict().items()}
        found.append({**state, "logits": snapshot.classifier(dataset.images)})
    return found


def same(one: list[dict[str, Tensor]], two: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("method", [Adam, GC])
@pytest.mark.parametrize("per_class", [4, 16, 20, 48])  # less than a batch, one, one and a part, three
def test_fit_after_fit_is_the_plain_training_bit_for_bit(
    method: type[Scratch], per_class: int, eager, make_dataset
) -> None:
    plain, recorded = method(TARGET, 0, epochs=(1, 3)), method(TARGET, 0, epochs=(1, 3), loop="graph")
    for seed in range(3):
        dataset = make_dataset(seed, (1, 8, 8), per_class=per_class)
        assert same(trained(recorded, dataset, seed), trained(plain, dataset, seed))
    assert len(eager) == (2 if per_class == 20 else 1)


def test_a_last_batch_of_one_image_is_skipped_as_in_the_plain_training(eager, make_dataset) -> None:
    whole = make_dataset(0, (1, 8, 8), per_class=17)
    dataset = Dataset(whole.images[:33], whole.labels[:33], 2)
    assert same(
        trained(Adam(TARGET, 0, epochs=(2,), loop="graph"), dataset, 0),
        trained(Adam(TARGET, 0, epochs=(2,)), dataset, 0),
    )
    assert len(eager) == 1


def test_another_shape_is_recorded_anew_and_draws_are_those_of_the_seed(eager, make_dataset) -> None:
    method = Adam(TARGET, 0, epochs=(1,), loop="graph", initial_seed=1)
    small, large = make_dataset(0, (1, 8, 8), per_class=16), make_dataset(0, (1, 8, 8), ways=3, per_class=16)
    first = trained(method, small, 0)
    assert len(eager) == 1
    trained(method, large, 0)
    assert len(eager) == 3
    assert same(trained(method, small, 0), first)
    assert not same(trained(method, small, 1), first)


def test_the_precision_is_the_harnesss(eager, make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8))
    states = []
    for loop in ("device", "graph"):
        method = Adam(TARGET, 0, epochs=(2,), loop=loop)
        method.autocast = partial(torch.autocast, "cpu", torch.bfloat16)
        states.append(trained(method, dataset, 0))
    assert same(*states)
    assert not same(states[0], trained(Adam(TARGET, 0, epochs=(2,)), dataset, 0))


def test_what_cannot_be_recorded_is_refused(make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8))
    with pytest.raises(MethodError, match="needs a CUDA device, and this is a CPU; use loop='device'"):
        next(Adam(TARGET, 0, loop="graph").fit(dataset))

    class Momentum(Adam):
        def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    class Unfused(Adam):
        def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters)

    for method, named in ((Momentum, "SGD"), (Unfused, "Adam")):
        with pytest.raises(MethodError, match=f"torch's Adam with fused=True, not of {named}"):
            next(method(TARGET, 0, loop="graph").fit(dataset))


def on(device: torch.device, dataset: Dataset) -> Dataset:
    return Dataset(dataset.images.to(device), dataset.labels.to(device), dataset.n_classes)


@pytest.mark.cuda
@pytest.mark.parametrize("method", [Adam, GC])
@pytest.mark.parametrize("target", [TARGET, TargetSpec("resnet18", (1, 8, 8))], ids=["convnet3", "resnet18"])
def test_graphs_train_as_the_loop_does(method: type[Scratch], target: TargetSpec, cuda, make_dataset) -> None:
    plain, recorded = method(target, 0, epochs=(1, 2)), method(target, 0, epochs=(1, 2), loop="graph")
    for seed in range(3):  # a whole batch and a part; the second and third fit replay what the first recorded
        dataset = on(cuda, make_dataset(seed, (1, 8, 8), per_class=24))
        for one, two in zip(trained(recorded, dataset, seed), trained(plain, dataset, seed), strict=True):
            for name, value in two.items():
                # Sums in another order, of which Adam makes more where a gradient is next to nothing: the mean tells.
                apart = (one[name].double() - value.double()).abs().mean()
                assert float(apart) <= 1e-3 * max(1.0, float(value.double().abs().mean())), (seed, name)


@pytest.mark.cuda
def test_replayed_work_is_on_the_current_stream_and_draws_nothing(cuda, make_dataset) -> None:
    dataset = on(cuda, make_dataset(0, (1, 8, 8), per_class=24))
    method = Adam(TARGET, 0, epochs=(1,), loop="graph")
    trained(method, dataset, 0)
    draws = []
    for loop in (method, Adam(TARGET, 0, epochs=(1,))):
        trained(loop, dataset, 0)
        draws.append(torch.rand(4, device=cuda))
    assert torch.equal(*draws)
    side = torch.cuda.Stream(cuda)
    with torch.cuda.stream(side):
        aside = trained(method, dataset, 0)
    side.synchronize()
    torch.testing.assert_close(aside[0]["logits"], trained(method, dataset, 0)[0]["logits"], rtol=1e-2, atol=1e-2)


@pytest.mark.cuda
def test_bfloat16_is_recorded(cuda, make_dataset) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this CUDA device has no instructions for bfloat16")
    dataset = on(cuda, make_dataset(0, (1, 8, 8), per_class=24))
    accuracies = []
    for loop in ("device", "graph"):
        method = Adam(TARGET, 0, epochs=(6,), loop=loop)
        method.autocast = partial(torch.autocast, "cuda", torch.bfloat16)
        logits = trained(method, dataset, 0)[0]["logits"]
        accuracies.append(float((logits.argmax(-1) == dataset.labels).float().mean()))
    assert min(accuracies) > 0.95
