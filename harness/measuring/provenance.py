"""Provenance of a measurement: commit, versions, device, driver, load."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.results.store.run_record import Invocation

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
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def git_commit() -> str:
    """The commit of the project's checkout, with "+changes" when files differ from it; "" outside a checkout.

    Published results do not count as changes. Queried once per process.
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


@cache
def distribution_versions() -> dict[str, str]:
    """Version of Python and of every installed distribution, by name."""
    found = {found.name.lower(): found.version for found in distributions() if found.name}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def driver() -> str:
    """Version of the NVIDIA driver, "" without one."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(query, check=True, capture_output=True, text=True, timeout=10).stdout.split("\n")[0].strip()
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def load() -> tuple[float, ...]:
    """The machine's load averages over 1, 5 and 15 minutes; empty where they are unknown."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def begin_invocation(command: str, compute: Compute) -> Invocation:
    """The environment of a measurement with `compute` that begins now with `command`."""
    versions = distribution_versions()
    return Invocation(
        command=command,
        started=now(),
        commit=git_commit(),
        version=versions.get("pudnet-bench", ""),
        versions=versions,
        device=compute.name,
        driver=driver() if compute.device.type == "cuda" else "",
        platform=platform.platform(),
        precision=compute.precision,
        threads=torch.get_num_threads(),
        load_start=load(),
    )


def circumstances(command: str, compute: Compute) -> dict[str, Any]:
    """What `begin_invocation` knows, as JSON values for the benchmarks, with the versions of `PACKAGES` only."""
    call = begin_invocation(command, compute)
    values = {
        name: getattr(call, name)
        for name in ("device", "command", "started", "precision", "threads", "driver", "platform")
    }
    return {**values, "git_commit": call.commit, "versions": package_versions(), "load": list(call.load_start)}
