"""The parent process of the daemons: whatever they start is below it and ends with it.

It is a subreaper (prctl(2)): a slurmstepd that leaves its slurmd becomes its child, not init's. Its standard input is a pipe
from the process that started the Slurm; when that process ends, however it ends, all of this ends too.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.slurm.local_slurm.configuration import NONE, free_ports, memory_mb, slurm_conf
from tests.slurm.local_slurm.processes import MARK, descendants, end, reap

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
READY_SECONDS = 60.0
BOOTS = 100  # slurmds started again, so that a broken one does not start for ever
ATTEMPTS = 3  # other processes may take the ports that were free


class StartError(Exception):
    """A daemon that did not start; the message contains the last lines of its log."""


class PortTakenError(StartError):
    """A daemon whose port another process took first."""


class StoppedError(Exception):
    """Asked to stop before everything was up."""


class Supervisor:
    """munged, slurmctld and one slurmd per node in `folder`, each node with `cpus` CPUs; `settings` of slurm.conf."""

    def __init__(self, folder: Path, nodes: int, cpus: int, settings: Mapping[str, str] = NONE) -> None:
        self.folder, self.nodes, self.cpus, self.settings = folder, nodes, cpus, settings
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.stop_requested = False
        self.boots = BOOTS
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")

    def run(self, lifeline: bool) -> int:
        """Start, print "ready" or one sentence about the failure, wait, stop. Returns the exit status."""
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sign, self._request_stop)
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        pid_file = self.folder / "supervisor.pid"
        pid_file.write_text(str(os.getpid()))
        try:
            self._start_with_free_ports()
            report("ready")
            while not self.stop_requested and not (lifeline and input_closed(0.2)):
                if not lifeline:
                    time.sleep(0.2)
                self._check_daemons()
        except StoppedError:
            return 1
        except (StartError, OSError) as error:
            report(" ".join(str(error).split()))
            return 1
        finally:
            self.stop()
            pid_file.unlink(missing_ok=True)
        return 0

    def _request_stop(self, *_: object) -> None:
        self.stop_requested = True

    def _start_with_free_ports(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.start(free_ports(1 + self.nodes))
            except PortTakenError:
                self.stop()
                if attempt == ATTEMPTS:
                    raise
        return None

    def start(self, ports: Sequence[int]) -> None:
        """Start all daemons in an emptied folder and wait until every node is idle."""
        for name in ("state", "log", "run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        user = pwd.getpwuid(os.geteuid()).pw_name
        conf = self.folder / "slurm.conf"
        conf.write_text(slurm_conf(self.folder, user, ports, self.cpus, memory_mb(), self.settings))
        if slurm_version() >= (23, 11):  # its slurmd needs systemd for cgroups; older ones do not know this setting
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        key = self.folder / "munge.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

        socket = self.folder / "munge.socket"
        munge = ["munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}"]
        munge += [f"--pid-file={self.folder}/run/munged.pid", f"--seed-file={self.folder}/munge.seed"]
        self._launch("munged", [*munge, f"--log-file={self.folder}/log/munged.log"])
        self._wait(socket.is_socket)
        self._launch("slurmctld", ["slurmctld", "-D", "-i", "-f", str(conf)])
        for number in range(1, self.nodes + 1):
            self._launch_node(f"n{number}")
        self._wait(self._nodes_idle)

    def _launch_node(self, name: str) -> None:
        self._launch(name, ["slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf")])

    def _launch(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("w") as out:
            environment = {**self.environment, MARK: f"{self.folder}/{name}"}
            self.daemons[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _wait(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not happened():
            self._check_daemons(starting=True)
            if self.stop_requested:
                raise StoppedError
            if time.monotonic() > deadline:
                raise StartError(f"Slurm is not ready after {READY_SECONDS:.0f} s; its logs are in {self.folder}/log")
            time.sleep(0.02)

    def _check_daemons(self, starting: bool = False) -> None:
        reap()
        for name in [name for name, process in self.daemons.items() if process.poll() is not None]:
            del self.daemons[name]
            log = self._last_lines(name)
            print(f"{name} has ended: {log}", file=sys.stderr, flush=True)
            if starting:
                kind = PortTakenError if "Address already in use" in log else StartError
                raise kind(f"{name} ended at its start: {log}")
            if name.startswith("n") and self.boots > 0:  # a lost node comes back
                self.boots -= 1
                self._launch_node(name)

    def _last_lines(self, name: str) -> str:
        for path in (self.folder / "log" / f"{name}.out", self.folder / "log" / f"{name}.log"):
            if path.is_file() and (lines := path.read_text(errors="replace").splitlines()):
                return " / ".join(lines[-3:])
        return "nothing in its log"

    def _nodes_idle(self) -> bool:
        sinfo = ["sinfo", "--noheader", "--Node", "--partition=main", "--states=idle", "--format=%N %T"]
        try:  # without a controller it would retry for ten seconds
            done = subprocess.run(sinfo, env=self.environment, capture_output=True, text=True, timeout=2)
        except subprocess.TimeoutExpired:
            return False
        return sum(line.endswith(" idle") for line in done.stdout.splitlines()) == self.nodes

    def stop(self) -> None:
        """End all daemons and their jobs, the controller first because it would requeue the jobs."""
        if controller := self.daemons.pop("slurmctld", None):
            end([controller.pid], patience=5.0)
        keep = {process.pid for process in self.daemons.values()}
        end(descendants([os.getpid()]) - keep, patience=0.0)
        end(keep, patience=1.0)
        deadline = time.monotonic() + 20.0
        while not reap() and time.monotonic() < deadline:  # what was started in the meantime
            end(descendants([os.getpid()]), patience=0.0)
        self.daemons.clear()


def slurm_version() -> tuple[int, int]:
    """The release of this machine's slurmd, such as (22, 5)."""
    said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def report(line: str) -> None:
    """Print a line for the process that waits for it, which may be gone."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        sys.stdout = sys.stderr


def input_closed(seconds: float) -> bool:
    """Whether the other end of standard input is closed, after waiting up to `seconds` for that."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and os.read(0, 1024) == b""
