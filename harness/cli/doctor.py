"""Report what this machine offers and what follows from it for a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pudnet_bench.harness.console.progress import span
from pudnet_bench.harness.measuring.device import (
    Compute,
    choose_device,
    core_count,
    native_bf16,
    processor_name,
    quota_text,
    thread_limit,
)
from pudnet_bench.harness.measuring.energy import EnergyMeter
from pudnet_bench.harness.measuring.provenance import driver, git_commit, package_versions
from pudnet_bench.harness.measuring.provenance import load as average_load
from pudnet_bench.harness.measuring.quota import cpu_quota
from pudnet_bench.harness.planning.estimate import PROBE_SECONDS, Estimate, durations, estimate, training_estimate
from pudnet_bench.harness.planning.plan import make_plan, with_bases
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.slurm.queue import presence
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.declaration import Suite
from pudnet_bench.suites.families import FAMILIES, sources_of
from pudnet_bench.suites.mixtures import JOIN
from pudnet_bench.suites.sources import SOURCES
from pudnet_bench.suites.sources.catalog import SourceSpec
from pudnet_bench.suites.sources.loading import Source, locate

MATRIX_SIZE = 1024  # rows and columns
FEATURE_MAPS = (64, 64, 28, 28)  # images, channels, height and width, about as in ConvNet-3
COPY_BYTES = 1 << 26  # more than caches hold
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEANINGFUL_SPEEDUP = 1.1  # a smaller one is no reason to change precision
SLURM_SECONDS = 3.0
CPU_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16")  # those that decide about speed
# Needs, in GB. Memory: the largest of table 1's published costs, and MUSML's bases with its activations.
CONVNET_MEMORY, RESNET_MEMORY = 1.5, 9.0
IMAGES_DISK = 2.5  # all sources decoded, at all their sizes
SUITES_DISK = 18.0  # weights of every suite: the sum that `run all --profile paper --dry-run` prints
LONG_SECONDS = 24 * 3600.0  # few will wait longer for one table


@dataclass(frozen=True)
class Finding:
    """What was found, what it implies for runs (one line each), and the values behind it for programs."""

    name: str
    found: str
    implies: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def examine(data_dir: Path | None, cache_dir: Path) -> list[Finding]:
    """All findings in reading order; takes about ten seconds, most of them to measure speeds. Writes nothing."""
    compute = choose_device()
    places = {name: locate(name, data_dir=data_dir) for name in SOURCES}
    available = {name for name, place in places.items() if place is not None or name == "digits"}
    rates = _rates(compute.device)
    return [
        *(_device(compute), _torch(), _processor(), _threads(), _precision(compute, rates), _speed(compute, rates)),
        *(_commit(), _versions(), _memory(compute), _energy(compute)),
        _disk("cache", cache_dir, IMAGES_DISK + SUITES_DISK, "decoded images and weights", "--cache DIR"),
        _disk("runs", Path.cwd(), 1.0, "measurements", "--out DIR"),
        *(_source(SOURCES[name], place) for name, place in places.items()),
        _suites(available),
        _slurm(),
        *_times(compute, available),
    ]


def _device(compute: Compute) -> Finding:
    version, cuda = driver(), torch.version.cuda
    if compute.device.type == "cpu":
        if not version:
            implies = "no NVIDIA driver, no GPU: --device auto uses the CPU"
        elif cuda:
            implies = f"there is a GPU (driver {version}) that torch, built for CUDA {cuda}, cannot use"
        else:
            implies = f"there is a GPU (driver {version}), but torch is built without CUDA; install a CUDA build"
        return Finding("device", f"{compute.name} (cpu)", implies, {"type": "cpu", "driver": version})
    properties = torch.cuda.get_device_properties(compute.device)
    count, gigabytes = torch.cuda.device_count(), properties.total_memory / 1e9
    implies = "--device auto uses it; times come from CUDA events"
    if count > 1:
        implies += f"; with --groups-per-step {count} all {count} share a meta-training"
    capability = f"compute capability {properties.major}.{properties.minor}, driver {version or 'unknown'}"
    found = f"{count} x {compute.name} (cuda), {gigabytes:.0f} GB, {capability}"
    values = {"type": "cuda", "count": count, "gigabytes": round(gigabytes, 1), "driver": version}
    return Finding("device", found, implies, values)


def _torch() -> Finding:
    cuda = torch.version.cuda
    cudnn: Callable[[], int | None] = torch.backends.cudnn.version  # torch leaves it untyped
    built_for = f"CUDA {cuda}, cuDNN {cudnn()}" if cuda else "CPUs"
    on_cpu = "computes on the CPU here, though it could use a GPU" if cuda else "computes on the CPU only"
    implies = "CUDA is used" if torch.cuda.is_available() else on_cpu
    values = {"version": torch.__version__, "cuda": cuda}
    return Finding("torch", f"{torch.__version__}, built for {built_for}", implies, values)


def _processor() -> Finding:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    features, native = [name for name in CPU_FEATURES if known.get(name)], native_bf16(torch.device("cpu"))
    listed = ", ".join(features) or "no known vector features"
    found = f"{processor_name()}; {torch.backends.cpu.get_cpu_capability()}, {listed}"
    implies = "has bfloat16 instructions" if native else "has no bfloat16 instructions: fp32 is faster on this CPU"
    return Finding("processor", found, implies, {"features": features, "native_bf16": native})


def _threads() -> Finding:
    threads, cores, load, quota = torch.get_num_threads(), core_count(), next(iter(average_load()), 0.0), cpu_quota()
    found = f"torch uses {threads} of {cores} cores{quota_text()}"
    if quota_text():
        implies = (
            "times are those of the quota, not of the processor: raise the container's or job's quota to use it all"
        )
        if threads > thread_limit():
            implies += f"; more threads than the quota has cores for are stopped together: set OMP_NUM_THREADS={thread_limit()}"
    elif threads < cores:
        implies = f"times are those of {threads} of {cores} cores; unset OMP_NUM_THREADS to use them all"
    else:
        implies = "a run uses every core: let nothing else run while times are taken"
    if load > cores / 2:
        implies += f"; other work is running (load {load:.1f}), so the speeds and times below are too slow"
    values = {"threads": threads, "cores": cores, "load": load, "quota": quota}
    return Finding("threads", found, implies, values)


def _rates(device: torch.device) -> dict[str, float]:
    """Best GFLOP/s of several matrix products and convolutions in each precision, and GB/s of copies."""
    rates, channels = {}, FEATURE_MAPS[1]
    shapes = FEATURE_MAPS, (channels, channels, 3, 3)
    for precision, dtype in PRECISIONS.items():
        random = partial(torch.randn, device=device, dtype=dtype)
        a, b = random(MATRIX_SIZE, MATRIX_SIZE), random(MATRIX_SIZE, MATRIX_SIZE)
        maps, kernel = (random(shape).to(memory_format=torch.channels_last) for shape in shapes)
        flops = 2 * 9 * channels * maps.numel()
        rates[f"matrix_{precision}"] = _best_rate(partial(torch.matmul, a, b), device, 2 * MATRIX_SIZE**3)
        rates[f"convolution_{precision}"] = _best_rate(partial(F.conv2d, maps, kernel, padding=1), device, flops)
    source, target = (torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    rates["copy"] = _best_rate(partial(target.copy_, source), device, 2 * COPY_BYTES)  # read and written
    return rates


def _best_rate(work: Callable[[], object], device: torch.device, amount: float) -> float:
    """Billions of `amount` per second."""
    with torch.no_grad():
        return amount / min(durations(work, device, PROBE_SECONDS)) / 1e9


def _speed(compute: Compute, rates: dict[str, float]) -> Finding:
    shown = {name: f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" for name, rate in rates.items()}
    convolutions = ", ".join(f"{shown[f'convolution_{precision}']} {precision}" for precision in PRECISIONS)
    products = ", ".join(f"{shown[f'matrix_{precision}']} {precision}" for precision in PRECISIONS)
    found = f"convolutions {convolutions}; matrix products {products} GFLOP/s; memory {shown['copy']} GB/s"
    implies = f"the times below follow from the target network's own speed in {compute.precision}"
    values = {f"{n}_{'gb' if n == 'copy' else 'gflop'}_per_second": round(rate, 1) for n, rate in rates.items()}
    return Finding("speed", found, implies, values)


def _precision(compute: Compute, rates: dict[str, float]) -> Finding:
    ratio = rates["convolution_bf16"] / rates["convolution_fp32"]
    faster = ratio > MEANINGFUL_SPEEDUP
    speedup = f"bf16 convolutions are {ratio:.1f} times as fast as fp32"
    if compute.precision == "bf16":
        implies = f"{speedup}: {'keep it' if faster else '--precision fp32 is more exact at no cost'}"
    else:
        implies = f"no bfloat16 instructions, and {speedup}: {'try --precision bf16' if faster else 'keep it'}"
    found = f"--precision auto uses {compute.precision}"
    return Finding("precision", found, implies, {"bf16_over_fp32": round(ratio, 2)})


def _commit() -> Finding:
    commit = git_commit()
    if not commit:
        return Finding("commit", "not a git checkout", "runs record no commit; note the package version with them")
    changed = "runs would record a commit that is not their code: commit the changes first"
    return Finding("commit", commit, changed if commit.endswith("+changes") else "runs record it")


def _versions() -> Finding:
    versions = package_versions()
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    implies = "recorded with every run, with device, threads and commit"
    return Finding("versions", found, implies, {"packages": versions})


def _memory(compute: Compute) -> Finding:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available, total = (int(fields[name].split()[0]) / 1e6 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        needs = f"ConvNet-3 takes {CONVNET_MEMORY} GB, MUSML with a ResNet {RESNET_MEMORY:.0f} GB"
        return Finding("memory", "unknown", needs)
    found, limit = f"{available:.1f} GB available of {total:.1f} GB", available
    if compute.device.type == "cuda":
        limit = torch.cuda.mem_get_info(compute.device)[0] / 1e9
        found += f"; on the GPU {limit:.1f} GB"
    if limit < CONVNET_MEMORY:
        implies = f"too little: ConvNet-3 takes up to {CONVNET_MEMORY} GB"
    elif limit < RESNET_MEMORY:
        need = f"MUSML with a ResNet takes up to {RESNET_MEMORY:.0f} GB"
        implies = f"enough for ConvNet-3; {need}: exclude it with --methods"
    else:
        implies = f"enough for every suite; MUSML with ResNet-34 takes the most, up to {RESNET_MEMORY:.0f} GB"
    return Finding("memory", found, implies, {"available_gb": round(available, 1), "total_gb": round(total, 1)})


def _energy(compute: Compute) -> Finding:
    counters = [counter.name for counter in EnergyMeter(compute.device).counters]
    implies = "costs include joules, means over groups" if counters else "costs include no joules"
    return Finding("energy", ", ".join(counters) or "no readable counter", implies, {"counters": counters})


def _disk(name: str, folder: Path, needed: float, content: str, option: str) -> Finding:
    """Room in `folder`, which need not exist, for `needed` GB of `content`; `option` chooses another folder."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        implies = f"not writable: choose another folder with {option}"
    elif free < needed:
        implies = f"too small: {content} of all suites take up to {needed:.0f} GB; choose another folder with {option}"
    else:
        implies = f"enough for {content} of all suites, up to {needed:.0f} GB"
    return Finding(name, f"{folder}, {free:.0f} GB free", implies, {"path": str(folder), "free_gb": round(free, 1)})


