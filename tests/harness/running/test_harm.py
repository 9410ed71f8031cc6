"""Methods that do what no method should: each harms its own cell, and no other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from pudnet_bench.results.store.run import Run

CommandLine = Callable[..., Result]
ROOT = Path(__file__).parents[3]
HARMFUL = """
import logging, multiprocessing, os, random, signal, sys, threading, time, warnings
import numpy as np
import torch
from torch import nn
from pudnet_bench import Method, Snapshot


class Failing(Exception):
    def __init__(self, one, two):  # cannot be unpickled
        super().__init__(one)


class Foreign(BaseException): ...


def fail(error):
    raise error


def later(what, *arguments):
    threading.Thread(target=what, args=arguments).start()


DEEDS = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "hook": lambda: nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 0),
    "broken-hook": lambda: nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: 1 / 0),
    "seeds": lambda: (torch.manual_seed(0), np.random.seed(0), random.seed(0)),
    "folder": lambda: os.chdir("/"),
    "warnings": lambda: warnings.simplefilter("error"),
    "environment": lambda: os.environ.clear(),
    "closes": lambda: (sys.stdout.close(), sys.stderr.close()),
    "closes-files": lambda: (os.close(1), os.close(2)),
    "redirects": lambda: setattr(sys, "stdout", open(os.devnull, "w")),
    "path": lambda: sys.path.clear(),
    "alarm": lambda: signal.alarm(1),
    "thread": lambda: later(time.sleep, 600),
    "child": lambda: multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start(),
    "exits": lambda: sys.exit(0),
    "no-file": lambda: open("/nowhere/weights.pt"),
    "foreign": lambda: fail(Foreign("of no kind")),
    "failing": lambda: fail(Failing("one", "two")),
}


class Harmful(Method):
    label = "The worst"

    def fit(self, dataset):
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        if dataset.n_classes:
            DEEDS[self.name]()
        yield Snapshot(lambda images: -torch.cdist(images.flatten(1), means))


globals().update({name: type(name, (Harmful,), {"name": name, "__module__": __name__}) for name in DEEDS})
for name in list(DEEDS):
    globals()[name.replace("-", "_")] = globals()[name]
