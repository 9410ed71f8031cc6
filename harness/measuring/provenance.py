"""Provenance of a measurement: commit, versions, device, driver, load."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch

from pudnet_bench.harness.measuring.device import Compute, quota_text
from pudnet_bench.methods.feature_learner import prototype_classifier_name
from pudnet_bench.results.store.run_record import Invocation

# Of all distributions, those that a number may depend on.
PACKAGES = (
    "python", "pudnet-bench", "torch", "torchvision", "timm", "learn2learn", "numpy", "scipy", "pandas", "pyarrow",
    "safetensors",
)  # fmt: skip
GIT_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")


def now() -> str:
    """Return the current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def git_commit() -> str:
    """Return the commit of this project's checkout, with "+changes" when files differ from it; "" outside a checkout.

    A copy installed or vendored inside another repository has none: its folder is not the top of that repository, or
    `harness` is not tracked there. Published results do not count as changes. Queried once per process.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        _git(root, "ls-files", "--error-unmatch", "harness/__init__.py")
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results/published")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changes else commit


def _git(root: Path, *arguments: str) -> str:
    """Return the output of git for the repository around `root`, whatever repository the environment names (as in a git hook)."""
    environment = {name: value for name, value in os.environ.items() if name not in GIT_REPOSITORY_VARIABLES}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10, env=environment)
    return done.stdout.strip()


@cache
def distribution_versions() -> dict[str, str]:
    """Return the version of Python and of every installed distribution, by name."""
    found = {found.name.lower(): found.version for found in distributions() if found.name}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def package_versions() -> dict[str, str]:
    """Return the version of each installed package that a number may depend on, and of Python."""
    installed = distribution_versions()
    return {name: installed[name] for name in PACKAGES if name in installed}


def driver() -> str:
    """Return the version of the NVIDIA driver, "" without one."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.split("\n")[0].strip()


def load() -> tuple[float, ...]:
    """Return the machine's load averages over 1, 5 and 15 minutes; empty where they are unknown."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return ()


def begin_invocation(command: str, compute: Compute) -> Invocation:
    """Return the environment of a measurement with `compute` that begins now with `command`."""
    versions = distribution_versions()
    return Invocation(
        command=command,
        started=now(),
        commit=git_commit(),
        version=versions.get("pudnet-bench", ""),
        versions=versions,
        device=compute.name,
        driver=driver() if compute.device.type == "cuda" else "",
        platform=f"{platform.platform()}{quota_text()}",
        precision=str(compute.precision),
        threads=torch.get_num_threads(),
        load_start=load(),
        prototype_classifier=prototype_classifier_name(),
    )