def _source(spec: SourceSpec, place: Path | None) -> Finding:
    embedded = spec.name == "digits"
    families = [name for name, family in FAMILIES.items() if spec.name in family.source.split(JOIN)]
    if embedded:
        implies = "the families of --profile quick"
    elif place:
        implies = f"families {', '.join(families)}"
    else:
        fetch = f"`python -m harness data fetch {spec.name} --data DIR` downloads it"
        how = fetch if spec.torchvision else f"download it by hand: {spec.origin}"
        implies = f"needed for {', '.join(families)}; {how}"
    values = {"families": families, "is_there": embedded or place is not None}
    return Finding(f"source {spec.name}", "embedded" if embedded else str(place or "not found"), implies, values)


def _sources_of(suite: Suite) -> list[set[str]]:
    """The sources that each of a suite's families of real images needs."""
    return [sources_of(name) for name in suite.families]


def _suites(available: set[str]) -> Finding:
    suites: dict[str, list[str]] = {"whole": [], "in part": [], "not": []}
    for name, suite in SUITES.items():
        runnable = [sources <= available for sources in _sources_of(suite)]
        suites["whole" if all(runnable) else "in part" if any(runnable) else "not"].append(name)
    parts = [f"{len(suites['whole'])} of {len(SUITES)} on real images (--profile standard, paper)"]
    parts += [f"{kind}: {', '.join(names)}" for kind, names in suites.items() if names and len(names) < len(SUITES)]
    implies = "--profile quick runs every suite, on digits"
    if suites["in part"]:
        implies = f"--families excludes what is missing; {implies}"
    elif not suites["not"]:
        implies = "`python -m harness run all` runs them on digits; with --profile standard or paper, on real images"
    values = {kind.replace(" ", "_"): names for kind, names in suites.items()}
    return Finding("suites", "; ".join(parts), implies, values)


