"""Rules of the contract that `check` tests beforehand and `run` enforces while it measures.

Each rule returns the fault and its remedy as the end of a sentence about the method, or "" where the method keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pudnet_bench.methods.base import Dataset, Method, MethodError, Snapshot


def fitting(method: Method, dataset: Dataset) -> Iterator[Snapshot]:
    """Yield the snapshots of one fit, which begins with the first `next`.

    Also that of a `fit` that is no generator, and works before it returns its iterator. Raises MethodError where that is
    none, or has something else than snapshots.
    """
    found: object = method.fit(dataset)
    if not isinstance(found, Iterable):
        raise MethodError(f"method '{method.name}': {_not_iterable(found)}")
    for snapshot in found:
        if not isinstance(snapshot, Snapshot):
            raise MethodError(f"method '{method.name}': {_not_a_snapshot(snapshot)}")
        yield snapshot


def _not_iterable(found: object) -> str:
    """What `fit` returns that has no snapshots in it."""
    what = "nothing" if found is None else f"a {type(found).__name__}"
    return f"fit returned {what}; it must yield each snapshot, as in `yield Snapshot(classifier)`"


def _not_a_snapshot(found: object) -> str:
    """Whatever else `fit` yields."""
    return f"fit yields {type(found).__name__}; it must yield methods.base.Snapshot"


def repeated_name(names: Sequence[str]) -> str:
    """A name that several snapshots of one fit share: their rows could not be told apart."""
    repeated = min((name for name in set(names) if names.count(name) > 1), default=None)
    if repeated is None:
        return ""
    return f"{names.count(repeated)} snapshots are named '{repeated}'; give each a name of its own"


def wrong_shape(logits: object, images: int, n_classes: int) -> str:
    """Anything but a tensor of logits [images, n_classes]."""
    expected = images, n_classes
    if not isinstance(logits, Tensor):
        return f"a classifier returned {type(logits).__name__}; it must return a tensor of shape {expected}"
    if tuple(logits.shape) == expected:
        return ""
    return f"logits of shape {tuple(logits.shape)} for {images} images of {n_classes} classes; it must be {expected}"


def value_counts(logits: Tensor) -> Tensor:
    """Numbers of values that are not finite, and of values unlike their image's first: int64 [2] on the device of `logits`.

    Those of several batches add up. Nothing waits for the device.
    """
    return torch.stack(((~logits.isfinite()).sum(), (logits != logits[:, :1]).sum()))


def wrong_values(counts: Sequence[int], images: int, n_classes: int) -> str:
    """Logits that no accuracy can be computed from, by their `value_counts` over all `images` of a group.

    Those of one image may be equal for all classes, or be for a single class: only if no image's differ are they no answer.
    """
    not_finite, unlike_first = counts
    if not_finite:
        return f"{not_finite} of {images * n_classes} logits are not finite; each must be a finite number"
    if n_classes > 1 and not unlike_first:
        return f"each of {images} images has equal logits for all {n_classes} classes; they must depend on the image"
    return ""


def unstorable(state: Mapping[Any, Any], source: str = "state_dict holds") -> str:
    """The first item of a state that is no tensor under a name, or two tensors in the same memory."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return f"{source} {type(value).__name__} under {name!r}; tensors only, under names"
    # What is not contiguous is copied before it is stored.
    stored = {name: value for name, value in state.items() if value.is_contiguous() and value.numel()}
    places = sorted((str(value.device), value.data_ptr(), value.nbytes, name) for name, value in stored.items())
    for (device, start, size, name), (other_device, other_start, _, other) in pairwise(places):
        if device == other_device and other_start < start + size:
            return f"{source} tensors that share memory, '{name}' and '{other}'; leave one out, or clone it"
    return ""
