"""What this machine is, and what follows from it."""

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
from pudnet_bench.harness.measuring.device import Compute, choose, core_count, native_bf16, processor_name
from pudnet_bench.harness.measuring.energy import EnergyMeter
from pudnet_bench.harness.measuring.provenance import driver, git_commit, package_versions
from pudnet_bench.harness.planning.estimate import Estimate, durations, estimate, training_estimate
from pudnet_bench.harness.planning.plan import Choice, make_plan
from pudnet_bench.harness.running.worker import with_bases
from pudnet_bench.slurm.queue import presence
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.declaration import Suite
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources import SOURCES
from pudnet_bench.suites.sources.catalog import SourceSpec
from pudnet_bench.suites.sources.loading import Source, locate

READING_SECONDS = 0.3  # of each speed
MATRIX = 1024  # rows and columns
MAPS = (64, 64, 28, 28)  # images, channels, height and width of what is convolved, about as in ConvNet-3
COPIED = 1 << 26  # bytes, more than caches hold
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLEARLY = 1.1  # times as fast, to be a reason
SLURM_SECONDS = 3.0
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16")  # of processors, that decide about speed
# What is needed, in GB. Memory: the largest of table 1's published costs, and MUSML's docstring with its activations.
CONVNET_MEMORY, RESNET_MEMORY = 1.5, 9.0
IMAGES_DISK = 2.5  # all sources decoded, at all their sizes
SUITES_DISK = 18.0  # weights of every suite, as `run all --profile paper --dry-run` adds them up
LONG = 24 * 3600.0  # seconds that few will wait for one table


@dataclass(frozen=True)
class Finding:
    """``found`` on this machine, what it ``implies`` for runs, in a line each, and the ``values`` behind for programs."""

    name: str
    found: str
    implies: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def examine(data_dir: Path | None, cache_dir: Path) -> list[Finding]:
    """The findings in the order in which they are read. Writes nothing; takes some ten seconds, most of them for speeds."""
    compute = choose()
    places = {name: locate(name, data_dir=data_dir) for name in SOURCES}
    found = {name for name, place in places.items() if place is not None or name == "digits"}
    rates = _rates(compute.device)
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
            ", ".join(f"{name} {version}" for name, version in package_versions().items()),
            "stored with every run, beside device, threads and commit",
            {"packages": package_versions()},
        ),
        _memory(compute),
        _energy(compute),
        _disk("cache", cache_dir, IMAGES_DISK + SUITES_DISK, "decoded images and weights", "--cache DIR"),
        _disk("runs", Path.cwd(), 1.0, "what is measured", "--out DIR"),
        *(_source(SOURCES[name], place) for name, place in places.items()),
        _suites(found),
        _slurm(),
        *_times(compute, found),
    ]


def _device(compute: Compute) -> Finding:
    if compute.device.type == "cpu":
        version = driver()
        if version and torch.version.cuda is None:
            implies = f"a GPU is here (driver {version}), and this torch is built without CUDA; install one that is"
        elif version:
            implies = (
                f"a GPU is here (driver {version}) that torch cannot use; torch is built for CUDA {torch.version.cuda}"
            )
        else:
            implies = "no NVIDIA driver and no GPU: --device auto takes the CPU"
        return Finding("device", f"{compute.name} (cpu)", implies, {"type": "cpu", "driver": version})
    properties = torch.cuda.get_device_properties(compute.device)
    count, gigabytes = torch.cuda.device_count(), properties.total_memory / 1e9
    implies = "--device auto takes it, and times are read from CUDA events"
    if count > 1:
        implies += f"; with --groups-per-step {count} all {count} share a meta-training"
    return Finding(
        "device",
        f"{count} x {compute.name} (cuda), {gigabytes:.0f} GB, compute capability {properties.major}.{properties.minor}, "
        f"driver {driver() or 'unknown'}",
        implies,
        {"type": "cuda", "count": count, "gigabytes": round(gigabytes, 1), "driver": driver()},
    )


