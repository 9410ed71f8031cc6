"""Energy from counters laid out as Linux's powercap and as NVML have them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pudnet_bench.harness.measuring.energy import EnergyMeter, _nvml_counter, metered, package_counters

CPU = torch.device("cpu")
RANGE = 262_143_328_850  # of a package, in microjoules


def zone(powercap: Path, folder: str, name: str, microjoules: int, range_microjoules: int = RANGE) -> Path:
    """A zone as the kernel has it; returns the file of its counter."""
    made = powercap / folder
    made.mkdir()
    for file, content in (
        ("name", name),
        ("energy_uj", microjoules),
        ("max_energy_range_uj", range_microjoules),
        ("enabled", 1),
    ):
        (made / file).write_text(f"{content}\n")
    return made / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages with their cores and memory, the board around them, and the first package by a second interface."""
    (tmp_path / "intel-rapl").mkdir()  # the control type, which has no counter
    (tmp_path / "intel-rapl" / "enabled").write_text("1\n")
    for package in (0, 1):
        zone(tmp_path, f"intel-rapl:{package}", f"package-{package}", 5_000_000)
        zone(tmp_path, f"intel-rapl:{package}:0", "core", 4_000_000)
        zone(tmp_path, f"intel-rapl:{package}:1", "dram", 3_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    return tmp_path


def use(powercap: Path, folder: str, microjoules: int) -> None:
    file = powercap / folder / "energy_uj"
    file.write_text(f"{(int(file.read_text()) + microjoules) % RANGE}\n")


def test_packages_are_added_and_what_they_hold_or_is_around_them_is_not(powercap: Path) -> None:
    meter = EnergyMeter(CPU, powercap)
    assert [counter.name for counter in meter.counters] == ["package-0", "package-1"]
    meter.start()
    for folder, microjoules in (
        ("intel-rapl:0", 1_500_000),
        ("intel-rapl-mmio:0", 1_500_000),
        ("intel-rapl:0:0", 1_000_000),
        ("intel-rapl:1", 250_000),
        ("intel-rapl:1:1", 100_000),
        ("intel-rapl:2", 4_000_000),
    ):
        use(powercap, folder, microjoules)
    assert meter.stop() == pytest.approx(1.75)
    meter.start()
    assert meter.stop() == 0


def test_a_counter_that_begins_again(powercap: Path) -> None:
    use(powercap, "intel-rapl:1", RANGE - 5_000_000 - 1_000_000)  # a joule before its end
    meter = EnergyMeter(CPU, powercap)
    meter.start()
    use(powercap, "intel-rapl:1", 3_000_000)
    use(powercap, "intel-rapl:0", 500_000)
    assert meter.stop() == pytest.approx(3.5)


@pytest.mark.parametrize("damage", ["unreadable", "not a number", "gone"])
def test_where_a_package_cannot_be_read_nothing_is_reported(powercap: Path, damage: str) -> None:
    meter = EnergyMeter(CPU, powercap)
    meter.start()
    file = powercap / "intel-rapl:1" / "energy_uj"
    file.unlink()
    if damage == "not a number":
        file.write_text("\n")
    elif damage == "unreadable":
        file.mkdir()  # for root, too, whom permissions do not stop
    assert math.isnan(meter.stop())
    assert package_counters(powercap) == ()
    later = EnergyMeter(CPU, powercap)
    later.start()
    assert math.isnan(later.stop())


def test_a_machine_without_powercap(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        meter = EnergyMeter(CPU, folder)
        meter.start()
        assert math.isnan(meter.stop())


def test_only_what_is_used_inside_the_generator_counts(powercap: Path) -> None:
    def work() -> Iterator[str]:
        for item in ("first", "second"):
            use(powercap, "intel-rapl:0", 2_000_000)
            yield item

    used = {}
    for item, joules in metered(work(), EnergyMeter(CPU, powercap)):
        used[item] = joules
        use(powercap, "intel-rapl:0", 50_000_000)  # what a caller does with an item
    assert used == {"first": pytest.approx(2), "second": pytest.approx(4)}


class NVMLError(Exception):
    """As NVML's: of no class of Python's own."""


def nvml(millijoules: dict[str, int]) -> ModuleType:
    """A stand-in for pynvml on a machine whose GPUs, by UUID, have used so much; none at all without a driver."""

    def init() -> None:
        if not millijoules:
            raise NVMLError("Driver Not Loaded")

    def handle(uuid: str) -> str:
        if uuid not in millijoules:
            raise NVMLError("Not Found")
        return uuid

    def energy(handle: str) -> int:
        if millijoules[handle] < 0:
            raise NVMLError("Not Supported")
        return millijoules[handle]

    module = ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    return module


@pytest.fixture(autouse=True)
def _no_memory_of_gpus() -> Iterator[None]:
    _nvml_counter.cache_clear()
    yield
    _nvml_counter.cache_clear()


def test_a_gpu_is_found_by_its_uuid_and_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"GPU-a": 7_000, "GPU-b": 1_000}
    monkeypatch.setitem(sys.modules, "pynvml", nvml(used))
    counter = _nvml_counter("GPU-b")
    assert counter is not None
    before = counter.read()
    used["GPU-b"] += 2_500
    assert counter.since(before) == pytest.approx(2.5)
    used["GPU-b"] = -1  # it fell off the bus
    with pytest.raises(OSError, match="NVML: Not Supported"):
        counter.since(before)


@pytest.mark.parametrize("used", [{}, {"GPU-b": 1}, {"GPU-a": -1}], ids=["no driver", "MIG", "before Volta"])
def test_a_gpu_that_reports_nothing(used: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(used))
    assert _nvml_counter("GPU-a") is None


def test_without_a_driver_the_real_nvml_reports_nothing() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    assert _nvml_counter("GPU-00000000-0000-0000-0000-000000000000") is None


def test_without_pynvml_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert _nvml_counter("GPU-a") is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_energy_of_a_cuda_device_grows_with_its_work() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    meter = EnergyMeter(device)
    if not meter.counters:
        pytest.skip("this GPU reports no energy")
    a = torch.randn(8192, 8192, device=device)
    used = []
    for products in (10, 200):
        meter.start()
        for _ in range(products):
            a @ a
        used.append(meter.stop())
    assert 0 <= used[0] < used[1]
