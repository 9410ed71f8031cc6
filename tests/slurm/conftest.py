"""Stand-ins for Slurm's commands; the real Slurm is in tests/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

FakeCommand = Callable[..., Path]


@pytest.fixture
def fake_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    """`fake_command("squeue", "echo 12")` puts a shell script before all others; returns the log of its arguments."""
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
