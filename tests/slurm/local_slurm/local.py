"""Start, use and stop a Slurm on this machine."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.slurm.local_slurm.processes import kill_at_once, members_of

INSTALL = "apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
START_SECONDS = 90.0
STOP_SECONDS = 30.0
# A Unix socket's path has at most 107 characters, and slurmstepd's is FOLDER/n1/n1_<job>.<step>.
LONGEST_FOLDER = 107 - len("/n10/n10_4294967295.4294967295.0")


class LocalSlurmError(Exception):
    """A Slurm that cannot be started, stopped or queried; the message says why."""


def _search_path() -> str:
    """PATH with the folders of system daemons, which a user's PATH often lacks."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def not_installed() -> str | None:
    """Why no Slurm can be started on this machine; None where one can."""
    if not sys.platform.startswith("linux"):
        return "a local Slurm needs Linux"
    missing = [command for command in COMMANDS if shutil.which(command, path=_search_path()) is None]
    if missing:
        return f"Slurm or munge is not installed ({', '.join(missing)} not found); on Debian and Ubuntu: {INSTALL}"
    return None


class LocalSlurm:
    """A Slurm in `folder` with `nodes` nodes of `cpus` CPUs each (default: as many as the machine has).

    As a context manager it runs inside `with`, and ends if this process ends, by whatever signal. Partition `main` is the
    default and `urgent` preempts its jobs. There is no accounting. Jobs run as the current user. `settings` replace lines of
    its slurm.conf, such as {"MaxArraySize": "6"}.

    Raises:
        LocalSlurmError: The folder's name or the number of nodes does not work.
    """

    def __init__(
        self, folder: str | Path, nodes: int = 2, cpus: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(folder).resolve()
        self.nodes, self.cpus = nodes, cpus or os.cpu_count() or 1
        self.settings = dict(settings or {})
        self.process: subprocess.Popen[str] | None = None
        if not 1 <= nodes <= 64:
            raise LocalSlurmError(f"a local Slurm has 1 to 64 nodes, not {nodes}")
        if len(str(self.folder)) > LONGEST_FOLDER or any(c.isspace() or c in ",#%=" for c in str(self.folder)):
            raise LocalSlurmError(
                f"the folder of a local Slurm has at most {LONGEST_FOLDER} characters, without blanks and ,#%=: "
                f"{self.folder}"
            )

    @property
    def conf(self) -> Path:
        """Its slurm.conf, which commands find through the variable SLURM_CONF."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which Slurm's commands find this Slurm."""
        return {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> LocalSlurm:
        self.start(lifeline=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, lifeline: bool = False) -> None:
        """Start it and return once every node is idle. With `lifeline` it ends when this process does."""
        if reason := not_installed():
            raise LocalSlurmError(reason)
        if members_of(self.folder):
            raise LocalSlurmError(
                f"a Slurm already runs in {self.folder}; end it: python -m tests.slurm.local_slurm stop DIR"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, "PATH": _search_path(), "PYTHONPATH": root}
        command = [sys.executable, "-m", "tests.slurm.local_slurm", "supervise", str(self.folder), str(self.nodes)]
        command += ["--cpus", str(self.cpus), *(["--lifeline"] if lifeline else [])]
        command += [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        with (self.folder / "supervisor.log").open("w") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the process that uses it, which then stops it
            )
        try:
            self._await_ready(self.process)
        except BaseException:
            self.stop()
            raise

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        answered, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        answer = process.stdout.readline().strip() if answered else f"no answer after {START_SECONDS:.0f} s"
        if answer != "ready":
            said = (self.folder / "supervisor.log").read_text(errors="replace").split("\n")
            raise LocalSlurmError(f"Slurm did not start in {self.folder}: {answer or ' / '.join(said[-4:])}")

    def stop(self) -> None:
        """End every daemon and job of this Slurm, also if another process started it in the same folder."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None
        elif (pid := self._supervisor()) is not None:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while self._supervisor() == pid and time.monotonic() < deadline:
                time.sleep(0.02)
        deadline = time.monotonic() + STOP_SECONDS
        while left := members_of(self.folder):  # the supervisor itself was killed
            if time.monotonic() > deadline:
                raise LocalSlurmError(f"processes of the Slurm in {self.folder} do not end: {sorted(left)}")
            kill_at_once(lambda: members_of(self.folder))
            time.sleep(0.05)

    def _supervisor(self) -> int | None:
        """The process id of the supervisor of this folder."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / "supervisor.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"tests.slurm.local_slurm" in words and str(self.folder).encode() in words:
                return pid
        return None

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """The output of `command`, such as `scontrol requeue 7`; raises LocalSlurmError when it fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise LocalSlurmError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def lose_node(self, name: str) -> None:
        """Kill everything on node `name`, as a power cut would. Its jobs are requeued, and the node comes back."""
        if not members_of(self.folder, name):
            raise LocalSlurmError(f"nothing runs on a node {name} of the Slurm in {self.folder}")
        kill_at_once(lambda: members_of(self.folder, name))
        # Slurm would notice only after SlurmdTimeout, five minutes; the node is up again as soon as it responds.
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")

    def cancel_all(self) -> None:
        """Cancel all jobs and wait until none is left."""
        self._cancel("--state=PENDING")
        # A step tries for five seconds to reach an srun that ended before it. So steps are ended first, by a signal that
        # nobody handles (KILL would cancel the job), and their scripts have a second to end by themselves.
        self._cancel("--state=RUNNING", "--signal=ALRM")
        began = time.monotonic()
        cancelled = False
        while self.run("squeue", "--noheader", "--format=%i"):
            if not cancelled and time.monotonic() > began + 1.0:
                self._cancel()
                cancelled = True
            if time.monotonic() > began + STOP_SECONDS:
                raise LocalSlurmError(f"jobs do not end: {self.run('squeue')}")
            time.sleep(0.05)

    def _cancel(self, *options: str) -> None:
        with suppress(LocalSlurmError):  # scancel fails where a job ends meanwhile
            self.run("scancel", f"--user={pwd.getpwuid(os.geteuid()).pw_name}", *options)
