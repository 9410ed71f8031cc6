"""Plan a run: from a request to cells, the units of work, caching and scheduling."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.code_digest import (
    HELD_OUT_IMAGES,
    MIXED_IMAGES,
    OTHER_GROUPS,
    UNSEEN_GROUPS,
    code_digest,
    module_digest,
)
from pudnet_bench.harness.planning.request import ClockRule, Episodes, RunRequest
from pudnet_bench.harness.training.artifacts import ArtifactSpec, ArtifactStore
from pudnet_bench.harness.training.meta_train import Training
from pudnet_bench.methods import registry, targets
from pudnet_bench.methods.base import Budget, Method, MethodError, TargetSpec
from pudnet_bench.methods.control import Control
from pudnet_bench.suites.catalog import CONTROLS, PROFILES, SUITES
from pudnet_bench.suites.declaration import Profile, Suite, SuiteError, Variant, pick, scaled
from pudnet_bench.suites.families import FAMILIES, family, family_of_folder, measured_for
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.groups import QUERY_IMAGES
from pudnet_bench.suites.held_out_family import HeldOutFamily
from pudnet_bench.suites.learn2learn_episodes import learn2learn_data
from pudnet_bench.suites.mixed_images import JoinedSource, in_colour
from pudnet_bench.suites.mixtures import MixedFamily, members, mixture, names_mixture
from pudnet_bench.suites.sources.loading import Source, load

OTHER_SOURCE = ("kernels", "other-source")  # the option of a control that only a family of several sources can have
LoadSource = Callable[[str, int | None], Source]  # by name and the side to resize images to (None: the source's own)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method variant on one family and target, with one class split and seed: the unit of work, caching and scheduling.

    Attributes:
        split: Seed of the class split.
        trained_on: The family that the method meta-trains on, with its images in `training_source`.
        training: How it meta-trains; with milestones, `training_groups` is the one whose state is measured here.
        keeps_parameters: Whether the trained networks themselves are stored.
        base: The cell of the method that this one builds on.
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
    split: int
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
        """For logs and progress."""
        return f"{self.variant.name} · {self.family.name} · {self.target.name}"

    def make_method(self) -> Method:
        """A new instance. Raises MethodError when the class does not take its options."""
        try:
            return self.method(self.target, self.trained_on.training_classes, **self.options)
        except TypeError as error:
            options = dict(self.options)
            raise MethodError(f"method '{self.variant.name}' does not take the options {options}: {error}") from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that shapes what the method learns before it meets an unseen group."""
        base = (self.base.artifact.key if self.base.artifact else self.base.key) if self.base else ""
        # The parts of a mixture may be held-out families.
        kinds = {MIXED_IMAGES: MixedFamily, HELD_OUT_IMAGES: MixedFamily | HeldOutFamily}
        drawing = [module_digest(module) for module, kind in kinds.items() if isinstance(self.trained_on, kind)]
        return {
            **({"drawing": drawing} if drawing else {}),
            "method": self.method.name, "code": self.code, "options": dict(self.options),
            "family_name": self.trained_on.name, "family": _fields(self.trained_on),
            "class_split_seed": self.split, "source": self.training_source.fingerprint,
            "target": self.target.name, "target_options": list(self.target.options),
            "image_shape": list(self.target.image_shape), "query_images": QUERY_IMAGES, "seed": self.seed,
            "budget": _fields(self.training.budget), "validation_groups": self.training.validation_groups,
            "episodes": self.training.episodes, "training_groups": self.training_groups,
            "precision": self.precision, "device_type": self.device_type, "base": base,
        }  # fmt: skip

    @cached_property
    def artifact(self) -> ArtifactSpec | None:
        """The meta-training that the cell needs; None for a method without any."""
        return ArtifactSpec(self.identity) if self.method.meta_trains() else None

    def artifact_after(self, groups: int) -> ArtifactSpec:
        """The artifact of the same meta-training at another milestone."""
        return ArtifactSpec({**self.identity, "training_groups": groups})

    @property
    def training_key(self) -> str:
        """Names the meta-training, whose milestones are several artifacts; "" without any."""
        return self.artifact_after(0).key if self.artifact else ""

    @cached_property
    def key(self) -> str:
        """The cell's name on disk. The number of groups is not part of it, so that asking for more resumes the cell."""
        identity = {**self.identity, "unseen_groups": module_digest(UNSEEN_GROUPS)}
        if issubclass(self.method, Control):
            identity["other_groups"] = module_digest(OTHER_GROUPS)
        if self.artifact is None:
            for unused in ("budget", "validation_groups", "query_images", "episodes", "training_groups"):
                del identity[unused]
        if self.family != self.trained_on:
            identity |= {"measured_family": _fields(self.family), "measured_source": self.source.fingerprint}
        digest = sha256(json.dumps([self.variant.name, identity], sort_keys=True).encode()).hexdigest()
        return f"{self.variant.name}-{self.family.name}-{self.target.name}-c{self.split}-s{self.seed}-{digest[:10]}"


