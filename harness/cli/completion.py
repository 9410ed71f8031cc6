"""Shell completion. Imports neither torch nor an array library, so that it is instant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Offer = tuple[str, str]  # the word, its description


def suites(incomplete: str) -> list[Offer]:
    """Names of suites, "all", and suite files."""
    from pudnet_bench.suites.catalog import SUITES

    named = [("all", "every table and figure of the paper"), *((suite.name, suite.title) for suite in SUITES.values())]
    return [*_matching(incomplete, named), *python_files(incomplete)]


def runs(incomplete: str) -> list[Offer]:
    """Run folders, and suites that have a run."""
    from pudnet_bench.results.store.folders import RUNS, run_folders
    from pudnet_bench.suites.catalog import SUITES

    named = [(name, f"the latest run of {name}") for name in SUITES if run_folders(f"{name}-*")]
    offers = _matching(incomplete, [*named, *((str(path), "") for path in run_folders())])
    if "/" in incomplete and not incomplete.startswith(f"{RUNS}/"):
        offers += [(f"{path}/", "") for path in _paths(incomplete) if path.is_dir()]
    return offers


def methods(incomplete: str) -> list[Offer]:
    """Names of methods, the last of several separated by commas."""
    return _last_of_list(incomplete, _methods())


def method(incomplete: str) -> list[Offer]:
    """One method: its name, or a file's."""
    return [*_matching(incomplete, _methods()), *python_files(incomplete)]


def families(incomplete: str) -> list[Offer]:
    """Names of families, the last of several separated by commas."""
    from pudnet_bench.suites.families import FAMILIES

    return _last_of_list(incomplete, [(family.name, family.label) for family in FAMILIES.values()])


def targets(incomplete: str) -> list[Offer]:
    """Names of target networks, the last of several separated by commas."""
    return _last_of_list(incomplete, _targets())


def target(incomplete: str) -> list[Offer]:
    return _matching(incomplete, _targets())


def profiles(incomplete: str) -> list[Offer]:
    from pudnet_bench.suites.catalog import PROFILES

    return _matching(incomplete, [(profile.name, profile.description) for profile in PROFILES.values()])


def sources(incomplete: str) -> list[Offer]:
    from pudnet_bench.suites.sources.catalog import SOURCES

    return _matching(incomplete, [(source.name, source.description) for source in SOURCES.values()])


def executors(incomplete: str) -> list[Offer]:
    offers = [("local", "one cell at a time"), ("local-processes:", "N at a time"), ("slurm", "jobs on a cluster")]
    return _matching(incomplete, offers)


def _methods() -> list[Offer]:
    from pudnet_bench.methods.registry import entries

    return [(entry.name, entry.description) for entry in entries().values()]


def _targets() -> list[Offer]:
    from pudnet_bench.suites.catalog import SUITES

    return [(name, "") for name in dict.fromkeys(name for suite in SUITES.values() for name in suite.targets)]


def _matching(incomplete: str, offers: Iterable[Offer]) -> list[Offer]:
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def _last_of_list(incomplete: str, offers: list[Offer]) -> list[Offer]:
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [(f"{before}{comma}{name}", about) for name, about in _matching(last, offers) if name not in given]


def python_files(incomplete: str) -> list[Offer]:
    """Python files, and folders to look for them in."""
    return [
        (f"{path}/" if path.is_dir() else str(path), "")
        for path in _paths(incomplete)
        if path.suffix == ".py" or (path.is_dir() and "/" in incomplete)
    ]


def _paths(incomplete: str) -> list[Path]:
    """Files and folders that match, hidden ones left out."""
    folder, _, name = incomplete.rpartition("/")
    root = Path(folder or ("/" if incomplete.startswith("/") else "."))
    try:
        return sorted(path for path in root.iterdir() if path.name.startswith(name) and path.name[0] not in "._")
    except OSError:
        return []