def _torch() -> Finding:
    cuda = torch.version.cuda
    here = torch.cuda.is_available()
    found = (
        f"{torch.__version__}, built for {f'CUDA {cuda}, cuDNN {torch.backends.cudnn.version()}' if cuda else 'CPUs'}"
    )
    implies = (
        "CUDA is used" if here else "computes on the CPU" + (" here, though it could use a GPU" if cuda else " only")
    )
    return Finding("torch", found, implies, {"version": torch.__version__, "cuda": cuda})


def _processor() -> Finding:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    features = [name for name in FEATURES if known.get(name)]
    native = native_bf16(torch.device("cpu"))
    return Finding(
        "processor",
        f"{processor_name()}; {torch.backends.cpu.get_cpu_capability()}, {', '.join(features) or 'no vector features known'}",
        "has instructions for bfloat16"
        if native
        else "has no instructions for bfloat16: on the CPU, fp32 is the quicker one",
        {"features": features, "native_bf16": native},
    )


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), core_count()
    busy = os.getloadavg()[0]
    if threads < cores:
        implies = f"times are those of {threads} of {cores} cores; unset OMP_NUM_THREADS to use them all"
    else:
        implies = "a run uses every core: let nothing else run while times are taken"
    if busy > cores / 2:
        implies += f"; other work runs now (load {busy:.1f}), so speeds and times below are too slow"
    return Finding(
        "threads", f"torch uses {threads} of {cores} cores", implies, {"threads": threads, "cores": cores, "load": busy}
    )


