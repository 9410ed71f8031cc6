"""The command line run in this process, and methods that answer at once, written to a file as a user's own would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources.loading import Source, load

CENTROIDS = '''
import time
from pathlib import Path

import torch

from pudnet_bench.methods.base import Method, Snapshot

FITS = Path({fits!r})


def centroids(dataset):
    pixels = dataset.images.flatten(1)
    means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
    return lambda images: -torch.cdist(images.flatten(1), means)


class Own(Method):
    """Nearest mean of raw pixels, with a note of every fit in a file."""

    name = {name!r}

    def fit(self, dataset):
        with FITS.open("a") as log:
            log.write("fit\\n")
        fit_number = len(FITS.read_text().splitlines())
        classifier = centroids(dataset)
{body}
'''

MethodFile = Callable[..., str]
CommandLine = Callable[..., Result]


@pytest.fixture
def fits(tmp_path: Path) -> Path:
    """Where the methods of `method_file` write a line for every fit, those that warm up included."""
    return tmp_path / "fits.log"


@pytest.fixture
def method_file(tmp_path: Path, fits: Path) -> MethodFile:
    """`method_file(body, name)`: a file with a method, as `--method` takes it. `body` is the end of its `fit`."""

    def make(body: str = "yield Snapshot(classifier)", name: str = "own") -> str:
        path = tmp_path / f"{name}.py"
        indented = "".join(f"        {line}\n" for line in body.splitlines())
        path.write_text(CENTROIDS.format(fits=str(fits), name=name, body=indented))
        return f"{path}:Own"

    return make


@pytest.fixture
def command_line(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """`command_line("run", "table1", ...)`: `python -m harness` in this process, in an empty folder, without data."""
    monkeypatch.chdir(tmp_path)
    environment = {"PUDNET_BENCH_CACHE": str(cache_dir), "PUDNET_BENCH_DATA": None, "COLUMNS": "250"}

    def call(*arguments: str | Path, **variables: str) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, words, env={**environment, **variables})

    return call


@pytest.fixture(scope="session")
def compute() -> Compute:
    return choose_device("cpu", "fp32")


@pytest.fixture(scope="session")
def digits(cache_dir: Path) -> Source:
    return load("digits", data_dir=None, cache_dir=cache_dir)


@pytest.fixture(scope="session")
def digits_images(digits: Source, compute: Compute) -> SplitImages:
    return SplitImages(FAMILIES["digits"], digits, compute.device)


@pytest.fixture
def plan_of(cache_dir: Path, compute: Compute) -> Callable[..., Plan]:
    """`plan_of("table1", "quick", methods=("adam",))`; keywords are those of `RunRequest`."""

    def make(suite: str = "table1", profile: str = "quick", on: Compute = compute, **choice: object) -> Plan:
        return make_plan(RunRequest(suite=suite, profile=profile, cache=cache_dir, **choice), on)

    return make
