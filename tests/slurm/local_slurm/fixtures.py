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
    use(slurm_daemons, monkeypatch)
    yield slurm_daemons
    slurm_daemons.cancel_all()


@pytest.fixture
def many_nodes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    """A Slurm of two dozen nodes, found by the test's commands."""
    if reason := not_installed():
        pytest.skip(reason)
    with LocalSlurm(tmp_path_factory.mktemp("many"), nodes=24) as slurm:
        use(slurm, monkeypatch)
        yield slurm


def use(slurm: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's commands find this Slurm, and none that the tests themselves may run under."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_")):
            monkeypatch.delenv(name)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
