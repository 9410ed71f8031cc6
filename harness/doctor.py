"""What this machine is, and what follows from it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from harness.compute import choose, processor_name
from harness.energy import EnergyMeter
from harness.provenance import driver, git_commit, package_versions
from suites.sources import SOURCES
from suites.sources.loading import locate

MATRIX = 2048  # rows and columns of the products that tell the speed
RATES = (("float32", torch.float32), ("bfloat16", torch.bfloat16))


def examine(data_dir: Path | None, cache_dir: Path) -> list[tuple[str, str]]:
    """(name, finding) pairs, in the order in which they are read."""
    compute = choose()
    findings = [
        ("device", f"{compute.name} ({compute.device.type}), precision {compute.precision}"),
        (
            "processor",
            f"{processor_name()}; torch uses {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        ),
        ("driver", driver() or "no NVIDIA driver"),
        ("commit", git_commit() or "not a git checkout"),
        ("versions", ", ".join(f"{name} {version}" for name, version in package_versions().items())),
        ("memory", _memory()),
        ("energy", ", ".join(counter.name for counter in EnergyMeter(compute.device).counters) or "not reported"),
        ("cache", f"{cache_dir}, {shutil.disk_usage(_existing(cache_dir)).free / 1e9:.0f} GB free"),
    ]
    for name in SOURCES:
        found = locate(name, data_dir=data_dir)
        findings.append((f"source {name}", "embedded" if name == "digits" else str(found or "not found")))
    rates = (f"{_matmul_rate(compute.device, kind):.0f} GFLOP/s {name}" for name, kind in RATES)
    findings.append(("speed", f"{', '.join(rates)}, products of {MATRIX}x{MATRIX} matrices"))
    return findings


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _memory() -> str:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available, total = (int(fields[name].split()[0]) / 1e6 for name in ("MemAvailable", "MemTotal"))
        return f"{available:.1f} GB available of {total:.1f} GB"
    except (OSError, KeyError, ValueError):
        return "unknown"


def _matmul_rate(device: torch.device, dtype: torch.dtype, size: int = MATRIX, seconds: float = 1.0) -> float:
    """GFLOP/s of square matrix products, the best of those that fit into ``seconds``."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, ends = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best
