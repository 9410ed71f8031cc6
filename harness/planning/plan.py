"""From a suite and a profile to cells: the units of work, of caching and of scheduling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.code_digest import code_digest
from pudnet_bench.harness.training.artifacts import ArtifactSpec
from pudnet_bench.harness.training.meta_train import Training
from pudnet_bench.methods import registry, targets
from pudnet_bench.methods.base import Budget, Method, MethodError, TargetSpec
from pudnet_bench.suites.declaration import Profile, Suite, Variant, pick, scaled
from pudnet_bench.suites.families import FAMILIES, family, family_of_folder
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.groups import CLASS_SPLIT_SEED, QUERY_IMAGES
from pudnet_bench.suites.sources.loading import Source


@dataclass(frozen=True)
class Choice:
    """What the person asked for beside suite and profile; None keeps the suite's or profile's own."""

    methods: tuple[str, ...] | None = None
    method_files: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    groups: int | None = None
    episodes: str = "own"
    weights: Path | None = None
    training_groups: tuple[int, ...] = ()
    groups_per_step: int = 1
    clock: str = "harness"


@dataclass(frozen=True)
class Cell:
    """One method variant on one family and target with one seed: ``groups`` unseen groups to measure.

    ``trained_on`` and ``training_source`` are the family and its source that the method meta-trains on. ``training`` says
    how; with milestones, ``training_groups`` is the one whose state is measured here. ``keeps_parameters`` asks for the
    trained networks themselves. ``base`` is the cell of the method that this one builds on.
    """

    suite: str
    variant: Variant
    method: type[Method]
    options: Mapping[str, Any]
    family: Family
    source: Source
    trained_on: Family
    training_source: Source
    target: TargetSpec
    groups: int
    training: Training
    precision: str
    device_type: str
    code: str
    training_groups: int = 0
    keeps_parameters: bool = False
    base: Cell | None = None

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.variant.name} · {self.family.name} · {self.target.name}"

    def make_method(self) -> Method:
        """A fresh instance. Raises MethodError when the class does not take its options."""
        try:
            return self.method(self.target, self.trained_on.training_classes, **self.options)
        except TypeError as error:
            raise MethodError(
                f"method '{self.variant.name}' does not take the options {dict(self.options)}: {error}"
            ) from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that shapes what this cell's method learns before it meets an unseen group."""
        return {
            "method": self.method.name,
            "code": self.code,
            "options": dict(self.options),
            "family_name": self.trained_on.name,
            "family": asdict(self.trained_on),
            "class_split_seed": CLASS_SPLIT_SEED,
            "source": self.training_source.fingerprint,
            "target": self.target.name,
            "target_options": list(self.target.options),
            "image_shape": list(self.target.image_shape),
            "query_images": QUERY_IMAGES,
            "seed": self.seed,
            "budget": asdict(self.training.budget),
            "validation_groups": self.training.validation_groups,
            "episodes": self.training.episodes,
            "training_groups": self.training_groups,
            "precision": self.precision,
            "device_type": self.device_type,
            "base": (self.base.artifact.key if self.base.artifact else self.base.key) if self.base else "",
        }

    @cached_property
    def artifact(self) -> ArtifactSpec | None:
        """The meta-training this cell needs, None for a method without any."""
        return ArtifactSpec(self.identity) if self.method.meta_trains() else None

    def artifact_after(self, groups: int) -> ArtifactSpec:
        """The artifact of the same meta-training at another milestone."""
        return ArtifactSpec({**self.identity, "training_groups": groups})

    @property
    def training_key(self) -> str:
        """Names the meta-training itself, whose milestones are several artifacts; "" without any."""
        return self.artifact_after(0).key if self.artifact else ""

    @cached_property
    def key(self) -> str:
        """The cell's name on disk. The number of groups is not part of it: asking for more goes on where it was."""
        identity = dict(self.identity)
        if self.artifact is None:
            for unused in ("budget", "validation_groups", "query_images", "episodes", "training_groups"):
                del identity[unused]
        if self.family != self.trained_on:
            identity |= {"measured_family": asdict(self.family), "measured_source": self.source.fingerprint}
        digest = sha256(json.dumps([self.variant.name, identity], sort_keys=True).encode()).hexdigest()
        return f"{self.variant.name}-{self.family.name}-{self.target.name}-s{self.seed}-{digest[:10]}"


