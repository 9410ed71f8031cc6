"""Estimates against the work itself, and what makes them long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from pudnet_bench.harness.console.progress import span
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning import estimate as estimates
from pudnet_bench.harness.planning.estimate import estimate, training_estimate
from pudnet_bench.harness.planning.plan import Cell, Plan
from pudnet_bench.methods.base import Budget, ImagePasses, Session, TargetSpec
from pudnet_bench.suites.groups import FamilyImages, TrainingStream


@pytest.fixture
def processor_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time that other processes do not lengthen, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    estimates.image_seconds.cache_clear()
    yield
    estimates.image_seconds.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture
def cell_of(plan_of: Callable[..., Plan]) -> Callable[..., Cell]:
    def make(method: str, **choice: object) -> Cell:
        (cell,) = plan_of(methods=(method,), **choice).cells
        return cell

    return make


@pytest.mark.usefixtures("processor_time")
def test_about_as_long_as_it_takes(cell_of: Callable[..., Cell], digits_images: FamilyImages, compute: Compute) -> None:
    cell = replace(cell_of("adam", groups=1), options={"epochs": (5,)})
    method = cell.make_method()
    list(method.fit(digits_images.group("unseen", 0, 0).fit))  # what torch does only once
    began = time.process_time()
    list(method.fit(digits_images.group("unseen", 0, 1).fit))
    taken = time.process_time() - began
    assert taken / 3 < estimate(cell, compute).seconds < 3 * taken
    for name in ("protonet", "musml", "pudnet"):
        cell = cell_of(name, training_groups=(8,))
        cell.make_method().meta_train(TrainingStream(digits_images, 0), Session(Budget(1, 100, 1)))
        began = time.process_time()
        cell.make_method().meta_train(TrainingStream(digits_images, 0), Session(Budget(8, 100, 1)))
        taken = time.process_time() - began
        assert taken / 4 < training_estimate(cell, compute).seconds < 4 * taken, name


def test_what_makes_them_long(cell_of: Callable[..., Cell], compute: Compute) -> None:
    adam, protonet, musml = (cell_of(name) for name in ("adam", "protonet", "musml"))
    assert estimate(adam, compute).seconds / adam.groups > 10 * estimate(protonet, compute).seconds / protonet.groups
    assert estimate(replace(adam, groups=2 * adam.groups), compute).seconds == pytest.approx(
        2 * estimate(adam, compute).seconds
    )
    assert training_estimate(musml, compute).seconds > 4 * training_estimate(protonet, compute).seconds
    longer = replace(protonet, training=replace(protonet.training, budget=Budget(2_000, 20, 3)))
    about, sooner = training_estimate(longer, compute), training_estimate(protonet, compute)
    assert about.least < 2 * sooner.seconds < about.seconds / 10
    fixed = training_estimate(cell_of("protonet", training_groups=(100,)), compute)
    assert fixed.least == fixed.seconds


def test_each_method_states_how_many_images_pass_through_the_target(cell_of: Callable[..., Cell]) -> None:
    methods = {name: cell_of(name).make_method() for name in ("adam", "musml", "pudnet")}
    fits = {name: method.fit_passes(images=200, support=20) for name, method in methods.items()}
    assert fits == {
        "adam": ImagePasses(trained=200 * 50),
        "musml": ImagePasses(trained=3 * 5 * 20, predicted=3 * 200),
        "pudnet": ImagePasses(predicted=20),
    }
    steps = {name: method.meta_training_images(support=20, episode=120) for name, method in methods.items()}
    assert steps == {"adam": 120, "musml": 3 * (5 * 20 + 120), "pudnet": 120}


def test_of_large_images_few_are_timed_at_once(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 32 images of 800x600 pixels takes 8 GB, which a plan must not."""
    monkeypatch.setattr(estimates, "PROBE_SECONDS", 0)
    monkeypatch.setattr(estimates, "PREDICTED_PIXELS", 1)
    seen = set()

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.add(len(inputs[0]))

    with torch.nn.modules.module.register_module_forward_pre_hook(note):
        for side, pixels, expected in ((16, 1_000_000, 32), (64, 4 * 64**2, 4), (64, 1, 1)):
            monkeypatch.setattr(estimates, "PROBE_PIXELS", pixels)
            seen.clear()
            estimates.image_seconds.__wrapped__(TargetSpec("convnet3", (3, side, side)), compute)
            assert max(seen) == expected


def test_spans_are_as_a_person_says_them() -> None:
    assert [span(20, 20.4), span(20, 40), span(600, 1800), span(60, 1800), span(7200, 400_000)] == [
        "20 s", "20 to 40 s", "10 to 30 min", "60 s to 30 min", "2.0 h to 5 days",
    ]  # fmt: skip
