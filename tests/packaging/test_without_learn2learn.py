"""Where learn2learn is not installed, ProtoNet and Meta-Baseline run all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import runpy, sys
sys.modules.update(learn2learn=None, gym=None)  # neither can be imported
runpy.run_module("pudnet_bench", run_name="__main__", alter_sys=True)
"""


def test_a_run_of_protonet_and_meta_baseline(tmp_path: Path) -> None:
    """In a process of its own, in which nothing of learn2learn can have been imported already."""
    run = ["run", "table1", "--groups", "2", "--training-groups", "2", "--methods", "protonet,meta-baseline"]
    places = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *run, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[2:] == ["ProtoNet", "Meta-Baseline"]
