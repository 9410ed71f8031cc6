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
from pudnet_bench.harness.measuring.device import Compute, choose_device, core_count, native_bf16, processor_name
from pudnet_bench.harness.measuring.energy import EnergyMeter
from pudnet_bench.harness.measuring.provenance import driver, git_commit, package_versions
from pudnet_bench.harness.planning.estimate import Estimate, durations, estimate, training_estimate
from pudnet_bench.harness.planning.plan import make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.worker import with_bases
from pudnet_bench.slurm.queue import presence
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.declaration import Suite
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources import SOURCES
from pudnet_bench.suites.sources.catalog import SourceSpec
from pudnet_bench.suites.sources.loading import Source, locate

PROBE_SECONDS = 0.3  # per speed
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
    """Return all findings in reading order; takes about ten seconds, most of them to measure speeds. Writes nothing."""
    compute = choose_device()
    places = {name: locate(name, data_dir=data_dir) for name in SOURCES}
    available = {name for name, place in places.items() if place is not None or name == "digits"}
    rates = _rates(compute.device)
    versions = package_versions()
    return [
        _device(compute),
        _torch(),
        _processor(),
        _threads(),
        _precision(compute, rates),
        _speed(compute, rates),
        _commit(),
        Finding(
            "versions",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
            "recorded with every run, with device, threads and commit",
            {"packages": versions},
        ),
        _memory(compute),
        _energy(compute),
        _disk("cache", cache_dir, IMAGES_DISK + SUITES_DISK, "decoded images and weights", "--cache DIR"),
        _disk("runs", Path.cwd(), 1.0, "measurements", "--out DIR"),
        *(_source(SOURCES[name], place) for name, place in places.items()),
        _suites(available),
        _slurm(),
        *_times(compute, available),
    ]


def _device(compute: Compute) -> Finding:
    version = driver()
    if compute.device.type == "cpu":
        if not version:
            implies = "no NVIDIA driver, no GPU: --device auto uses the CPU"
        elif torch.version.cuda is None:
            implies = f"there is a GPU (driver {version}), but torch is built without CUDA; install a CUDA build"
        else:
            implies = f"there is a GPU (driver {version}) that torch, built for CUDA {torch.version.cuda}, cannot use"
        return Finding("device", f"{compute.name} (cpu)", implies, {"type": "cpu", "driver": version})
    properties = torch.cuda.get_device_properties(compute.device)
    count, gigabytes = torch.cuda.device_count(), properties.total_memory / 1e9
    implies = "--device auto uses it; times come from CUDA events"
    if count > 1:
        implies += f"; with --groups-per-step {count} all {count} share a meta-training"
    return Finding(
        "device",
        f"{count} x {compute.name} (cuda), {gigabytes:.0f} GB, compute capability {properties.major}.{properties.minor}, "
        f"driver {version or 'unknown'}",
        implies,
        {"type": "cuda", "count": count, "gigabytes": round(gigabytes, 1), "driver": version},
    )


def _torch() -> Finding:
    cuda = torch.version.cuda
    cudnn: Callable[[], int | None] = torch.backends.cudnn.version  # torch leaves it untyped
    built_for = f"CUDA {cuda}, cuDNN {cudnn()}" if cuda else "CPUs"
    if torch.cuda.is_available():
        implies = "CUDA is used"
    else:
        implies = "computes on the CPU here, though it could use a GPU" if cuda else "computes on the CPU only"
    found = f"{torch.__version__}, built for {built_for}"
    return Finding("torch", found, implies, {"version": torch.__version__, "cuda": cuda})


def _processor() -> Finding:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    features = [name for name in CPU_FEATURES if known.get(name)]
    listed = ", ".join(features) or "no known vector features"
    native = native_bf16(torch.device("cpu"))
    return Finding(
        "processor",
        f"{processor_name()}; {torch.backends.cpu.get_cpu_capability()}, {listed}",
        "has bfloat16 instructions" if native else "has no bfloat16 instructions: fp32 is faster on this CPU",
        {"features": features, "native_bf16": native},
    )


