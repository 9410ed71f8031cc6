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


def now() -> str:
    """The present time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def git_commit() -> str:
    """The commit of the project's checkout, with "+changes" when files differ from it; "" outside a checkout.

    Published results are no change: a number does not depend on those beside which it is put. Asked for once a process.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        run = {"cwd": root, "capture_output": True, "text": True, "timeout": 10}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, **run).stdout.strip()  # type: ignore[call-overload]
        files = ("--", ".", ":(exclude)results/published")
        changes = subprocess.run(["git", "status", "--porcelain", *files], check=True, **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changes else str(commit)


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
