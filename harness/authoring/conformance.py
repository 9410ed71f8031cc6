"""Run the conformance checks on a method and report the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pudnet_bench.harness.authoring.checks import CHECKS, Check, CheckFailure, CheckSkipped, constructs, learns_a_state
from pudnet_bench.harness.authoring.subject import Subject
from pudnet_bench.harness.console.failures import described
from pudnet_bench.harness.measuring.isolation import isolated

State = Literal["ok", "failed", "skipped"]
PREREQUISITES: dict[Check, str] = {constructs: "it cannot be constructed", learns_a_state: "its meta-training failed"}


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check: why it failed or was skipped, or a remark ("" for none) if it is ok."""

    state: State
    reason: str = ""
    error: BaseException | None = None


def run_check(check: Check, subject: Subject) -> CheckResult:
    """Run one check; an exception of the method is a failure that says where it was raised."""
    try:
        with isolated(subject.method):
            return CheckResult("ok", check(subject) or "")
    except CheckFailure as failure:
        return CheckResult("failed", str(failure))
    except CheckSkipped as skipped:
        return CheckResult("skipped", str(skipped))
    except (Exception, SystemExit) as error:  # a method can fail in any way; the report continues with the next check
        return CheckResult("failed", described(error), error)


def run_checks(subject: Subject) -> Iterator[tuple[str, CheckResult]]:
    """Yield the title and result of each check. A method that cannot be constructed or trained skips the rest."""
    unusable = ""
    for title, check in CHECKS.items():
        result = CheckResult("skipped", unusable) if unusable else run_check(check, subject)
        if result.state == "failed":
            unusable = PREREQUISITES.get(check, unusable)
        yield title, result


def report(subject: Subject, write: Callable[[str], None], debug: bool = False) -> int:
    """Write a line per check and a summary; `debug` adds tracebacks. Returns the number of failed checks."""
    start = time.monotonic()
    write(f"{subject.method.name} on {subject.images.family.name}, {subject.target}, {subject.images.device}")
    states: list[State] = []
    for title, result in run_checks(subject):
        states.append(result.state)
        write(f"  {result.state:<7}  {title}{f': {result.reason}' if result.reason else ''}")
        if debug and result.error is not None:
            write("".join(traceback.format_exception(result.error)).rstrip())
    counts = [f"{states.count(state)} {state}" for state in ("ok", "failed", "skipped")]
    write(f"{', '.join(counts)}, in {time.monotonic() - start:.1f} s")
    return states.count("failed")
