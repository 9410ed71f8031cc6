"""What doctor says follows from what it found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pudnet_bench.harness.cli import doctor
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.suites.catalog import SUITES
from pudnet_bench.suites.sources import SOURCES
from tests.slurm.local_slurm.local import LocalSlurm

FP32, BF16 = (Compute(torch.device("cpu"), "here", precision) for precision in ("fp32", "bf16"))


@pytest.mark.parametrize(
    ("compute", "bf16", "told"),
    [
        (BF16, 20.0, "2.0 times as fast as fp32: keep it"),
        (BF16, 9.0, "--precision fp32 is more exact at no cost"),
        (FP32, 20.0, "try --precision bf16"),
        (FP32, 5.0, "no bfloat16 instructions"),
    ],
)
def test_which_precision_follows_from_the_speeds(compute: Compute, bf16: float, told: str) -> None:
    finding = doctor._precision(compute, {"convolution_fp32": 10.0, "convolution_bf16": bf16})
    assert finding.found == f"--precision auto uses {compute.precision}"
    assert told in finding.implies


def test_suites_by_the_sources_that_are_there() -> None:
    everything = doctor._suites(set(SOURCES))
    assert everything.values["whole"] == list(SUITES)
    assert "19 of 19" in everything.found
    nothing = doctor._suites({"digits"})
    assert nothing.values["not"] == list(SUITES)
    assert "--profile quick runs every suite" in nothing.implies
    some = doctor._suites({"digits", "cifar-100"}).values
    assert "table9" in some["whole"]
    assert "table1" in some["in_part"]
    assert "table3" in some["not"]  # it is trained on CIFAR-100 and tested on animals
    both = doctor._suites({"digits", "cifar-100", "animals-10"}).values
    assert "table3" in both["whole"]


def test_a_source_says_what_it_is_for_and_how_to_get_it() -> None:
    found = doctor._source(SOURCES["fashion-mnist"], Path("here"))
    assert (found.found, found.implies) == ("here", "families fashion, fashion-3000, mixed")
    assert "data fetch fashion-mnist" in doctor._source(SOURCES["fashion-mnist"], None).implies
    assert "by hand: https://zenodo.org" in doctor._source(SOURCES["mini-imagenet"], None).implies


def test_too_little_disk_and_memory_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._disk("cache", tmp_path / "no/such", 0.0, "images", "--cache DIR").implies.startswith(
        "enough for images"
    )
    assert (
        "choose another folder with --cache DIR"
        in doctor._disk("cache", tmp_path, 1e9, "images", "--cache DIR").implies
    )
    for available, told in (
        (1e6, "too little"),
        (4e6, "exclude it with --methods"),
        (64e6, "enough for every suite"),
    ):
        meminfo = f"MemTotal: {64 * 10**6} kB\nMemAvailable: {available:.0f} kB\n"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda path, meminfo=meminfo: meminfo)
            found = doctor._memory(FP32)
        assert told in found.implies
        assert found.values["available_gb"] == available / 1e6


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor._slurm()
    assert found.found == "not installed (no sbatch)"
    assert "local-processes" in found.implies


def test_a_slurm_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in (("sbatch", "echo slurm 99.1"), ("scontrol", "exec sleep 60")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "SLURM_SECONDS", 0.3)
    found = doctor._slurm()
    assert found.found.startswith("slurm 99.1; scontrol has not answered for 0.3 s")
    assert "cannot submit" in found.implies


@pytest.mark.slurm
def test_a_slurm_that_answers(local_slurm: LocalSlurm) -> None:
    found = doctor._slurm()
    assert found.values["installed"]
    assert found.values["answers"]
    assert found.values["version"].startswith("slurm")
    assert "--executor slurm --cluster FILE.toml submits from here" in found.implies