@dataclass(frozen=True)
class Plan:
    """A suite's cells, in the order in which they run, and what is drawn of them (``Suite.figure``)."""

    suite: Suite
    profile: Profile
    families: tuple[Family, ...]
    variants: tuple[Variant, ...]
    targets: tuple[str, ...]
    cells: tuple[Cell, ...]
    figure: str

    @cached_property
    def artifacts(self) -> dict[str, ArtifactSpec]:
        """The distinct meta-trainings behind the cells, by key."""
        bases = [cell.base for cell in self.cells if cell.base]
        return {cell.artifact.key: cell.artifact for cell in [*self.cells, *bases] if cell.artifact}


def make_plan(
    suite: Suite,
    profile: Profile,
    choice: Choice,
    compute: Compute,
    load_source: Callable[[str, int | None], Source],
    folders: Sequence[str] = (),
) -> Plan:
    """The cells of ``suite`` at the scale of ``profile``. Loads the sources: their content is part of a cell's key.

    ``load_source(name, size)`` loads one; ``folders`` names the user's own. Raises SuiteError, FamilyError,
    UnknownMethodError, MethodError and SourceError.
    """
    base_variants, classes = _variants(suite, choice)
    names = choice.families or (suite.embedded if profile.embedded else suite.families)
    target_names = choice.targets or suite.targets
    for name in target_names:
        pick("target", name, targets.TARGETS)
    weights_sha256 = _checksum(choice.weights) if choice.weights else ""
    families = [_family(name, folders, load_source) for name in names]
    cells = []
    for fam in families:
        source = load_source(fam.source, fam.image_size)
        shape: tuple[int, int, int] = tuple(source.images.shape[1:])
        trained_on = family(fam.trained_on) if fam.trained_on else fam
        training_source = load_source(trained_on.source, trained_on.image_size)
        for target in target_names:
            counts = profile.for_target(target)
            longest = _meta_groups(counts, trained_on)
            lengths = tuple(sorted(choice.training_groups)) or scaled(suite.milestones, longest)
            # One length makes rows of their own name; several, or a suite about lengths, rows for each.
            ladder = lengths if suite.milestones or len(lengths) > 1 else ()
            most = lengths[-1] if lengths else longest
            budget = Budget(most, counts.check_every, counts.patience, choice.groups_per_step)
            validation_groups = 0 if lengths else counts.validation_groups
            for seed in choice.seeds or profile.seeds:
                for variant in _by_clock(_at_milestones(base_variants, classes, ladder), classes, choice.clock):
                    method = classes[variant.parent or variant.name]
                    if method.meta_trains() and not trained_on.training_classes:
                        raise FamilyError(
                            f"family '{fam.name}' has no training classes, and '{variant.name}' meta-trains; "
                            "choose another family with --families"
                        )
                    options = {**method.paper_options(trained_on.name, target), **dict(variant.options)}
                    if method.takes_weights and choice.weights is not None:
                        options |= {"weights": str(choice.weights), "weights_sha256": weights_sha256}
                    training = Training(seed, budget, validation_groups, ladder, choice.episodes)
                    cell = Cell(
                        suite.name, variant, method, options, fam, source, trained_on, training_source,
                        TargetSpec(target, shape), _groups(suite, profile.name, counts, choice, fam, method), training,
                        compute.precision, compute.device.type, code_digest(method), variant.training_groups,
                        suite.figure == "correlation",
                    )  # fmt: skip
                    cells.append(_with_base(cell))
    order = {variant.name: place for place, variant in enumerate(base_variants)}
    variants = sorted(
        dict.fromkeys(c.variant for c in cells), key=lambda v: (order[v.parent or v.name], v.training_groups)
    )
    figure = "groups" if len(choice.training_groups) > 1 else suite.figure
    return Plan(suite, profile, tuple(families), tuple(variants), tuple(target_names), tuple(cells), figure)


