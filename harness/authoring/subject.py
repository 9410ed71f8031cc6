"""The method under test in a conformance check, with what several checks need computed once."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pudnet_bench.harness.measuring.contract import fitting, wrong_shape
from pudnet_bench.harness.measuring.device import Precision
from pudnet_bench.harness.measuring.isolation import isolated
from pudnet_bench.methods import registry, targets
from pudnet_bench.methods.base import Budget, Dataset, Method, MethodError, Session, TargetSpec
from pudnet_bench.methods.control import Control
from pudnet_bench.suites.declaration import pick
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.sources.loading import load

SEED = 1
GROUPS, CHECK_EVERY, VALIDATION_GROUPS = 4, 2, 1  # enough for two validations and two milestones


@dataclass(frozen=True)
class Subject:
    """A method class with its options, a target, and the images of a family on the CPU."""

    method: type[Method]
    target: str
    images: FamilyImages
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = Precision.FP32

    def make(self) -> Method:
        """Return a new instance, initialised from torch's global generator. Raises whatever its `__init__` raises."""
        spec = TargetSpec(self.target, self.images.image_shape)
        method = self.method(spec, self.images.family.training_classes, **self.options)
        if self.precision == "bf16":
            method.autocast = partial(torch.autocast, self.images.device.type, torch.bfloat16)
        method.to(self.images.device)
        return method

    @cached_property
    def base(self) -> Subject | None:
        """The subject that this one builds on (`Method.starts_from`)."""
        base = self.method.starts_from(self.options)
        return None if base is None else replace(self, method=registry.find(base[0]), options=base[1])

    @property
    def meta_trains(self) -> bool:
        return self.method.meta_trains()

    def ready(self) -> Method:
        """Return an instance that can fit, restored from the state of a short meta-training as the harness does it."""
        state = self.stored_state if self.meta_trains else None
        torch.manual_seed(SEED + 1)  # what is missing from the state must not agree by chance
        method = self.make()
        if state is not None:
            method.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        elif self.base is not None:
            method.start_from(self.base.ready())
        if isinstance(method, Control):
            method.observe(self.images.group("training", SEED, n).fit for n in range(method.observed_groups))
            method.show_other(self.images.group("unseen", SEED, 1).fit)
        return method

    def train(self, session: Session, validation_groups: int = VALIDATION_GROUPS) -> Method:
        """Return an instance meta-trained from the beginning, or from `session.checkpoint`."""
        base = self.base.ready() if self.base is not None else None
        torch.manual_seed(SEED)
        method = self.make()
        if base is not None:
            method.start_from(base)
        method.meta_train(TrainingStream(self.images, SEED, validation_groups), session)
        return method

    @cached_property
    def trained(self) -> tuple[Method, int]:
        """An instance meta-trained for a few groups, and how often it called `session.checkpoint_due`."""
        calls = 0

        def checkpoint_due() -> bool:
            nonlocal calls
            calls += 1
            return False

        return self.train(short_session(checkpoint_due=checkpoint_due)), calls

    @cached_property
    def trained_on_all(self) -> Method:
        """An instance meta-trained for a few groups without validation, so that the last state counts."""
        return self.train(short_session(), validation_groups=0)

    @cached_property
    def stored_state(self) -> dict[str, Tensor]:
        """The state after meta-training, through the file format of artifacts."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.trained[0].state_dict().items()}
        return safetensors.torch.load(safetensors.torch.save(state))

    @property
    def datasets(self) -> tuple[Dataset, Dataset]:
        """Fit and test images of an unseen group, in new tensors each time, since a method may have changed the last."""
        group = self.images.group("unseen", SEED, 0)
        return group.fit, group.test

    def dataset(self, ways: int, images: int) -> tuple[Dataset, Dataset]:
        """Return fit and test images of a group of another size, of the more numerous training classes."""
        other = copy(self.images)
        other.family = replace(other.family, ways=ways, images=images, test_images=images)
        group = other.group("training", SEED, 0)
        return group.fit, group.test


def short_session(**fields: Any) -> Session:
    """Return a session of a few groups, whose patience never runs out."""
    return Session(Budget(GROUPS, CHECK_EVERY, patience=GROUPS), seed=SEED, **fields)


def logits_of(method: Method, fit: Dataset, test: Dataset) -> list[Tensor]:
    """Return each snapshot's logits [n, n_classes] on all of `test`, taken while the snapshot is valid.

    Raises MethodError for what is no snapshot and for logits that are no tensor.
    """
    torch.manual_seed(SEED)
    found = []
    for snapshot in fitting(method, fit):
        logits: object = snapshot.classifier(test.images)
        if not isinstance(logits, Tensor):
            raise MethodError(wrong_shape(logits, len(test), test.n_classes))
        found.append(logits.detach().clone())
    return found


def subject_of(method: type[Method], target: str, options: Mapping[str, Any], cache_dir: Path) -> Subject:
    """Return `method` on the embedded digits, decoded into `cache_dir`.

    Raises SuiteError for an unknown target, MethodError if the method refuses the target or the options.
    """
    pick("target", target, targets.TARGETS)
    family = FAMILIES["digits"]
    source = load(family.source, data_dir=None, cache_dir=cache_dir)
    subject = Subject(method, target, FamilyImages(family, source, torch.device("cpu")), options)
    try:
        with isolated(method):
            subject.make()
    except MethodError:
        raise
    except (Exception, SystemExit) as error:  # any other is reported by the first check
        if isinstance(error, TypeError) and options:
            raise MethodError(f"method '{method.name}' does not take the options {dict(options)}: {error}") from error
    return subject