@dataclass(frozen=True)
class Plan:
    """A suite's cells, in the order in which they run, and the figure to draw of them (`Suite.figure`)."""

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
        each_cell = (each for cell in self.cells for each in with_bases(cell))
        return {cell.artifact.key: cell.artifact for cell in each_cell if cell.artifact}


@cache
def _fields(value: Family | Budget) -> Mapping[str, Any]:
    """`asdict`, once for the thousands of cells that share a family."""
    return asdict(value)


def with_bases(cell: Cell) -> list[Cell]:
    """`cell` after the cells it builds on, the first to train first."""
    return [*(with_bases(cell.base) if cell.base else ()), cell]


def make_plan(request: RunRequest, compute: Compute, load_source: LoadSource | None = None) -> Plan:
    """The cells that `request` asks for. Loads the sources, whose content is part of a cell's key.

    Args:
        request: Its device and precision are not read: `compute` has them resolved.
        compute: The device that is planned for, which need not be in this machine.
        load_source: Replaces the loading of a source by its name and image size (None: the source's own).

    Raises:
        SuiteError, FamilyError, UnknownMethodError, MethodError, SourceError: The request cannot be met.
    """
    suite = (
        suite_in_file(Path(request.suite)) if request.suite.endswith(".py") else pick("suite", request.suite, SUITES)
    )
    profile = pick("profile", request.profile, PROFILES)
    if load_source is None:
        load_source = partial(_load_source, request.data, request.cache, tuple(request.sources.items()))
    target_names = request.targets or suite.targets
    for name in target_names:
        pick("target", name, targets.TARGETS)
    rows, classes = _variants(suite, request)
    weights = {}
    if (path := request.weights) is not None:
        if not path.is_file():
            raise MethodError(f"the weights file '{path}' does not exist; give another with --weights")
        weights = {"weights": str(path), "weights_sha256": sha256(path.read_bytes()).hexdigest()}
    draft = _Draft(suite, profile, request, compute, rows, classes, weights)
    names = request.families or (suite.embedded if profile.embedded else suite.families)
    families = [pair for name in names for pair in _families(name, request.sources, load_source)]
    cells = [cell for pair in families for cell in draft.cells(*pair, target_names, load_source)]
    order = {variant.name: place for place, variant in enumerate(rows)}
    measured = dict.fromkeys(cell.variant for cell in cells)
    variants = sorted(measured, key=lambda v: (order[v.parent or v.name], v.training_groups))
    figure = "groups" if len(request.training_groups) > 1 else suite.figure
    measured_families = tuple(fam for fam, _ in families)
    plan = Plan(suite, profile, measured_families, tuple(variants), tuple(target_names), tuple(cells), figure)
    has = ArtifactStore(request.cache).has
    if request.episodes == Episodes.LEARN2LEARN and not all(map(has, plan.artifacts.values())):
        learn2learn_data()  # raises here, once, rather than in every training
    return plan