def _rates(device: torch.device) -> dict[str, float]:
    """GFLOP/s of matrix products and of convolutions in each precision, and GB/s of copies: the best that was seen."""
    rates = {}
    for precision, kind in PRECISIONS.items():
        a, b = (torch.randn(MATRIX, MATRIX, device=device).to(kind) for _ in range(2))
        maps = torch.randn(MAPS, device=device).to(kind).to(memory_format=torch.channels_last)
        kernel = torch.randn(MAPS[1], MAPS[1], 3, 3, device=device).to(kind).to(memory_format=torch.channels_last)
        convolved = 2 * 9 * MAPS[1] * maps.numel()
        rates[f"matrix_{precision}"] = _best(partial(torch.matmul, a, b), device, 2 * MATRIX**3)
        rates[f"convolution_{precision}"] = _best(partial(F.conv2d, maps, kernel, padding=1), device, convolved)
    source, target = (torch.zeros(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    rates["copy"] = _best(partial(target.copy_, source), device, 2 * COPIED)  # read and written
    return rates


def _best(work: Callable[[], object], device: torch.device, amount: float) -> float:
    """Billions of ``amount`` per second."""
    with torch.no_grad():
        return amount / min(durations(work, device, READING_SECONDS)) / 1e9


def _speed(compute: Compute, rates: dict[str, float]) -> Finding:
    told = []
    for kind, part in (("convolutions", "convolution"), ("matrix products", "matrix")):
        each = (f"{_digits(rates[f'{part}_{precision}'])} {precision}" for precision in PRECISIONS)
        told.append(f"{kind} {', '.join(each)}")
    return Finding(
        "speed",
        f"{'; '.join(told)} GFLOP/s; memory {_digits(rates['copy'])} GB/s",
        f"the times below follow from what the target network itself does per second in {compute.precision}",
        {f"{name}_{'gb' if name == 'copy' else 'gflop'}_per_second": round(rate, 1) for name, rate in rates.items()},
    )


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _precision(compute: Compute, rates: dict[str, float]) -> Finding:
    ratio = rates["convolution_bf16"] / rates["convolution_fp32"]
    told = f"bf16 convolutions are {ratio:.1f} times as fast as fp32"
    if compute.precision == "bf16":
        quicker = ratio > CLEARLY
        implies = f"{told}: keep it" if quicker else f"{told}: --precision fp32 is more exact and costs nothing"
    else:
        implies = f"no instructions for bfloat16, and {told}: " + (
            "try --precision bf16" if ratio > CLEARLY else "keep it"
        )
    return Finding(
        "precision", f"--precision auto takes {compute.precision}", implies, {"bf16_over_fp32": round(ratio, 2)}
    )


def _commit() -> Finding:
    commit = git_commit()
    if not commit:
        return Finding(
            "commit", "not a git checkout", "runs will name no commit; keep the version of the package beside them"
        )
    if commit.endswith("+changes"):
        return Finding("commit", commit, "what is measured now names a commit that it is not: commit the changes first")
    return Finding("commit", commit, "runs name it")


def _memory(compute: Compute) -> Finding:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available, total = (int(fields[name].split()[0]) / 1e6 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return Finding(
            "memory", "unknown", f"ConvNet-3 takes {CONVNET_MEMORY} GB, MUSML with a ResNet {RESNET_MEMORY:.0f} GB"
        )
    found, limit = f"{available:.1f} GB available of {total:.1f} GB", available
    if compute.device.type == "cuda":
        limit = torch.cuda.mem_get_info(compute.device)[0] / 1e9
        found += f"; on the GPU {limit:.1f} GB"
    if limit < CONVNET_MEMORY:
        implies = f"too little: ConvNet-3 takes up to {CONVNET_MEMORY} GB"
    elif limit < RESNET_MEMORY:
        implies = (
            f"enough for ConvNet-3; MUSML with a ResNet takes up to {RESNET_MEMORY:.0f} GB, leave it out with --methods"
        )
    else:
        implies = f"enough for every suite: MUSML with ResNet-34 takes the most, up to {RESNET_MEMORY:.0f} GB"
    return Finding("memory", found, implies, {"available_gb": round(available, 1), "total_gb": round(total, 1)})


def _energy(compute: Compute) -> Finding:
    counters = [counter.name for counter in EnergyMeter(compute.device).counters]
    if counters:
        return Finding("energy", ", ".join(counters), "costs have joules, means over groups", {"counters": counters})
    return Finding("energy", "no counter that can be read", "costs have no joules", {"counters": []})


def _disk(name: str, folder: Path, needed: float, what: str, elsewhere: str) -> Finding:
    exists = folder.absolute()
    while not exists.exists():
        exists = exists.parent
    free = shutil.disk_usage(exists).free / 1e9
    if not os.access(exists, os.W_OK):
        implies = f"cannot be written: choose another place with {elsewhere}"
    elif free < needed:
        implies = f"little room: {what} of all suites take up to {needed:.0f} GB; choose another place with {elsewhere}"
    else:
        implies = f"room for {what} of all suites, up to {needed:.0f} GB"
    return Finding(name, f"{folder}, {free:.0f} GB free", implies, {"path": str(folder), "free_gb": round(free, 1)})


def _source(spec: SourceSpec, place: Path | None) -> Finding:
    embedded = spec.name == "digits"
    families = [name for name, family in FAMILIES.items() if family.source == spec.name]
    found = "embedded" if embedded else str(place or "not found")
    if embedded:
        implies = "the families of --profile quick"
    elif place:
        implies = f"families {', '.join(families)}"
    else:
        implies = f"without it no families {', '.join(families)}; "
        fetch = f"`python -m harness data fetch {spec.name} --data DIR` downloads it"
        implies += fetch if spec.torchvision else f"get it by hand: {spec.origin}"
    return Finding(
        f"source {spec.name}", found, implies, {"families": families, "is_there": embedded or place is not None}
    )


def _sources_of(suite: Suite) -> Iterator[set[str]]:
    """The sources of each of a suite's families of real images."""
    for name in suite.families:
        family = FAMILIES[name]
        trained_on = FAMILIES[family.trained_on] if family.trained_on else family
        yield {family.source, trained_on.source}


def _suites(found: set[str]) -> Finding:
    """Which suites the sources that were found are enough for."""
    kinds: dict[str, list[str]] = {"whole": [], "in part": [], "not": []}
    for name, suite in SUITES.items():
        there = [sources <= found for sources in _sources_of(suite)]
        kinds["whole" if all(there) else "in part" if any(there) else "not"].append(name)
    told = [f"{len(kinds['whole'])} of {len(SUITES)} on real images (--profile standard, paper)"]
    told += [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names and len(names) < len(SUITES)]
    if kinds["in part"]:
        implies = "--families leaves out what is not there; --profile quick runs every suite, on digits"
    elif kinds["not"]:
        implies = "--profile quick runs every suite, on digits"
    else:
        implies = "`python -m harness run all` runs them on digits, with --profile standard or paper on real images"
    values = {kind.replace(" ", "_"): names for kind, names in kinds.items()}
    return Finding("suites", "; ".join(told), implies, values)


def _slurm() -> Finding:
    slurm = presence(SLURM_SECONDS)
    values = {"installed": slurm.installed, "version": slurm.version, "answers": slurm.answers}
    if not slurm.installed:
        implies = "--executor slurm needs a machine of a cluster; --executor local-processes:N works here"
        return Finding("slurm", f"not here ({slurm.detail})", implies, values)
    if slurm.answers:
        implies = "--executor slurm --cluster FILE.toml submits from here; slurm/clusters has files to begin with"
    else:
        implies = (
            "--executor slurm cannot submit; to try it out, `python -m tests.slurm.local_slurm start DIR` in a checkout "
            "starts a Slurm on this machine"
        )
    return Finding("slurm", f"{slurm.version or 'commands of unknown version'}; {slurm.detail}", implies, values)


def _times(compute: Compute, found: set[str]) -> Iterator[Finding]:
    """How long Table 1 would take in each profile, on the families whose images are there, with nothing in the cache."""
    suite = SUITES["table1"]
    there = tuple(name for name, sources in zip(suite.families, _sources_of(suite), strict=True) if sources <= found)
    for profile in PROFILES.values():
        name = f"table1, {profile.name}"
        families = suite.embedded if profile.embedded else there
        command = f"`python -m harness run table1{'' if profile.name == 'quick' else f' --profile {profile.name}'}`"
        if not families:
            needed = ", ".join(sorted({FAMILIES[name].source for name in suite.families}))
            yield Finding(
                name, "no real images are found", f"needs {needed} under --data DIR; --profile quick needs none"
            )
            continue
        about = _about(suite, profile.name, families, compute)
        missing = [] if profile.embedded else [name for name in suite.families if name not in families]
        chosen = f" --families {','.join(families)}" if missing else ""
        implies = f"{command[:-1]}{chosen}`"
        if about.least > LONG:
            implies += " is long here: a GPU, --executor slurm, or fewer --methods and --families"
        elif about.seconds > about.least:
            implies += ", by when validation ends meta-training"
        yield Finding(
            name,
            f"about {span(about.least, about.seconds)} on {', '.join(families)}",
            implies,
            {"least_seconds": round(about.least), "most_seconds": round(about.seconds), "families": list(families)},
        )


def _about(suite: Suite, profile: str, families: tuple[str, ...], compute: Compute) -> Estimate:
    plan = make_plan(suite, PROFILES[profile], Choice(families=families), compute, _stand_in)
    total, trainings = Estimate(), set()
    for cell in plan.cells:
        total += estimate(cell, compute)
        for needing in with_bases(cell):
            if needing.artifact is not None and needing.training_key not in trainings:
                trainings.add(needing.training_key)
                total += training_estimate(needing, compute)
    return total


def _stand_in(name: str, size: int | None) -> Source:
    """A source as large as the real one, of no images: enough to plan with, and nothing is read or decoded for it."""
    spec = SOURCES[name]
    side = size or spec.resize or spec.image_size
    labels = np.repeat(np.arange(spec.classes), 600)
    images = np.broadcast_to(np.uint8(0), (len(labels), spec.channels, side, side))
    return Source(name, images, labels, tuple(map(str, range(spec.classes))), "")