def _threads() -> Finding:
    threads, cores, load = torch.get_num_threads(), core_count(), os.getloadavg()[0]
    if threads < cores:
        implies = f"times are those of {threads} of {cores} cores; unset OMP_NUM_THREADS to use them all"
    else:
        implies = "a run uses every core: let nothing else run while times are taken"
    if load > cores / 2:
        implies += f"; other work is running (load {load:.1f}), so the speeds and times below are too slow"
    values = {"threads": threads, "cores": cores, "load": load}
    return Finding("threads", f"torch uses {threads} of {cores} cores", implies, values)


def _rates(device: torch.device) -> dict[str, float]:
    """Measure GFLOP/s of matrix products and convolutions in each precision, and GB/s of copies; the best of several."""
    rates = {}
    for precision, dtype in PRECISIONS.items():
        a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype) for _ in range(2))
        maps = torch.randn(FEATURE_MAPS, device=device).to(dtype).to(memory_format=torch.channels_last)
        channels = FEATURE_MAPS[1]
        kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype).to(memory_format=torch.channels_last)
        flops = 2 * 9 * channels * maps.numel()
        rates[f"matrix_{precision}"] = _best_rate(partial(torch.matmul, a, b), device, 2 * MATRIX_SIZE**3)
        rates[f"convolution_{precision}"] = _best_rate(partial(F.conv2d, maps, kernel, padding=1), device, flops)
    source, target = (torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    rates["copy"] = _best_rate(partial(target.copy_, source), device, 2 * COPY_BYTES)  # read and written
    return rates


def _best_rate(work: Callable[[], object], device: torch.device, amount: float) -> float:
    """Return billions of `amount` per second."""
    with torch.no_grad():
        return amount / min(durations(work, device, PROBE_SECONDS)) / 1e9


def _speed(compute: Compute, rates: dict[str, float]) -> Finding:
    def both(kind: str) -> str:
        return ", ".join(f"{_digits(rates[f'{kind}_{precision}'])} {precision}" for precision in PRECISIONS)

    return Finding(
        "speed",
        f"convolutions {both('convolution')}; matrix products {both('matrix')} GFLOP/s; memory {_digits(rates['copy'])} GB/s",
        f"the times below follow from the target network's own speed in {compute.precision}",
        {f"{name}_{'gb' if name == 'copy' else 'gflop'}_per_second": round(rate, 1) for name, rate in rates.items()},
    )


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _precision(compute: Compute, rates: dict[str, float]) -> Finding:
    ratio = rates["convolution_bf16"] / rates["convolution_fp32"]
    faster = ratio > MEANINGFUL_SPEEDUP
    speedup = f"bf16 convolutions are {ratio:.1f} times as fast as fp32"
    if compute.precision == "bf16":
        implies = f"{speedup}: {'keep it' if faster else '--precision fp32 is more exact at no cost'}"
    else:
        advice = "try --precision bf16" if faster else "keep it"
        implies = f"no bfloat16 instructions, and {speedup}: {advice}"
    found = f"--precision auto uses {compute.precision}"
    return Finding("precision", found, implies, {"bf16_over_fp32": round(ratio, 2)})


def _commit() -> Finding:
    commit = git_commit()
    if not commit:
        implies = "runs record no commit; note the package version with them"
        return Finding("commit", "not a git checkout", implies)
    if commit.endswith("+changes"):
        return Finding("commit", commit, "runs would record a commit that is not their code: commit the changes first")
    return Finding("commit", commit, "runs record it")


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
        need = f"{RESNET_MEMORY:.0f} GB"
        implies = f"enough for ConvNet-3; MUSML with a ResNet takes up to {need}: exclude it with --methods"
    else:
        implies = f"enough for every suite; MUSML with ResNet-34 takes the most, up to {RESNET_MEMORY:.0f} GB"
    return Finding("memory", found, implies, {"available_gb": round(available, 1), "total_gb": round(total, 1)})


def _energy(compute: Compute) -> Finding:
    counters = [counter.name for counter in EnergyMeter(compute.device).counters]
    if counters:
        return Finding("energy", ", ".join(counters), "costs include joules, means over groups", {"counters": counters})
    return Finding("energy", "no readable counter", "costs include no joules", {"counters": []})


def _disk(name: str, folder: Path, needed: float, content: str, option: str) -> Finding:
    """Whether there is room in `folder`, which need not exist, for `needed` GB of `content`; `option` chooses another."""
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
    families = [name for name, family in FAMILIES.items() if family.source == spec.name]
    if embedded:
        implies = "the families of --profile quick"
    elif place:
        implies = f"families {', '.join(families)}"
    else:
        fetch = f"`python -m harness data fetch {spec.name} --data DIR` downloads it"
        how = fetch if spec.torchvision else f"download it by hand: {spec.origin}"
        implies = f"needed for {', '.join(families)}; {how}"
    found = "embedded" if embedded else str(place or "not found")
    values = {"families": families, "is_there": embedded or place is not None}
    return Finding(f"source {spec.name}", found, implies, values)


def _sources_of(suite: Suite) -> Iterator[set[str]]:
    """Yield the sources that each of a suite's families of real images needs."""
    for name in suite.families:
        family = FAMILIES[name]
        yield {family.source, FAMILIES[family.trained_on or name].source}


def _suites(available: set[str]) -> Finding:
    """Which suites can run on the `available` sources."""
    suites: dict[str, list[str]] = {"whole": [], "in part": [], "not": []}
    for name, suite in SUITES.items():
        runnable = [sources <= available for sources in _sources_of(suite)]
        suites["whole" if all(runnable) else "in part" if any(runnable) else "not"].append(name)
    parts = [f"{len(suites['whole'])} of {len(SUITES)} on real images (--profile standard, paper)"]
    parts += [f"{kind}: {', '.join(names)}" for kind, names in suites.items() if names and len(names) < len(SUITES)]
    if suites["in part"]:
        implies = "--families excludes what is missing; --profile quick runs every suite, on digits"
    elif suites["not"]:
        implies = "--profile quick runs every suite, on digits"
    else:
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
        implies = (
            "--executor slurm cannot submit; to try it out, `python -m tests.slurm.local_slurm start DIR` in a checkout "
            "starts a Slurm on this machine"
        )
    return Finding("slurm", f"{slurm.version or 'commands of unknown version'}; {slurm.detail}", implies, values)


def _times(compute: Compute, available: set[str]) -> Iterator[Finding]:
    """How long Table 1 takes in each profile, on the families whose images are available, with an empty cache."""
    suite = SUITES["table1"]
    real = tuple(name for name, sources in zip(suite.families, _sources_of(suite), strict=True) if sources <= available)
    for profile in PROFILES.values():
        name = f"table1, {profile.name}"
        families = suite.embedded if profile.embedded else real
        if not families:
            needed = ", ".join(sorted({FAMILIES[name].source for name in suite.families}))
            implies = f"needs {needed} under --data DIR; --profile quick needs none"
            yield Finding(name, "no real images found", implies)
            continue
        command = "python -m harness run table1" + ("" if profile.name == "quick" else f" --profile {profile.name}")
        if families not in (suite.embedded, suite.families):
            command += f" --families {','.join(families)}"
        about = _table_estimate(suite, profile.name, families, compute)
        implies = f"`{command}`"
        if about.least > LONG_SECONDS:
            implies += " takes long here: use a GPU, --executor slurm, or fewer --methods and --families"
        elif about.seconds > about.least:
            implies += ", depending on when validation stops meta-training"
        yield Finding(
            name,
            f"about {span(about.least, about.seconds)} on {', '.join(families)}",
            implies,
            {"least_seconds": round(about.least), "most_seconds": round(about.seconds), "families": list(families)},
        )


def _table_estimate(suite: Suite, profile: str, families: tuple[str, ...], compute: Compute) -> Estimate:
    request = RunRequest(suite=suite.name, profile=profile, families=families, cache=Path())
    plan = make_plan(request, compute, _dummy_source)
    total, trainings = Estimate(), set()
    for cell in plan.cells:
        total += estimate(cell, compute)
        for needing in with_bases(cell):
            if needing.artifact is not None and needing.training_key not in trainings:
                trainings.add(needing.training_key)
                total += training_estimate(needing, compute)
    return total


def _dummy_source(name: str, size: int | None) -> Source:
    """Return blank images in the shape of the real ones: enough to plan with, and nothing is read or decoded."""
    spec = SOURCES[name]
    side = size or spec.resize or spec.image_size
    labels = np.repeat(np.arange(spec.classes), 600)
    images = np.broadcast_to(np.uint8(0), (len(labels), spec.channels, side, side))
    return Source(name, images, labels, tuple(map(str, range(spec.classes))), "")
