"""Where a number comes from: commit, versions, device, driver, load."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.measuring.device import Compute

PACKAGES = (
    "pudnet-bench",
    "torch",
    "torchvision",
    "timm",
    "learn2learn",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "safetensors",
)


GIT_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")


def now() -> str:
    """The present time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def git_commit() -> str:
    """The commit of this project's checkout, with "+changes" when files differ from it; "" outside a checkout.

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
    """Output of git for the repository around `root`, whatever repository the environment names (as in a git hook)."""
    environment = {name: value for name, value in os.environ.items() if name not in GIT_REPOSITORY_VARIABLES}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10, env=environment)
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Version of each package that a number may depend on, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def driver() -> str:
    """Version of the NVIDIA driver, "" without one."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(query, check=True, capture_output=True, text=True, timeout=10).stdout.split("\n")[0].strip()
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def circumstances(command: str, compute: Compute) -> dict[str, Any]:
    """What a measurement was made with and on, as it begins. ``load`` is the machine's over 1, 5 and 15 minutes."""
    return {
        "device": compute.name,
        "command": command,
        "git_commit": git_commit(),
        "versions": package_versions(),
        "started": now(),
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "driver": driver() if compute.device.type == "cuda" else "",
        "platform": platform.platform(),
    }


def manifest(suite: str, profile: str, command: str, compute: Compute) -> dict[str, Any]:
    """What a run's manifest says of how it is made."""
    return {"suite": suite, "profile": profile, **circumstances(command, compute)}
