"""Find and end the processes of a Slurm in one folder, through /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

KILL_SECONDS = 30.0
DAEMONS = ("munged", "slurmctld", "slurmd", "slurmstepd")
MARK = "LOCAL_SLURM"  # a variable of every daemon and its children except jobs: FOLDER/NAME


def _pids() -> Iterator[int]:
    yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _parents() -> dict[int, int]:
    parents = {}
    for pid in _pids():
        with suppress(OSError):
            # the name, in parentheses, may itself contain parentheses and spaces
            state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[pid] = int(parent)
    return parents


def descendants(roots: Iterable[int]) -> set[int]:
    """Living children of `roots`, their children, and so on, without `roots`."""
    parents = _parents()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def members_of(folder: Path, node: str | None = None) -> set[int]:
    """Daemons started for `folder`, their descendants, and processes of their jobs, whoever is their parent.

    With `node`, only those on that node.
    """
    found = set()
    for pid in _parents():
        process = Path(f"/proc/{pid}")
        with suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if (process / "comm").read_text().startswith(DAEMONS):
                mark = os.fsencode(f"{MARK}={folder}/{node or ''}")
                ours = any(each == mark or (node is None and each.startswith(mark)) for each in variables)
                if not ours:  # a slurmstepd overwrites its environment with its title, but has its node's log open
                    logs = {_target(link) for link in (process / "fd").iterdir()}
                    where = folder / "log"
                    ours = where / f"{node}.log" in logs if node else any(log and where in log.parents for log in logs)
            else:
                ours = os.fsencode(f"SLURM_CONF={folder}/slurm.conf") in variables
                mark = b"SLURMD_NODENAME=" + os.fsencode(node or "")  # set in jobs only
                ours = ours and any(each == mark or (node is None and each.startswith(mark)) for each in variables)
            if ours:
                found.add(pid)
    return found | descendants(found)


def kill_at_once(find: Callable[[], set[int]]) -> None:
    """SIGKILL everything that `find` returns and wait until it is gone.

    All of it is stopped first, so that no process reacts to the end of another or starts a new one meanwhile.

    Raises:
        TimeoutError: A process is still there after `KILL_SECONDS`.
    """
    stopped: set[int] = set()
    while new := find() - stopped:
        _send(signal.SIGSTOP, new)
        stopped |= new
    _send(signal.SIGKILL, stopped)
    deadline = time.monotonic() + KILL_SECONDS
    # The kernel kills asynchronously: on a busy machine a killed process stays visible until it is scheduled once more.
    while left := stopped & set(_parents()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes survive SIGKILL for {KILL_SECONDS:.0f} s: {sorted(left)}")
        time.sleep(0.01)


def _send(sign: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def _target(link: Path) -> Path | None:
    with suppress(OSError):  # closed since
        return link.readlink()
    return None


def end(pids: Iterable[int], patience: float) -> None:
    """Send SIGTERM, and SIGKILL to what remains after `patience` seconds. Children of this process are reaped."""
    left = set(pids)
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        _send(sign, left)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            reap()
            left &= set(_parents())
            time.sleep(0.01 if left else 0)


def reap() -> bool:
    """Reap the children of this process that have ended; returns whether none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return True
    return False
