"""Cluster profiles: TOML files that say how meta-training and evaluation jobs are submitted.

`[slurm]` holds what both kinds of job share, `[training]` and `[evaluation]` what differs. All three accept every parameter of
submitit's executor for Slurm, under submitit's general name or Slurm's own (`timeout_min` or `time`). `[executor]` holds the
arguments of the executor itself: `max_num_timeout`, `python`. An empty string unsets a value. As on sbatch's command line,
names may have hyphens, times Slurm's formats, and counts of GPUs a type.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
import math
import re
import tomllib
import typing
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pudnet_bench.errors import BenchError

Stage = Literal["training", "evaluation"]
STAGES: tuple[Stage, ...] = ("training", "evaluation")
TABLES = ("slurm", *STAGES, "executor")
# Slurm accepts one of these; in a stage's table any of them replaces the shared one.
MEMORY = frozenset({"mem", "mem_gb", "mem_per_cpu", "mem_per_gpu"})
TIMES = frozenset({"time", "timeout_min"})
GPU_COUNTS = frozenset({"gpus_per_node", "gpus_per_task", "num_gpus"})
MAY_BE_ZERO = frozenset({"gpus_per_node", "gpus_per_task", "num_gpus", "signal_delay_s", "max_num_timeout"})


class ClusterError(BenchError):
    """A cluster profile that cannot be used; the message names the file, the key and what is accepted."""


@dataclass(frozen=True)
class Cluster:
    """A profile: how jobs are submitted on one cluster, by `AutoExecutor(folder, cluster="slurm", **cluster.executor)`.

    `training` and `evaluation` are the parameters of that executor for the two kinds of jobs.
    """

    path: Path
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    executor: Mapping[str, Any]

    def parameters(self, stage: Stage) -> dict[str, Any]:
        """Return a new dict for `AutoExecutor.update_parameters`; `timeout_min` is always in it."""
        if stage not in STAGES:
            raise ClusterError(f"a stage is {' or '.join(STAGES)}, not {stage!r}")
        return copy.deepcopy(dict(self.training if stage == "training" else self.evaluation))

    def jobs_at_once(self, stage: Stage) -> int | None:
        """The most jobs of that kind that may run at once; None where the profile does not say."""
        limit: int | None = self.parameters(stage).get("slurm_array_parallelism")
        return limit

    def has_gpus(self, stage: Stage) -> bool:
        """Whether jobs of that kind get GPUs."""
        parameters = self.parameters(stage)
        more = parameters.get("slurm_additional_parameters", {})
        values = {name.removeprefix("slurm_"): value for name, value in parameters.items()}
        values |= {name.replace("-", "_"): value for name, value in more.items()}
        counts = (str(values.get(name, 0)) for name in (*GPU_COUNTS, "gpus", "gpus_per_socket"))
        given = any(re.search(r"[1-9]", part.rpartition(":")[2]) for count in counts for part in count.split(","))
        return given or "gpu" in str(values.get("gres", ""))


def load(path: str | Path) -> Cluster:
    """Read a profile. Raises ClusterError if it cannot be read, or something in it is unknown or invalid."""
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin a file with a mark
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ClusterError(f"{path}: not a TOML file: it is not text in UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"{path}: not a TOML file: {error}") from None
    for name, table in tables.items():
        if name not in TABLES:
            raise ClusterError(f"{path}: there is no table {_unknown(f'[{name}]', [f'[{table}]' for table in TABLES])}")
        if not isinstance(table, dict):
            raise ClusterError(f"{path}: '{name}' is a table, [{name}], not {_shown(table)}")

    known, general = _submission_types(), _general_types()
    common, *own_tables = (_checked(path, table, tables, known) for table in ("slurm", *STAGES))
    stages = {}
    for stage, own in zip(STAGES, own_tables, strict=True):
        replaced = {*own, *(MEMORY if MEMORY & own.keys() else ())}
        merged = {**{key: value for key, value in common.items() if key not in replaced}, **own}
        if merged.get("timeout_min", "") == "":
            raise ClusterError(f"{path}: give timeout_min for {stage}; submitit's default is 5 minutes")
        stages[stage] = _arguments(merged, general)
    executor = _arguments(_checked(path, "executor", tables, _executor_types()), ())
    return Cluster(path, stages["training"], stages["evaluation"], executor)


def _arguments(values: Mapping[str, Any], general: Container[str]) -> Mapping[str, Any]:
    """The values that are set, as arguments of `AutoExecutor`, which prefixes all that are not `general`."""
    given = {key: value for key, value in values.items() if value != ""}

    def is_general(key: str) -> bool:
        return key in general and not (key in GPU_COUNTS and isinstance(given[key], str))  # a type is Slurm's alone

    return MappingProxyType({key if is_general(key) else f"slurm_{key}": value for key, value in given.items()})


def _checked(path: Path, table: str, tables: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one table under submitit's general names, validated."""
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for written, value in tables.get(table, {}).items():
        key = written.replace("-", "_")
        if key not in known:
            elsewhere = (
                f"; [{table}.additional_parameters] takes other options of sbatch" if table != "executor" else ""
            )
            raise ClusterError(f"{path}: [{table}] has no parameter {_unknown(key, known)}{elsewhere}")
        wrong = "" if value == "" else _wrong(key, value, known[key])
        if wrong:
            raise ClusterError(f"{path}: [{table}] {written} = {_shown(value)}: {wrong}")
        value = _converted(key, value)
        if key == "exclusive" and value is False:  # submitit would write --exclusive=False
            value = ""
        name = _general_names().get(key, key)
        found[name] = value
        same = "memory" if name in MEMORY else name
        if value != "" and given.setdefault(same, key) != key:
            raise ClusterError(f"{path}: [{table}] has both {given[same]} and {key}; give one of them")
    return found


