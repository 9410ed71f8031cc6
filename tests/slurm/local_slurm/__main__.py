"""`python -m tests.slurm.local_slurm start DIR [NODES]` and `python -m tests.slurm.local_slurm stop DIR`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.slurm.local_slurm.local import LocalSlurm, LocalSlurmError
from tests.slurm.local_slurm.supervisor import Supervisor


def main() -> int:
    """The exit status: 0, or 1 after one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm.local_slurm", description="A real Slurm on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{start,stop}")
    start = verbs.add_parser("start", help="start a Slurm in DIR; it runs until it is stopped")
    stop = verbs.add_parser("stop", help="end the Slurm of DIR and its jobs")
    supervise = verbs.add_parser("supervise")  # what `start` runs in the background
    for verb in (start, stop, supervise):
        verb.add_argument("folder", metavar="DIR", type=Path)
    for verb in (start, supervise):
        verb.add_argument("nodes", metavar="NODES", type=int, nargs="?", default=2, help="default: 2")
        verb.add_argument("--cpus", type=int, help="CPUs of every node; default: the machine's")
        verb.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a line of slurm.conf")
    supervise.add_argument("--lifeline", action="store_true")
    given = parser.parse_args()
    if given.verb == "supervise":
        cpus = given.cpus or os.cpu_count() or 1
        return Supervisor(given.folder, given.nodes, cpus, settings(given.set)).run(given.lifeline)
    try:
        if given.verb == "stop":
            LocalSlurm(given.folder).stop()
            return 0
        slurm = LocalSlurm(given.folder, given.nodes, given.cpus, settings(given.set))
        slurm.start()
    except LocalSlurmError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"export SLURM_CONF={slurm.conf}")
    return 0


def settings(lines: list[str]) -> dict[str, str]:
    """The NAME=VALUE of `lines` by name."""
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


if __name__ == "__main__":
    sys.exit(main())