@dataclass(frozen=True)
class _Draft:
    """What all cells of a plan have in common."""

    suite: Suite
    profile: Profile
    request: RunRequest
    compute: Compute
    rows: Sequence[Variant]
    classes: Mapping[str, type[Method]]
    weights: Mapping[str, str]

    def cells(
        self, fam: Family, trained_on: Family, target_names: Sequence[str], load_source: LoadSource
    ) -> Iterator[Cell]:
        """The cells of a family: by target, class split, seed and row."""
        source = load_source(fam.source, fam.image_size)
        if isinstance(trained_on, MixedFamily):
            if self.request.episodes == Episodes.LEARN2LEARN:
                raise FamilyError(
                    f"learn2learn draws no episodes of the mixture '{trained_on.name}'; use --episodes own"
                )
            source = in_colour(source)
            parts = [in_colour(load_source(part.source, part.image_size)) for part in trained_on.parts]
            training_source: Source = JoinedSource.of(trained_on.name, parts)
        else:
            training_source = load_source(trained_on.source, trained_on.image_size)
        for target in target_names:
            training = self.training(target, trained_on)
            variants = list(self.variants(training.milestones))
            for (split, seed), variant in product(self.splits_and_seeds(trained_on), variants):
                method = self.classes[variant.parent or variant.name]
                if OTHER_SOURCE in variant.options and not isinstance(trained_on, MixedFamily):
                    continue
                cell = Cell(
                    suite=self.suite.name, variant=variant, method=method, code=self.code(method),
                    options=self.options(variant, method, trained_on, target), family=fam, source=source,
                    trained_on=trained_on, training_source=training_source,
                    target=TargetSpec(target, tuple(source.images.shape[1:])),
                    groups=self.groups(target, fam, method), split=split, training=replace(training, seed=seed),
                    precision=self.compute.precision, device_type=self.compute.device.type,
                    training_groups=variant.training_groups,
                    keeps_parameters=self.suite.figure == "correlation",
                )  # fmt: skip
                yield self.with_base(cell)

    @cached_property
    def code(self) -> Callable[[type[Method]], str]:
        """`code_digest`, once for all cells of a method: it reads the method's files."""
        return cache(code_digest)

    def with_base(self, cell: Cell) -> Cell:
        """`cell` with its base, if its method builds on another; of a base with milestones it is always the last one."""
        built_on = cell.method.starts_from(cell.options)
        if built_on is None:
            return cell
        name, own = built_on
        method = registry.find(name)
        last = max(cell.training.milestones, default=0) if method.meta_trains() else 0
        base = replace(
            cell, variant=Variant(name, name, name), method=method, code=self.code(method),
            options={**method.paper_options(cell.trained_on.name, cell.target.name), **own},
            family=cell.trained_on, source=cell.training_source, training_groups=last,
        )  # fmt: skip
        return replace(cell, base=self.with_base(base))

    def splits_and_seeds(self, trained_on: Family) -> list[tuple[int, int]]:
        """Each class split with each of its seeds; a family without training classes has only one split."""
        pairs = self.request.splits_and_seeds(self.profile.splits)
        return [pair for pair in pairs if trained_on.training_classes or pair[0] == pairs[0][0]]

    def training(self, target: str, trained_on: Family) -> Training:
        """How methods meta-train for `target`; the seed is set per cell."""
        counts, most = self.profile.for_target(target), trained_on.meta_groups
        if counts.max_meta_groups is not None:
            most = min(counts.max_meta_groups, most)
        lengths = tuple(sorted(self.request.training_groups)) or scaled(self.suite.milestones, most)
        # One length leaves the rows as they are; several, or a suite about lengths, give a row for each.
        milestones = lengths if self.suite.milestones or len(lengths) > 1 else ()
        last = lengths[-1] if lengths else most
        budget = Budget(last, counts.check_every, counts.patience, self.request.groups_per_step)
        return Training(0, budget, 0 if lengths else counts.validation_groups, milestones, self.request.episodes)

    def variants(self, milestones: tuple[int, ...]) -> Iterator[Variant]:
        """The rows: one for each milestone of those that meta-train, and those with a plain loop as the clock asks."""
        for row in self.rows:
            method, variants = self.classes[row.name], [row]
            if milestones and method.meta_trains():
                variants = [
                    replace(
                        row, name=f"{row.name}-{groups}-groups", label=f"{row.label}, {groups:,} groups",
                        training_groups=groups, curve_label=row.label, curve_x=groups, parent=row.name,
                    )
                    for groups in milestones
                ]  # fmt: skip
            elif self.request.clock == ClockRule.PAPER and method.paper_clock:
                options = (*row.options, *method.paper_clock.items())
                name, label = f"{row.name}-plain-loop", f"{row.label}, plain loop"
                variants = [replace(row, name=name, label=label, options=options, parent=row.name)]
            yield from variants

    def options(self, variant: Variant, method: type[Method], trained_on: Family, target: str) -> dict[str, Any]:
        """Keyword arguments of the method. Raises FamilyError where it needs training classes and there are none."""
        if not trained_on.training_classes and method.meta_trains():
            why = f"family '{trained_on.name}' has no training classes, and '{variant.name}' meta-trains"
            raise FamilyError(f"{why}; choose another family with --families")
        options = {**method.paper_options(trained_on.name, target), **dict(variant.options)}
        return {**options, **(self.weights if method.takes_weights else {})}

    def groups(self, target: str, fam: Family, method: type[Method]) -> int:
        """How many unseen groups a cell measures."""
        if self.request.groups:
            return self.request.groups
        counts = self.profile.for_target(target)
        own = dict(self.suite.groups).get(self.profile.name)
        groups = own or (counts.iterative_groups if method.iterative else counts.groups)
        return min(groups, fam.most_groups or groups)


