"""The local Slurm itself: it starts, says why when it does not, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.local_slurm import LocalSlurm, LocalSlurmError, local, not_installed
from tests.slurm.local_slurm.configuration import free_ports, slurm_conf
from tests.slurm.local_slurm.processes import kill_at_once, members_of

from .conftest import FakeCommand

ROOT = Path(__file__).parents[2]

real = pytest.mark.slurm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For a Slurm of the test's own; skips where Slurm is not installed."""
    if reason := not_installed():
        pytest.skip(reason)
    return tmp_path / "s"


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tests.slurm.local_slurm", *map(str, words)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)


def a_job_runs(slurm: LocalSlurm, mark: Path) -> None:
    """Submit a job that ignores SIGTERM, with a child that leaves it, and wait until both run."""
    script = f"trap '' TERM; setsid sh -c 'sleep 600' & echo $! >{mark}.part; mv {mark}.part {mark}; srun sleep 600"
    slurm.run("sbatch", "--output=/dev/null", f"--wrap={script}")
    until(lambda: mark.exists() and "|R" in slurm.run("squeue", "--steps", "--noheader", "--format=%i|R"))


def until(reached: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended; what nobody has reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@real
def test_it_runs_inside_with_and_not_after(folder: Path, tmp_path: Path) -> None:
    with LocalSlurm(folder, nodes=3, cpus=5) as slurm:
        assert slurm.run("sinfo", "--noheader", "--format=%P %a %D %c %T").splitlines() == [
            "main* up 3 5 idle",
            "urgent up 3 5 idle",
        ]
        a_job_runs(slurm, tmp_path / "mark")
        assert members_of(folder)
    assert not members_of(folder)
    assert gone(int((tmp_path / "mark").read_text()))
    slurm.stop()  # once more changes nothing


@real
def test_two_at_the_same_time(tmp_path: Path, folder: Path) -> None:
    with LocalSlurm(tmp_path / "a", nodes=1) as one, LocalSlurm(tmp_path / "b", nodes=1) as two:
        for slurm in (one, two):
            assert slurm.run("srun", "sh", "-c", "echo $SLURM_CONF").strip() == str(slurm.conf)
    assert not members_of(tmp_path / "a") | members_of(tmp_path / "b")


@real
def test_queue_is_emptied(folder: Path, tmp_path: Path) -> None:
    with LocalSlurm(folder, nodes=1) as slurm:
        a_job_runs(slurm, tmp_path / "mark")
        slurm.run("sbatch", "--hold", "--array=1-9", "--wrap=true")
        slurm.cancel_all()
        assert slurm.run("squeue", "--noheader") == ""


@real
def test_a_lost_node_comes_back(folder: Path, tmp_path: Path) -> None:
    with LocalSlurm(folder, nodes=2) as slurm:
        a_job_runs(slurm, tmp_path / "mark")
        before = members_of(folder, "n1")
        slurm.lose_node("n1")
        assert gone(int((tmp_path / "mark").read_text()))
        assert not before & members_of(folder)
        until(
            lambda: slurm.run("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%N") == "n[1-2]\n"
        )
        with pytest.raises(LocalSlurmError, match="nothing runs on a node n3"):
            slurm.lose_node("n3")


def test_killed_processes_are_gone_when_the_call_returns() -> None:
    command = [sys.executable, "-c", "data = bytearray(60_000_000); print('up', flush=True); input()"]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        kill_at_once(lambda: {process.pid for process in started if not gone(process.pid)})
        assert all(gone(process.pid) for process in started)
    finally:
        for process in started:
            process.kill()
            process.communicate()


@real
def test_it_listens_on_loopback_only(folder: Path) -> None:
    with LocalSlurm(folder) as slurm:
        lines = slurm.conf.read_text().splitlines()
        ports = {int(word.partition("Port=")[2]) for line in lines for word in line.split() if "Port=" in word}
        assert len(ports) == 3
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        at = {address for address, port in (entry.split(":") for entry in listening) if int(port, 16) in ports}
        assert at == {"0100007F"}


@real
def test_command_line(folder: Path, tmp_path: Path) -> None:
    try:
        started = command("start", folder, "1")
        assert (started.returncode, started.stdout) == (0, f"export SLURM_CONF={folder}/slurm.conf\n"), started.stderr
        assert "already runs" in command("start", folder).stderr
        a_job_runs(LocalSlurm(folder), tmp_path / "mark")
    finally:
        stopped = command("stop", folder)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not members_of(folder)
    assert gone(int((tmp_path / "mark").read_text()))
    assert command("stop", folder).returncode == 0


@real
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_wanted_it(folder: Path, tmp_path: Path, sign: signal.Signals) -> None:
    code = "import sys, time; from tests.slurm.local_slurm import LocalSlurm\n"
    code += "with LocalSlurm(sys.argv[1], nodes=1):\n    print('up', flush=True); time.sleep(600)"
    owner = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    a_job_runs(LocalSlurm(folder), tmp_path / "mark")
    owner.send_signal(sign)
    owner.wait(30)
    owner.stdout.close()
    until(lambda: not members_of(folder) and gone(int((tmp_path / "mark").read_text())))


@real
def test_stop_also_ends_what_its_supervisor_has_left(folder: Path, tmp_path: Path) -> None:
    slurm = LocalSlurm(folder, nodes=1)
    slurm.start()
    assert slurm.process is not None
    try:
        a_job_runs(slurm, tmp_path / "mark")
        slurm.process.kill()
        slurm.process.wait()
        assert members_of(folder)
    finally:
        LocalSlurm(folder).stop()
        slurm.stop()
    assert not members_of(folder)
    until(lambda: gone(int((tmp_path / "mark").read_text())))


@real
@pytest.mark.parametrize("daemon", ["munged", "slurmctld", "slurmd"])
def test_a_daemon_that_does_not_start_is_named(folder: Path, fake_command: FakeCommand, daemon: str) -> None:
    fake_command(daemon, "echo 'fatal: the moon is full'; exit 1")
    with pytest.raises(LocalSlurmError, match=r"did not start in .* ended at its start: .*the moon is full"):
        LocalSlurm(folder).start()
    assert not members_of(folder)


@real
def test_a_port_that_another_process_takes(folder: Path) -> None:
    # In a process of its own: a supervisor ends all processes below itself.
    code = """
import socket, sys
from pathlib import Path
from tests.slurm.local_slurm import supervisor

taken = socket.create_server(("127.0.0.1", 0))
really, asked = supervisor.free_ports, []

def free_ports(count):
    ports = really(count)
    if len(asked) < 2:
        ports[-len(asked)] = taken.getsockname()[1]  # the controller's, then the last node's
    asked.append(count)
    return ports

supervisor.free_ports = free_ports
found = supervisor.Supervisor(Path(sys.argv[1]), 2, 1)
try:
    found._start_with_free_ports()
    print(len(asked), sorted(found.daemons))
finally:
    found.stop()
"""
    folder.mkdir()
    environment = {**os.environ, "PATH": local._search_path()}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "3 ['munged', 'n1', 'n2', 'slurmctld']\n", done.stderr
    assert not members_of(folder)


def test_what_is_not_installed_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "COMMANDS", ("sh", "slurm-of-the-moon"))
    assert (reason := not_installed()) is not None
    assert "slurm-of-the-moon not found" in reason
    assert "apt-get install -y --no-install-recommends slurm-wlm munge" in reason
    with pytest.raises(LocalSlurmError, match="not installed"):
        LocalSlurm(tmp_path).start()


@pytest.mark.parametrize("name", ["x" * 90, "a b", "a,b", "50%"])
def test_folders_that_slurm_cannot_live_in(name: str) -> None:
    with pytest.raises(LocalSlurmError, match="at most 75 characters"):
        LocalSlurm(Path("/tmp") / name)


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_numbers_of_nodes(nodes: int) -> None:
    with pytest.raises(LocalSlurmError, match="1 to 64 nodes"):
        LocalSlurm("/tmp/s", nodes)


def test_ports_are_different_and_names_fit_their_number() -> None:
    assert len(set(free_ports(50))) == 50
    assert "Nodes=n1 " in slurm_conf(Path("/s"), "me", [1, 2], 1, 1)
    assert "Nodes=n[1-2] " in slurm_conf(Path("/s"), "me", [1, 2, 3], 1, 1)
