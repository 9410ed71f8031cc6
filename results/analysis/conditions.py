"""What differs between the conditions under which two runs were measured."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from pudnet_bench.results.store.run_record import Invocation, RunRecord

_NO_CONDITIONS = {"--out", "--data", "--cache"}  # where things are
_FLAGS = {"--paper", "--wait", "--debug", "--dry-run"}  # what is shown


def differing(a: RunRecord, b: RunRecord) -> list[str]:
    """A line for everything that differs, over all invocations: "commit A 3e8ff0f58ef5, B d8e26e05b811"."""
    found = {name: (_joined(values(a)), _joined(values(b))) for name, values in _CONDITIONS.items()}
    ours, theirs = _options(a), _options(b)
    found["options"] = " ".join(sorted(ours - theirs)) or "none", " ".join(sorted(theirs - ours)) or "none"
    return [f"{name} A {one}, B {other}" for name, (one, other) in found.items() if one != other]


def _joined(values: list[str]) -> str:
    return " and ".join(sorted({value for value in values if value})) or "none"


def _of_calls(value: Callable[[Invocation], object]) -> Callable[[RunRecord], list[str]]:
    return lambda record: [str(value(call) or "") for call in record.invocations]


def _load(record: RunRecord) -> list[str]:
    """Load average over the minute before each invocation, from the lowest to the highest."""
    known = sorted(call.load_start[0] for call in record.invocations if call.load_start)
    ends = dict.fromkeys(f"{load:.1f}" for load in (known[0], known[-1])) if known else ()
    return [" to ".join(ends)]


_CONDITIONS: dict[str, Callable[[RunRecord], list[str]]] = {
    "suite": lambda record: [record.suite],
    "profile": lambda record: [record.profile],
    "device": lambda record: [record.device, *_of_calls(lambda call: call.device)(record)],
    "precision": lambda record: [record.precision, *_of_calls(lambda call: call.precision)(record)],
    "threads": _of_calls(lambda call: call.threads),
    "version": _of_calls(lambda call: call.version),
    "commit": _of_calls(lambda call: call.commit[:12]),
    "prototype classifier": _of_calls(lambda call: call.prototype_classifier),
    "load": _load,
}


def _options(record: RunRecord) -> set[str]:
    """Options of the commands that can shape what is measured, with their values: "--training-groups 200"."""
    found = set()
    for call in record.invocations:
        try:
            words = shlex.split(call.command)
        except ValueError:  # not a command of a shell
            words = call.command.split()
        for word, following in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            if name.startswith("--") and name not in _NO_CONDITIONS | _FLAGS:
                value = value if equals else "" if following.startswith("-") else following
                found.add(f"{name} {value}".strip())
    return found