def suite_in_file(path: Path) -> Suite:
    """Run a file of the user's own and return the one `Suite` that it defines.

    Raises:
        UnknownMethodError: The file does not exist or fails to import.
        SuiteError: It defines no suite, several, or one with the name of a suite of the catalog.
    """
    path = path.expanduser().resolve()
    module = registry.import_file(path, "suite file")
    suites = {id(value): value for value in vars(module).values() if isinstance(value, Suite)}.values()
    own = [suite for suite in suites if suite not in SUITES.values()]
    if len(own) != 1:
        named = f"{len(own)} ({', '.join(suite.name for suite in own)})" if own else "none"
        raise SuiteError(f"a suite file defines exactly one Suite, and '{path}' defines {named}")
    if own[0].name in SUITES:
        raise SuiteError(f"'{path}' names its suite '{own[0].name}', which the catalog has; give it another name")
    return own[0]


@cache
def _load_source(
    data: Path | None, cache_dir: Path, folders: tuple[tuple[str, Path], ...], name: str, size: int | None
) -> Source:
    return load(name, data_dir=data, cache_dir=cache_dir, folders=dict(folders), size=size)


def _variants(suite: Suite, request: RunRequest) -> tuple[list[Variant], dict[str, type[Method]]]:
    """The rows asked for, and the class of each."""
    known = {variant.name: variant for variant in (*CONTROLS, *suite.variants)}
    own = {variant.name: variant for variant in suite.variants if not (request.paper_rows and variant.section)}
    files: dict[str, type[Method]] = {}
    for reference in request.method_files:
        method = registry.find_in_file(reference)
        taken = method.name in known and known[method.name].method != method.name
        if taken or method.name in files or method.name in registry.entries():
            why = f"'{reference}' is named '{method.name}', as another method"
            raise registry.UnknownMethodError(f"{why}; name its class otherwise")
        files[method.name] = method
    names = list(own if request.methods is None else request.methods)
    names += [control.name for control in CONTROLS] if request.controls else []
    # A suite file may declare rows of a method file's class, which then gets no other row.
    shown = {known[name].method for name in names if name in known}
    names += [name for name in files if name not in names and name not in shown]
    for name in names:
        if name not in known and name not in files:
            registry.check_name(name)
    variants = [known.get(name, Variant(name, name, name)) for name in dict.fromkeys(names)]
    return variants, {v.name: files.get(v.method) or registry.find(v.method) for v in variants}


def _families(name: str, folders: Collection[str], load_source: LoadSource) -> list[tuple[Family, Family]]:
    """The families that are measured for a name, each with the one it is trained on."""
    if names_mixture(name) and name not in folders:
        parts, left_out = ([_family(each, folders, load_source) for each in names] for names in members(name))
        mixed, measured = mixture(name, name, parts, left_out)
        return [(fam, mixed) for fam in measured]
    if name in folders and name not in FAMILIES:
        fam = _family(name, folders, load_source)
        return [(fam, fam)]
    return [(fam, family(fam.trained_on or fam.name)) for fam in measured_for(name)]


def _family(name: str, folders: Collection[str], load_source: LoadSource) -> Family:
    if name in FAMILIES or name not in folders:
        return family(name)
    source = load_source(name, None)
    return family_of_folder(name, dict(zip(source.class_names, np.bincount(source.labels).tolist(), strict=True)))
