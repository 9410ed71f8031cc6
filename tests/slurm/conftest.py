"""A real Slurm for the tests that need one, and stand-ins for Slurm's commands for the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.testing.fixtures import local_slurm, slurm_daemons

__all__ = ["local_slurm", "slurm_daemons"]

FakeCommand = Callable[..., Path]


@pytest.fixture
def fake_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    """``fake_command("squeue", "echo 12")`` puts a shell script before all others; returns the log of its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str = "") -> Path:
        script, log = folder / name, tmp_path / f"{name}.log"
        script.write_text(f'#!/bin/sh\necho "$@" >>{log}\n{body}\n')
        script.chmod(0o755)
        log.touch()
        return log

    return make
