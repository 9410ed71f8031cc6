"""pytest fixtures, imported by tests/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.local_slurm.local import LocalSlurm, not_installed


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    """A Slurm of two nodes, started once per session and xdist worker; skips where Slurm is not installed."""
    if reason := not_installed():
        pytest.skip(reason)
    with LocalSlurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def local_slurm(slurm_daemons: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    """That Slurm with an empty queue, found by the test's commands; its jobs are cancelled after the test."""
    for name in list(os.environ):  # of a Slurm that the tests themselves may run under
        if name.startswith(("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_")):
            monkeypatch.delenv(name)
    for name, value in slurm_daemons.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_daemons
    slurm_daemons.cancel_all()
