"""A method in a package of the user's own, on a real Slurm: jobs import its modules, and a failure is shown and retried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.slurm.local_slurm import LocalSlurm
from tests.slurm.local_slurm.runs import PROFILE, on_slurm

METHOD = """
from pudnet_bench.methods.protonet import ProtoNet
from .model import scaled


class Mine(ProtoNet):
    name = "mine"

    def features(self, images):
        from . import late
        return scaled(super().features(images)) * late.SCALE
"""
MODEL = """
from pathlib import Path


def scaled(features):
    if not Path({repaired!r}).exists():
        raise ValueError("not yet")
    return features
"""


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_package_in_jobs(local_slurm: LocalSlurm, command_line: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    texts = {
        "__init__": "",
        "method": METHOD,
        "model": MODEL.format(repaired=str(tmp_path / "repaired")),
        "late": "SCALE = 2\n",
    }
    for name, text in texts.items():
        (tmp_path / "package" / f"{name}.py").write_text(text)
    call = (
        "--method",
        "package.method:Mine",
        "--methods",
        "mine",
        "--groups",
        2,
        "--training-groups",
        2,
        "--out",
        "out",
    )
    call = on_slurm(PROFILE, *call)
    done = command_line(*call, "--cache", tmp_path / "cache", "--wait")
    assert done.exit_code == 1, done.output
    (cell,) = json.loads(command_line("status", "out", "--json").stdout)["cells"]
    assert (cell["state"], cell["reason"].partition(" (")[0]) == ("failed", "ValueError: not yet")
    assert "model.py, line 7)" in cell["reason"]
    assert any('model.py", line 7, in scaled' in Path(log).read_text() for log in cell["logs"])
    (tmp_path / "repaired").touch()
    resumed = command_line("resume", "out", "--wait")
    assert resumed.exit_code == 0, resumed.output
    assert {cell["state"] for cell in json.loads(command_line("status", "out", "--json").stdout)["cells"]} == {"done"}
