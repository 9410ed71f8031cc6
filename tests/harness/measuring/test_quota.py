"""CPU quotas of control groups: read from the files of either version, and followed by a run's threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pudnet_bench.harness.measuring.quota import cpu_quota

ROOT = Path(__file__).parents[3]
V2 = "31 23 0:28 {top} {point} rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {top} {point} rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with these files of /proc and of control groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHERS + mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "above", "quota"),
    [("150000 100000", "max 100000", 1.5), ("max 100000", "50000 100000", 0.5), ("400000 100000", "25000 50000", 0.5),
     ("max 100000", "max 100000", None), ("nonsense", "max 100000", None)],
)  # fmt: skip
def test_version_2_up_to_the_root(tmp_path: Path, own: str, above: str, quota: float | None) -> None:
    files = {"sys/fs/cgroup/a.slice/b c/cpu.max": own + "\n", "sys/fs/cgroup/a.slice/cpu.max": above + "\n"}
    mount = V2.format(top="/", point="/sys/fs/cgroup")
    assert cpu_quota(machine(tmp_path, "0::/a.slice/b c\n", mount, files)) == quota


@pytest.mark.parametrize(("own", "quota"), [("50000", 0.5), ("-1", None), ("250000", 2.5)])
@pytest.mark.parametrize("name", ["cpu", "cpu,cpuacct", "my cpu"])
def test_version_1(tmp_path: Path, own: str, quota: float | None, name: str) -> None:
    folder = f"sys/fs/cgroup/{name}"
    files = {f"{folder}/job/cpu.cfs_quota_us": own, f"{folder}/job/cpu.cfs_period_us": "100000"}
    files |= {f"{folder}/cpu.cfs_quota_us": "-1", f"{folder}/cpu.cfs_period_us": "100000"}
    mount = V1.format(top="/", point="/" + folder.replace(" ", "\\040"))
    assert cpu_quota(machine(tmp_path, "3:cpuset:/\n2:cpu,cpuacct:/job\n", mount, files)) == quota


@pytest.mark.parametrize(
    ("top", "group"), [("/docker/7", "/docker/7"), ("/", "/docker/7"), ("/", "/"), ("/docker/7", "/")]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path, top: str, group: str, version: int) -> None:
    limits = (
        {"cpu.max": "75000 100000"} if version == 2 else {"cpu.cfs_quota_us": "75000", "cpu.cfs_period_us": "100000"}
    )
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    mount = (V2 if version == 2 else V1).format(top=top, point="/sys/fs/cgroup")
    groups = f"0::{group}\n" if version == 2 else f"4:cpu,cpuacct:{group}\n"
    assert cpu_quota(machine(tmp_path, groups, mount, files)) == 0.75


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(machine(tmp_path, "0::/\n", "", {})) is None


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real control group with half a core; skips where none can be made."""
    name = f"pudnet-bench-{uuid.uuid4().hex}"
    for folder, limits in (
        (Path("/sys/fs/cgroup") / name, {"cpu.max": "50000 100000"}),
        (Path("/sys/fs/cgroup/cpu") / name, {"cpu.cfs_quota_us": "50000"}),
    ):
        with suppress(OSError):
            folder.mkdir()
            try:
                if all((folder / limit).exists() for limit in limits):
                    for limit, text in limits.items():
                        (folder / limit).write_text(text)
                    yield folder
                    return
            finally:
                folder.rmdir()
    pytest.skip("no control group with a CPU quota can be made here")


SHOWN = """
import json, sys, torch
from pudnet_bench.harness.measuring.device import choose_device
compute = choose_device("cpu")
from pudnet_bench.harness.cli.doctor import _threads
from pudnet_bench.harness.measuring.provenance import begin_invocation
call = begin_invocation("", compute)
print(json.dumps([torch.get_num_threads(), compute.name, _threads().found, _threads().implies, call.device, call.threads]))
"""


@pytest.mark.parametrize("wanted", ["", pytest.param("2", marks=pytest.mark.slow)])
def test_threads_follow_a_real_quota_unless_the_user_says_how_many(half_a_core: Path, wanted: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    environment |= {"PYTHONPATH": str(ROOT), **({"OMP_NUM_THREADS": wanted} if wanted else {})}
    enter = f"echo $$ >{half_a_core}/cgroup.procs && exec {sys.executable} -c '{SHOWN}'"
    done = subprocess.run(["sh", "-c", enter], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    threads, name, found, implies, device, recorded = json.loads(done.stdout)
    assert threads == recorded == int(wanted or 1)
    assert name == device
    assert name.endswith("cores, CPU quota of 0.5 cores")
    assert found.endswith(f"of {os.cpu_count()} cores, CPU quota of 0.5 cores")
    assert ("set OMP_NUM_THREADS=1" in implies) == bool(wanted)