def _groups(suite: Suite, profile: str, counts: Profile, choice: Choice, fam: Family, method: type[Method]) -> int:
    """How many unseen groups a cell measures."""
    if choice.groups:
        return choice.groups
    own = dict(suite.groups).get(profile)
    groups = own or (counts.iterative_groups if method.iterative else counts.groups)
    return min(groups, fam.most_groups or groups)


def _checksum(weights: Path) -> str:
    if not weights.is_file():
        raise MethodError(f"the weights file '{weights}' is not there")
    return sha256(weights.read_bytes()).hexdigest()


def _with_base(cell: Cell) -> Cell:
    """``cell`` with the cell of the method that its own builds on, if it builds on any.

    Among milestones it builds on the last, and so does every milestone of its own: what is learned from then on counts.
    """
    built_on = cell.method.starts_from(cell.options)
    if built_on is None:
        return cell
    name, own = built_on
    method = registry.find(name)
    last = max(cell.training.milestones, default=0) if method.meta_trains() else 0
    base = replace(
        cell,
        variant=Variant(name, name, name),
        method=method,
        options={**method.paper_options(cell.trained_on.name, cell.target.name), **own},
        family=cell.trained_on,
        source=cell.training_source,
        code=code_digest(method),
        training_groups=last,
    )
    return replace(cell, base=_with_base(base))


def _meta_groups(profile: Profile, fam: Family) -> int:
    return fam.meta_groups if profile.max_meta_groups is None else min(profile.max_meta_groups, fam.meta_groups)


def _variants(suite: Suite, choice: Choice) -> tuple[list[Variant], dict[str, type[Method]]]:
    """The rows asked for, and the class of each."""
    own = {variant.name: variant for variant in suite.variants}
    files: dict[str, type[Method]] = {}
    for reference in choice.method_files:
        method = registry.find_in_file(reference)
        taken = method.name in own and own[method.name].method != method.name
        if taken or method.name in files or method.name in registry.entries():
            raise registry.UnknownMethodError(
                f"'{reference}' is named '{method.name}', as another method; give its class another name"
            )
        files[method.name] = method
    names = list(own if choice.methods is None else choice.methods)
    # A suite of the user's may have rows of a file's method; it gets no other then.
    shown = {own[name].method for name in names if name in own}
    names += [name for name in files if name not in names and name not in shown]
    for name in names:
        if name not in own and name not in files:
            registry.check_name(name)
    variants = [own.get(name, Variant(name, name, name)) for name in dict.fromkeys(names)]
    return variants, {v.name: files.get(v.method) or registry.find(v.method) for v in variants}


def _at_milestones(
    variants: list[Variant], classes: dict[str, type[Method]], milestones: tuple[int, ...]
) -> list[Variant]:
    """``variants``, those that meta-train once for each of ``milestones``."""
    expanded = []
    for variant in variants:
        if not milestones or not classes[variant.name].meta_trains():
            expanded.append(variant)
            continue
        expanded += [
            replace(
                variant, name=f"{variant.name}-{groups}-groups", label=f"{variant.label}, {groups:,} groups",
                training_groups=groups, curve_label=variant.label, curve_x=groups, parent=variant.name,
            )
            for groups in milestones
        ]  # fmt: skip
    return expanded


def _by_clock(variants: list[Variant], classes: dict[str, type[Method]], clock: str) -> list[Variant]:
    """``variants``; with the "paper" clock, those that have one in the loop of a plain script, as rows of their own."""
    if clock == "harness":
        return variants
    return [
        replace(
            variant, name=f"{variant.name}-plain-loop", label=f"{variant.label}, plain loop",
            options=(*variant.options, *options.items()), parent=variant.name,
        )
        if (options := classes[variant.parent or variant.name].paper_clock)
        else variant
        for variant in variants
    ]  # fmt: skip


def _family(name: str, folders: Sequence[str], load_source: Callable[[str, int | None], Source]) -> Family:
    if name in FAMILIES or name not in folders:
        return family(name)
    source = load_source(name, None)
    return family_of_folder(name, dict(zip(source.class_names, np.bincount(source.labels).tolist(), strict=True)))
