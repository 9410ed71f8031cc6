"""The CPU time that a container or batch system allows, which the number of cores does not show.

Linux's control groups limit a process to so much CPU time per period, and stop all of its threads for the rest of a period.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the smallest quota, in cores, of this process's control group (version 1 or 2) and those above it.

    None without one, or where it cannot be read. `root` is the folder of `proc` and of the mounted control groups.
    """
    quotas = [_quota(folder) for folder in _groups(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups that may limit CPU time, and of all above that are visible."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in memberships)}
    path_of = {each: path for controllers, path in paths.items() for each in controllers.split(",")}
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        (_, _, _, top, point, *_), (kind, _, options) = before.split(" "), after.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller is None or controller not in path_of or (controller and "cpu" not in options.split(",")):
            continue
        mounted = root / _unescaped(point).lstrip("/")
        path, top = PurePosixPath(path_of[controller]), _unescaped(top)
        # A container may see only its own group, mounted as the top one, while its path is that of the host.
        below = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        yield from (mounted / folder for folder in (below, *below.parents))


def _quota(folder: Path) -> float | None:
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
        return None


def _unescaped(path: str) -> str:
    """A path of mountinfo, in which blanks and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
