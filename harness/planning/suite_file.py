"""Load a suite of the user's own from a Python file."""

from __future__ import annotations

from pathlib import Path

from pudnet_bench.methods import registry
from pudnet_bench.suites.catalog import SUITES
from pudnet_bench.suites.declaration import Suite, SuiteError


def suite_in_file(path: Path) -> Suite:
    """The one `Suite` that the file defines.

    Runs the file.

    Raises:
        UnknownMethodError: The file does not exist or fails to import.
        SuiteError: It defines no suite, several, or one with the name of a suite of the catalog.
    """
    path = path.expanduser().resolve()
    module = registry.import_file(path, "suite file")
    found = {id(value): value for value in vars(module).values() if isinstance(value, Suite)}
    own = [suite for suite in found.values() if suite not in SUITES.values()]
    if len(own) != 1:
        named = f"{len(own)} ({', '.join(suite.name for suite in own)})" if own else "none"
        raise SuiteError(f"a suite file defines exactly one Suite, and '{path}' defines {named}")
    if own[0].name in SUITES:
        raise SuiteError(f"'{path}' names its suite '{own[0].name}', which the catalog has; give it another name")
    return own[0]
