"""The typed record of a run: what was planned, and with what it was measured.

History of the format on disk:

| format | file | change |
|---|---|---|
| 1 | `manifest.json` | plain JSON without a checksum; no longer read |
| 2 | `manifest.json` | a checksum; an invocation has command, start and commit, the environment is recorded once for the run |
| 3 | `record.json` | each invocation has its own environment; the plan names the reference; rows have precision and threads |
| 4 | `record.json` | cells have a class split, the plan the names of the classes, rows both the split and the class ids |
| 5 | `record.json` | variants have a section of the table, and controls what they are a control of |

A field that is added, renamed or changes its meaning raises `FORMAT`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from pudnet_bench.results.store.files import checksummed_json, read_checksummed_json

FORMAT = 5
RECORD = "record.json"
MANIFEST = "manifest.json"  # of format 2
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One call of `run` or `resume`, with the environment it measured in.

    Attributes:
        started: UTC, ISO 8601; so is `ended`, which is "" while the call runs or if it was killed.
        commit: Commit of the checkout, "" outside one.
        versions: Version of Python and of each installed distribution.
        load_start: Load averages of the machine over 1, 5 and 15 minutes; empty if unknown.
        prototype_classifier: What prototypes are classified with, "learn2learn" or "methods.metric"; "" if unknown.
    """

    command: str
    started: str
    ended: str = ""
    commit: str = ""
    version: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    driver: str = ""
    platform: str = ""
    precision: str = ""
    threads: int = 0
    load_start: tuple[float, ...] = ()
    load_end: tuple[float, ...] = ()
    prototype_classifier: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedVariant:
    """A method variant, with a row of the table for each of its `snapshots`: (snapshot name, row label).

    `curve_label` and `curve_x` place it in the suite's figure. `parent` is the variant it was expanded from, and `section`,
    `control_of` and `effect` are those of `suites.declaration.Variant`; "" before format 5.
    """

    name: str
    label: str
    snapshots: tuple[tuple[str, str], ...] = (("", ""),)
    curve_label: str = ""
    curve_x: float = 0.0
    parent: str = ""
    section: str = ""
    control_of: str = ""
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell: `groups` unseen groups of a family, measured with one variant, target, class split and seed."""

    key: str
    method: str
    family: str
    target: str
    split: int
    seed: int
    groups: int
    artifact: str = ""


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The part of the plan that reading a table or a status needs.

    Attributes:
        figure: What is drawn in addition to the table (`suites.declaration.FIGURES`).
        reference: The variant that the others are compared with, "" for none.
        paper_groups: Groups that the paper meta-trains on, by family.
        class_names: Names of the source's classes in the order of their ids, by family; empty before format 4.
        families: (name, label) of each.
    """

    title: str
    figure: str = ""
    reference: str = ""
    paper_groups: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    families: tuple[tuple[str, str], ...] = ()
    variants: tuple[PlannedVariant, ...] = ()
    cells: tuple[PlannedCell, ...] = ()

    @property
    def family_labels(self) -> dict[str, str]:
        return dict(self.families)

    @property
    def variant_labels(self) -> dict[str, str]:
        return {variant.name: variant.label for variant in self.variants}

    @property
    def figure_places(self) -> dict[str, tuple[str, float]]:
        """(curve label, x) of each variant that is a point of the figure."""
        return {v.name: (v.curve_label, v.curve_x) for v in self.variants if v.curve_label}

    def merged(self, newer: PlanRecord) -> PlanRecord:
        """This plan and a newer one of the same run; a cell that was planned again replaces its predecessor."""

        place = attrgetter("method", "family", "target", "split", "seed")
        cells = {place(cell): cell for cell in self.cells}
        for cell in newer.cells:
            earlier = cells.get(place(cell))
            groups = max(cell.groups, earlier.groups) if earlier and earlier.key == cell.key else cell.groups
            cells[place(cell)] = replace(cell, groups=groups)
        return replace(
            newer,
            paper_groups={**self.paper_groups, **newer.paper_groups},
            class_names={**self.class_names, **newer.class_names},
            targets=tuple(dict.fromkeys((*self.targets, *newer.targets))),
            families=tuple(dict.fromkeys((*self.families, *newer.families))),
            variants=tuple({variant.name: variant for variant in (*self.variants, *newer.variants)}.values()),
            cells=tuple(cells.values()),
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of a run. A run has one suite, profile, device and precision, and grows by plans and invocations.

    `unrecorded_precision` and `unrecorded_threads` apply to rows from before format 3, which do not record their own.
    """

    format: int = FORMAT
    suite: str
    profile: str
    device: str
    precision: str
    plan: PlanRecord
    invocations: tuple[Invocation, ...]
    unrecorded_precision: str = ""
    unrecorded_threads: int = 0


def encode(record: RunRecord) -> bytes:
    """The content of `record.json`."""
    return checksummed_json(dataclasses.asdict(record))


def decode(data: bytes, file: str = RECORD) -> RunRecord:
    """The record in the content of a `file` of this name: `RECORD`, or `MANIFEST` (format 2).

    What format 2 did not record is filled in where it is known. Raises ValueError if the content is damaged or of
    another format.
    """
    values = read_checksummed_json(data)
    found: Any = values.get("format")
    if found not in ((2,) if file == MANIFEST else range(3, FORMAT + 1)):
        raise ValueError(f"it is of format {found}, and this version of pudnet-bench reads 2 to {FORMAT}")
    try:
        values = _from_format_2(values) if found == 2 else values
        values = _from_format_3(values) if found < 4 else values
        values = _from_format_4(values) if found < 5 else values
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a field of format {found} is missing or damaged: {error}") from error
    return _decoded(RunRecord, values, "the manifest" if found == 2 else "the record")


def _from_format_3(values: Mapping[str, Any]) -> dict[str, Any]:
    plan = {**values["plan"], "class_names": {}, "cells": [{**cell, "split": 0} for cell in values["plan"]["cells"]]}
    return {**values, "format": 4, "plan": plan}


def _from_format_4(values: Mapping[str, Any]) -> dict[str, Any]:
    added = {"section": "", "control_of": "", "effect": ""}
    plan = {**values["plan"], "variants": [{**variant, **added} for variant in values["plan"]["variants"]]}
    return {**values, "format": 5, "plan": plan}


def _from_format_2(values: Mapping[str, Any]) -> dict[str, Any]:
    constants = dict(csv.reader((Path(__file__).parent / "format_2.csv").read_text(encoding="utf-8").splitlines()))
    plan = values["plan"]
    variants = [
        {
            **{name: variant[name] for name in ("name", "label", "snapshots")},
            "curve_label": variant["curve"], "curve_x": variant["x"], "parent": variant["row"],
        }
        for variant in plan["variants"]
    ]  # fmt: skip
    common = {name: values[name] for name in ("device", "versions", "driver", "platform", "precision", "threads")}
    invocations = [
        {
            **common, "command": call["command"], "started": call["started"], "ended": "", "commit": call["git_commit"],
            "version": values["versions"].get("pudnet-bench", ""), "load_start": [], "load_end": [],
            "prototype_classifier": constants["prototype_classifier"],
        }
        for call in values["invocations"]
    ]  # fmt: skip
    invocations[0]["load_start"] = values.get("load", [])
    invocations[-1]["ended"] = values.get("ended", "")
    return {
        **{name: values[name] for name in ("suite", "profile", "device", "precision")},
        "format": 3,
        "plan": {**plan, "variants": variants, "reference": constants["reference"]},
        "invocations": invocations,
        "unrecorded_precision": values["precision"],
        "unrecorded_threads": values["threads"],
    }


def _decoded(kind: type[T], value: Any, where: str) -> T:
    """`value`, as JSON has it, as a `kind`; strict: every field is there, none is unknown, each of its type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    found: Any = value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)
        if wrong := sorted(hints.keys() ^ value.keys()):
            unknown = "lacks" if wrong[0] in hints else "has an unknown field"
            raise ValueError(f"{where} {unknown} '{wrong[0]}'")
        found = kind(**{name: _decoded(hints[name], value[name], f"{where}.{name}") for name in hints})
    elif origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} items, not {len(kinds)}")
        found = tuple(_decoded(k, item, f"{where}[{n}]") for n, (k, item) in enumerate(zip(kinds, value, strict=True)))
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        found = {name: _decoded(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        found = float(value)
    elif not (kind in (str, int, float) and type(value) is kind):
        raise ValueError(f"{where} is damaged: {json.dumps(value)[:40]}")
    return typing.cast(T, found)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
