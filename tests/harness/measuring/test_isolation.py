"""What a method changes in its process is put back, and what its file sets holds for its own cells."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pudnet_bench.harness.measuring.isolation import (
    SETTINGS,
    described_changes,
    imported,
    isolated,
    restored_settings,
)
from pudnet_bench.methods.registry import find_in_file


def set_modes() -> None:
    torch.device("meta").__enter__()


def hook(*_: object) -> None: ...


CHANGES: dict[str, Callable[[], Any]] = {
    "default device": lambda: torch.set_default_device("meta"),
    "a mode": set_modes,
    "gradients": lambda: torch.set_grad_enabled(False),
    "default type": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "a backend's precision": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "autotuning": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "type of autocast": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "denormals": lambda: torch.set_flush_denormal(True),
    "hook after": lambda: nn.modules.module.register_module_forward_hook(hook),
    "hook before": lambda: nn.modules.module.register_module_forward_pre_hook(hook),
    "hook backward": lambda: nn.modules.module.register_module_full_backward_hook(hook),
    "hook on modules": lambda: nn.modules.module.register_module_module_registration_hook(hook),
    "hook of optimisers": lambda: register_optimizer_step_pre_hook(hook),
    "torch's seed": lambda: torch.manual_seed(12345),
    "NumPy's seed": lambda: np.random.seed(12345),
    "Python's seed": lambda: random.seed(12345),
    "NumPy's errors": lambda: np.seterr(all="raise"),
    "environment": lambda: os.environ.update(PUDNET_BENCH_TEST="1"),
    "environment, less": lambda: os.environ.pop("PATH"),
    "folder": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o077),
    "path": lambda: sys.path.insert(0, "/nowhere"),
    "path, another list": lambda: setattr(sys, "path", []),
    "recursion": lambda: sys.setrecursionlimit(5000),
    "collector": gc.disable,
    "signals": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "warnings": lambda: warnings.simplefilter("error"),
    "way of warning": lambda: setattr(warnings, "showwarning", hook),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "level": lambda: logging.getLogger().setLevel(1),
    "handlers": lambda: logging.getLogger().addHandler(logging.NullHandler()),
    "streams": lambda: setattr(sys, "stdout", None),
    "processes": lambda: multiprocessing.set_start_method("spawn", force=True),
}


def state() -> list[Any]:
    return [sys.stdout, *(setting.get() for setting in SETTINGS)]


@pytest.mark.parametrize("change", CHANGES)
def test_each_setting_is_put_back(change: str) -> None:
    before = state()
    with restored_settings() as changed:
        assert changed() == []
        CHANGES[change]()
        assert change == "streams" or changed()
    assert state() == before


def test_a_failure_puts_all_back() -> None:
    before = state()

    @restored_settings()
    def fail() -> None:
        for change in CHANGES.values():
            change()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state() == before


def test_only_what_a_fit_must_not_change_is_told() -> None:
    with restored_settings() as changed:
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        assert described_changes(changed()) == (
            "torch.get_default_dtype() is torch.float64, not torch.float32, "
            "torch.are_deterministic_algorithms_enabled() is True, not False"
        )


def test_child_processes_end_with_the_block() -> None:
    with restored_settings():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    assert not child.is_alive()


def test_what_a_file_sets_holds_for_its_own_cells(tmp_path: Path) -> None:
    text = (
        "import os, sys\nimport torch\nfrom pudnet_bench.methods.base import Method\n"
        "torch.set_num_threads({threads})\ntorch.manual_seed(7)\nos.environ['OF_A_METHOD'] = '{threads}'\n"
        "sys.path.insert(0, '/of/{threads}')\n"
        "class Mine(Method):\n    name = 'mine'\n    def fit(self, dataset): ...\n"
    )
    before, methods = state(), {}
    for threads in (3, 4):
        path = tmp_path / f"m{threads}.py"
        path.write_text(text.format(threads=threads))
        for _ in range(2):  # a second time it is there already, and sets nothing
            methods[threads] = imported(lambda path=path: find_in_file(f"{path}:Mine"))
        assert state() == before
    for threads, method in methods.items():
        with isolated(method):
            assert torch.get_num_threads() == threads
            assert os.environ["OF_A_METHOD"] == str(threads)
            assert sys.path[0] == f"/of/{threads}"
    with isolated(find_in_file.__class__):  # of no method of the user's own
        assert state() == before
    assert state() == before