def _submission_types() -> dict[str, Any]:
    """Every parameter of a submission and its type, as submitit declares them."""
    from submitit.slurm import slurm

    hints = typing.get_type_hints(slurm._make_sbatch_string)
    own = {name: hints[name] for name in slurm.SlurmExecutor._valid_parameters()}
    return {**own, **_general_types()}


def _general_types() -> dict[str, Any]:
    """Parameters common to all of submitit's executors, and their types."""
    from submitit import AutoExecutor

    return dict(AutoExecutor._typed_parameters())


def _general_names() -> dict[str, str]:
    """Submitit's general name of each of Slurm's parameters, without memory, whose unit differs between the two."""
    from submitit import SlurmExecutor

    names = SlurmExecutor._equivalence_dict() or {}
    return {str(own): str(general) for general, own in names.items() if own not in MEMORY}


def _executor_types() -> dict[str, Any]:
    """Arguments of submitit's executor except the folder, and their types."""
    from submitit import SlurmExecutor

    hints = typing.get_type_hints(SlurmExecutor.__init__)
    return {name: kind for name, kind in hints.items() if name not in {"folder", "return"}}


def _wrong(key: str, value: Any, kind: Any) -> str:
    """What is wrong with a value of the declared type `kind`; "" if it is valid."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    reasons = [_wrong_for(key, value, option) for option in kinds if option is not type(None)]
    return "" if "" in reasons else reasons[0]


def _converted(key: str, value: Any) -> Any:
    """A valid value as submitit takes it."""
    if key in TIMES and value != "":
        return slurm_minutes(value)
    if key in GPU_COUNTS and isinstance(value, str):
        return int(value) if value.isdecimal() else re.sub(r"(^|,)gpu:", r"\1", value)
    return value


def slurm_minutes(time: Any) -> int | None:
    """The minutes of a time in one of sbatch's formats or TOML's own of a time of day, seconds rounded up; else None."""
    if isinstance(time, int) and not isinstance(time, bool):
        return time
    if isinstance(time, datetime.time):  # 12:00:00 without quotes
        time = time.isoformat("seconds")
    if not isinstance(time, str):
        return None
    days, dash, clock = time.strip().rpartition("-")
    parts = clock.split(":")
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in (*parts, *([days] if dash else []))):
        return None
    numbers = list(map(int, parts))
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # minutes[:seconds]
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    return None if len(parts) > 3 else (int(days or 0) * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)


def _wrong_for(key: str, value: Any, kind: Any) -> str:
    if key in TIMES:
        minutes = slurm_minutes(value)
        right = 'minutes, such as 1440, or a time of sbatch, such as "24:00:00" or "1-00:00:00"'
        return f"it is {right}" if minutes is None else f"it is more than 0: {right}" if minutes <= 0 else ""
    if key in GPU_COUNTS and isinstance(value, str):
        typed = r"(gpu:)?([A-Za-z][\w.-]*:)?[0-9]+"
        right = 'a number of GPUs, such as 1, or a type and a number, such as "a100:1"'
        return "" if re.fullmatch(f"{typed}(,{typed})*", value, re.ASCII) else f"it is {right}"
    if kind is bool:
        return "" if isinstance(value, bool) else "it is true or false, without quotes"
    if kind is int or kind is float:
        return _wrong_number(key, value, kind)
    if kind is str:
        return _wrong_text(key, value)
    if typing.get_origin(kind) is dict:
        return _wrong_flags(value)
    lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "" if lines else 'it is a list of strings, ["...", "..."]'


def _wrong_number(key: str, value: Any, kind: type) -> str:
    numbers = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, numbers) or not math.isfinite(value):
        return f"it is a whole number, such as {key} = 4" if kind is int else f"it is a number, such as {key} = 16"
    if value < 0 or (value == 0 and key not in MAY_BE_ZERO):
        return "it is 0 or more" if key in MAY_BE_ZERO else "it is more than 0"
    return ""


def _wrong_text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f'it is a string, such as {key} = "{"16GB" if key in MEMORY else "name"}"'
    if not value.isprintable():
        return "it is one line of text"
    if key in MEMORY and re.fullmatch(r"[0-9]+([KMGT]B?)?", value, re.IGNORECASE) is None:
        return 'it is a number and a unit, such as "16GB"'
    return ""


def _wrong_flags(value: Any) -> str:
    if not isinstance(value, dict):
        return "it is a table of sbatch's options"
    for name, each in value.items():
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) is None:
            return f"{name!r} is not an option of sbatch"
        if not (each is True or (isinstance(each, str | int | float) and not isinstance(each, bool))):
            return f"{name} is a string, a number, or true for an option without value"
        if not str(each).isprintable():
            return f"{name} is one line of text"
    return ""


def _unknown(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the name, the closest known one, and all known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"{name}{f' (did you mean {near[0]}?)' if near else ''}; known are {', '.join(names)}"


def _shown(value: Any) -> str:
    """A value roughly as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