def _slurm() -> Finding:
    slurm = presence(SLURM_SECONDS)
    values = {"installed": slurm.installed, "version": slurm.version, "answers": slurm.answers}
    if not slurm.installed:
        implies = "--executor slurm needs a cluster node; --executor local-processes:N works here"
        return Finding("slurm", f"not installed ({slurm.detail})", implies, values)
    if slurm.answers:
        implies = "--executor slurm --cluster FILE.toml submits from here; slurm/clusters has examples"
    else:
        start = "`python -m tests.slurm.local_slurm start DIR` in a checkout starts a Slurm on this machine"
        implies = f"--executor slurm cannot submit; to try it out, {start}"
    return Finding("slurm", f"{slurm.version or 'commands of unknown version'}; {slurm.detail}", implies, values)


def _times(compute: Compute, available: set[str]) -> Iterator[Finding]:
    """How long Table 1 takes in each profile, on the families whose images are available, with an empty cache."""
    suite = SUITES["table1"]
    real = tuple(name for name, sources in zip(suite.families, _sources_of(suite), strict=True) if sources <= available)
    for profile in PROFILES.values():
        name = f"table1, {profile.name}"
        families = suite.embedded if profile.embedded else real
        if not families:
            needed = ", ".join(sorted(set[str]().union(*_sources_of(suite))))
            implies = f"needs {needed} under --data DIR; --profile quick needs none"
            yield Finding(name, "no real images found", implies)
            continue
        command = "python -m harness run table1" + ("" if profile.name == "quick" else f" --profile {profile.name}")
        if families not in (suite.embedded, suite.families):
            command += f" --families {','.join(families)}"
        about = _table_estimate(suite, profile.name, families, compute)
        least, most = about.least, about.seconds
        implies = f"`{command}`"
        if least > LONG_SECONDS:
            implies += " takes long here: use a GPU, --executor slurm, or fewer --methods and --families"
        elif most > least:
            implies += ", depending on when validation stops meta-training"
        values = {"least_seconds": round(least), "most_seconds": round(most), "families": list(families)}
        yield Finding(name, f"about {span(least, most)} on {', '.join(families)}", implies, values)


def _table_estimate(suite: Suite, profile: str, families: tuple[str, ...], compute: Compute) -> Estimate:
    request = RunRequest(suite=suite.name, profile=profile, families=families, cache=Path())
    cells = make_plan(request, compute, _dummy_source).cells
    trained = {each.training_key: each for cell in cells for each in with_bases(cell) if each.artifact}
    costs = [*(estimate(c, compute) for c in cells), *(training_estimate(c, compute) for c in trained.values())]
    return sum(costs, Estimate())


def _dummy_source(name: str, size: int | None) -> Source:
    """Blank images in the shape of the real ones: enough to plan with, and nothing is read or decoded."""
    spec = SOURCES[name]
    side = size or spec.resize or spec.image_size
    labels = np.repeat(np.arange(spec.classes), 600)
    images = np.broadcast_to(np.uint8(0), (len(labels), spec.channels, side, side))
    return Source(name, images, labels, tuple(map(str, range(spec.classes))), "")