"""
NAMES = [line.split('"')[1] for line in HARMFUL.splitlines() if line.startswith('    "')]
FAIL = {"exits": "sys.exit(0) (harmful.py, line", "no-file": "FileNotFoundError", "foreign": "Foreign: of no kind (harmful.py",
        "failing": "Failing: one (harmful.py, line"}  # fmt: skip


def bench(folder: Path, *arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pudnet_bench", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PUDNET_BENCH_CACHE": str(cache), "COLUMNS": "300"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def outcomes(folder: Path, *methods: str) -> pd.DataFrame:
    frame = Run.open(folder).frame()
    chosen = frame[frame["method"].isin(methods)].sort_values(["method", "group", "snapshot"], ignore_index=True)
    return chosen[["method", "group", "snapshot", "accuracy", "threads", "precision"]]


@pytest.mark.parametrize("executor", ["local", pytest.param("local-processes:1", marks=pytest.mark.slow)])
def test_harm_ends_with_the_cell(command_line: CommandLine, tmp_path: Path, executor: str) -> None:
    (tmp_path / "harmful.py").write_text(HARMFUL)
    files = [word for name in NAMES for word in ("--method", f"harmful.py:{name.replace('-', '_')}")]
    call = ("run", "table1", "--groups", 2, "--training-groups", 2, "--precision", "fp32", "--executor", executor)
    rows = ",".join([*NAMES, "protonet", "untrained"])
    done = bench(tmp_path, *call, *files, "--methods", rows, "--out", "with", cache=tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    said = {name: line for name in NAMES for line in failed if line.startswith(f"failed: {name}-digits")}
    assert said.keys() >= FAIL.keys()
    assert all(text in said[name] for name, text in FAIL.items())
    assert said.keys() <= {*FAIL, "closes-files", "device", "warnings"}  # which may harm themselves
    assert "it left threads running, which slow what follows: Thread-" in done.stderr
    assert "| ProtoNet | " in done.stdout  # the table, in spite of a closed stream
    alone = command_line(*call, "--methods", "protonet,untrained", "--out", "alone", "--cache", tmp_path / "other")
    assert alone.exit_code == 0, alone.output
    both = [outcomes(tmp_path / name, "protonet", "untrained") for name in ("with", "alone")]
    assert len(both[0]) == 4
    pd.testing.assert_frame_equal(*both)
    shown = json.loads(command_line("status", "with", "--json").stdout)
    states = {cell["method"]: (cell["state"], cell["reason"]) for cell in shown["cells"]}
    for name in NAMES:
        assert states[name][0] == ("failed" if name in said else "done")
        assert name not in FAIL or FAIL[name] in states[name][1]


@pytest.mark.parametrize("executor", ["local", pytest.param("local-processes:1", marks=pytest.mark.slow)])
def test_a_failed_cell_and_a_failed_training_are_failed_until_resume_mends_them(
    command_line: CommandLine, tmp_path: Path, executor: str
) -> None:
    (tmp_path / "beside.py").write_text(
        "def check(path):\n    if not path.exists():\n        raise ValueError('not yet')\n"
    )
    text = (
        "from pathlib import Path\nfrom beside import check\nfrom pudnet_bench.methods.protonet import ProtoNet\n"
        f"REPAIRED = Path({str(tmp_path / 'repaired')!r})\n"
        "class Trains(ProtoNet):\n    name = 'trains'\n"
        "    def meta_train(self, groups, session):\n        check(REPAIRED)\n        super().meta_train(groups, session)\n"
        "class Fits(ProtoNet):\n    name = 'fits'\n"
        "    def fit(self, dataset):\n        check(REPAIRED)\n        yield from super().fit(dataset)\n"
        "    @classmethod\n    def meta_trains(cls):\n        return False\n"
    )
    (tmp_path / "mine.py").write_text(text)
    call = ("run", "table1", "--method", "mine.py:Trains", "--method", "mine.py:Fits", "--methods", "trains,fits")
    call = (
        *call,
        "--groups",
        1,
        "--training-groups",
        2,
        "--cache",
        tmp_path / "cache",
        "--executor",
        executor,
        "--out",
        "out",
    )
    done = command_line(*call)
    assert done.exit_code == 1
    assert done.stderr.count("ValueError: not yet (beside.py, line 3)") == 2
    assert "2 of 2 cells failed; repeat the command to retry them; or try `pudnet-bench check mine.py:" in done.stderr
    assert "Traceback" not in done.output
    cells = json.loads(command_line("status", "out", "--json").stdout)["cells"]
    assert {cell["method"]: (cell["state"], cell["reason"]) for cell in cells} == {
        "trains": ("failed", "its meta-training failed: ValueError: not yet (beside.py, line 3)"),
        "fits": ("failed", "ValueError: not yet (beside.py, line 3)"),
    }
    debugged = command_line(*call, "--debug")
    assert f'File "{tmp_path}/beside.py", line 3, in check' in debugged.stderr
    (tmp_path / "repaired").touch()
    resumed = command_line("resume", "out")
    assert resumed.exit_code == 0, resumed.output
    assert {cell["state"] for cell in json.loads(command_line("status", "out", "--json").stdout)["cells"]} == {"done"}


def test_an_error_of_the_output_folder_is_no_methods(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nimport shutil\nfrom pudnet_bench.methods.protonet import ProtoNet\n"
        "class Mine(ProtoNet):\n    name = 'mine'\n"
        "    @classmethod\n    def meta_trains(cls):\n        return False\n"
        "    def fit(self, dataset):\n"
        f"        shutil.rmtree({str(tmp_path / 'out')!r}, ignore_errors=True)\n"
        f"        Path({str(tmp_path / 'out')!r}).write_text('')\n"
        "        yield from super().fit(dataset)\n"
    )
    call = ("run", "table1", "--method", "mine.py:Mine", "--methods", "mine,adam", "--groups", 1, "--out", "out")
    done = command_line(*call)
    assert done.exit_code == 2
    assert re.search("error: cannot (read|write) .*out", done.stderr)


def test_a_dry_run_says_that_a_method_cannot_be_constructed(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pudnet_bench import Method\nclass Mine(Method):\n    name = 'mine'\n"
        "    def __init__(self, target, n_training_classes):\n        self.size = target.size\n"
        "    def fit(self, dataset): ...\n"
    )
    done = command_line("run", "table1", "--method", "mine.py:Mine", "--methods", "mine", "--dry-run")
    assert done.exit_code == 2
    assert "error: method 'mine' cannot be constructed: AttributeError: 'TargetSpec'" in done.stderr
    assert "(mine.py, line 5)" in done.stderr
