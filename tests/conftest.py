"""Shared by all rooms: one thread per worker, a cache of its own for every test session, and where real images are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.slurm.local_slurm.fixtures import local_slurm, many_nodes, slurm_daemons

if TYPE_CHECKING:
    import torch

__all__ = ["local_slurm", "many_nodes", "slurm_daemons"]

# Two xdist workers of two threads each would wait for one another inside every parallel region.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests start some hundred processes; each would compile torch and all else that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for decoded images and artifacts, shared by the tests of one worker."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real image sets; skips where PUDNET_BENCH_DATA names none."""
    folder = os.environ.get("PUDNET_BENCH_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PUDNET_BENCH_DATA names no folder with the real image sets")
    return Path(folder)


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The CUDA device, its float32 exact and its convolutions repeatable; skips where there is none. Mark tests `cuda`."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = False, True, False
    yield torch.device("cuda", torch.cuda.current_device())
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def unchanged_path() -> Iterator[None]:
    """Take back the folders that a method file of a test appends to `sys.path`, where a later test would find its modules."""
    before = list(sys.path)
    yield
    sys.path[:] = before
