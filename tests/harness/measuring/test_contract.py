from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pudnet_bench.harness.measuring.contract import (
    fitting,
    repeated_name,
    unstorable,
    value_counts,
    wrong_shape,
    wrong_values,
)
from pudnet_bench.methods.base import Dataset, Method, Snapshot

VALUES = st.sampled_from((0.0, 1.0, -2.5, math.nan, math.inf, -math.inf))
LOGITS = st.integers(1, 3).flatmap(
    lambda classes: st.lists(st.lists(VALUES, min_size=classes, max_size=classes), min_size=1, max_size=6)
)


@given(rows=LOGITS, parts=st.integers(1, 3))
def test_values_are_judged_alike_whole_and_in_batches(rows: list[list[float]], parts: int) -> None:
    logits, size = torch.tensor(rows), (len(rows), len(rows[0]))
    counts = torch.stack([value_counts(part) for part in logits.split(-(-len(rows) // parts))]).sum(0).tolist()
    said = wrong_values(counts, *size)
    not_finite = sum(not math.isfinite(value) for row in rows for value in row)
    if not_finite:
        assert said.startswith(f"{not_finite} of {size[0] * size[1]} logits are not finite")
    elif size[1] > 1 and all(len(set(row)) == 1 for row in rows):
        assert said.startswith(f"each of {size[0]} images has equal logits for all {size[1]} classes")
    else:
        assert said == ""


def test_only_tensors_of_the_right_shape_are_logits() -> None:
    assert wrong_shape(torch.zeros(5, 2), 5, 2) == ""
    assert "logits of shape (5,) for 5 images of 2 classes; it must be (5, 2)" in wrong_shape(torch.zeros(5), 5, 2)
    assert "a classifier returned ndarray" in wrong_shape(torch.zeros(5, 2).numpy(), 5, 2)


@pytest.mark.cuda
def test_values_are_counted_without_waiting_for_the_device(cuda: torch.device) -> None:
    logits = torch.randn(100, 5, device=cuda)
    value_counts(logits)  # what torch does only once
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts = value_counts(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert counts.device.type == "cuda"
    assert wrong_values(counts.tolist(), 100, 5) == ""


@given(st.lists(st.sampled_from(("", "1 epochs", "2 epochs")), max_size=4))
def test_names_may_not_repeat(names: list[str]) -> None:
    assert bool(repeated_name(names)) == (len(set(names)) < len(names))


def test_what_cannot_be_stored() -> None:
    flat = torch.arange(6.0)
    assert unstorable({}) == ""
    assert unstorable({"a": flat[:3], "b": flat[3:], "none": flat[:0], "none too": flat[:0]}) == ""
    assert unstorable({"a": flat.view(2, 3), "b": flat.view(2, 3).T}) == ""  # the second is copied before it is stored
    assert unstorable({"a": flat[:4], "b": flat[2:5], "c": flat[5:]}).endswith(
        "share memory, 'a' and 'b'; leave one out, or clone it"
    )
    assert "holds float under 'a'" in unstorable({"a": 1.0})
    assert "holds Tensor under 3" in unstorable({3: flat})


def test_what_safetensors_refuses_is_what_is_refused() -> None:
    import safetensors.torch

    flat = torch.arange(6.0)
    for state in ({"a": flat, "b": flat}, {"a": flat[:4], "b": flat[2:]}):
        with pytest.raises(RuntimeError, match="share memory"):
            safetensors.torch.save(state)
        assert unstorable(state)
    safetensors.torch.save({"a": flat[:3], "b": flat[3:]})


class Slow(Method):
    """Its `fit` is no generator, and notes that it was called."""

    name, called = "slow", False

    def __init__(self) -> None: ...

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.called = True
        return iter([Snapshot(lambda images: images)])


def test_a_fit_begins_when_its_first_snapshot_is_asked_for() -> None:
    method, nothing = Slow(), Dataset(Tensor(), Tensor(), 2)
    snapshots = fitting(method, nothing)
    assert not method.called
    assert isinstance(next(snapshots), Snapshot)
    assert method.called
