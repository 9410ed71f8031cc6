"""The wheel, installed with pip into a fresh environment among other people's packages and repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("results", "slurm")  # packages on the index with the names of rooms

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without the environment's and the checkout's import path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source distribution, as it would be published."""
    uv = shutil.which("uv")
    assert uv, "uv is not on the path; `pip install uv`"
    folder = tmp_path_factory.mktemp("dist")
    run(uv, "build", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


class Environment:
    """A fresh virtual environment in a foreign git repository."""

    def __init__(self, repository: Path) -> None:
        self.repository, self.folder = repository, repository / ".venv"
        run(sys.executable, "-m", "venv", self.folder, cwd=repository)
        (self.packages,) = self.folder.glob("lib/python*/site-packages")

    def pip(self, *arguments: str | Path) -> str:
        return run(self.folder / "bin/python", "-m", "pip", *arguments, cwd=self.repository)

    def bench(self, *arguments: str) -> str:
        return run(self.folder / "bin/pudnet-bench", *arguments, cwd=self.repository)

    def files_of(self, package: str) -> dict[str, bytes]:
        folder = self.packages / package
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}

    def borrow_dependencies(self) -> None:
        """See the running environment's packages after its own; installing torch again would take minutes."""
        (self.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


METHOD = """
from methods.networks import SCALE
from pudnet_bench import Dataset, Method, Snapshot
from pudnet_bench.methods.metric import euclidean_logits, prototypes


class Mine(Method):
    name = "mine"

    def fit(self, dataset: Dataset):
        means = prototypes(SCALE * dataset.images.flatten(1), dataset.labels, dataset.n_classes)
        yield Snapshot(lambda images: euclidean_logits(SCALE * images.flatten(1), means))
"""


def foreign_repository(folder: Path) -> str:
    """Make a few-shot repository with a `methods` package of its own; returns its commit."""
    (folder / "methods").mkdir(parents=True)
    (folder / "methods" / "__init__.py").write_text("")
    (folder / "methods" / "networks.py").write_text("SCALE = 2.0\n")
    (folder / "mine.py").write_text(METHOD)
    identity = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *identity, "commit", "--quiet", "--message", "first", cwd=folder)
    return run("git", "rev-parse", "HEAD", cwd=folder).strip()


def test_the_wheel_holds_one_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pudnet_bench"}
    inside = {name.removeprefix("pudnet_bench/") for name in names}
    assert {"py.typed", "results/paper/table1.csv", "results/rendering/page/report.html"} <= inside
    assert {"slurm/clusters/gpu.toml", "harness/authoring/templates/my_method.py"} <= inside
    rooms = ("harness", "methods", "results", "slurm", "suites")
    tracked = {str(path.relative_to(ROOT)) for room in rooms for path in (ROOT / room).rglob("*.py")}
    assert tracked <= inside
    assert not [name for name in names if "published" in name or "tests" in name or "docs" in name]


def test_the_wheel_installed_by_pip_lives_with_its_neighbours(wheel: Path, tmp_path: Path) -> None:
    repository = tmp_path / "few-shot"
    commit = foreign_repository(repository)
    environment = Environment(repository)
    environment.pip("install", "--dry-run", "--quiet", wheel)  # its dependencies can be had without a compiler
    index = subprocess.run([environment.folder / "bin/pip", "download", "--no-deps", "--quiet", *OTHERS], cwd=tmp_path)
    if index.returncode:
        pytest.skip("the package index cannot be reached")
    environment.pip("install", "--no-deps", "--quiet", wheel)
    environment.pip("install", "--no-deps", "--quiet", *OTHERS)
    others = {name: environment.files_of(name) for name in OTHERS}
    assert all(others.values())
    environment.borrow_dependencies()
    where = "from importlib.util import find_spec as f; print(f('pudnet_bench').origin, f('results').origin)"
    found = run(environment.folder / "bin/python", "-c", where, cwd=repository).split()
    assert all(path.startswith(str(environment.packages)) for path in found)

    assert wheel.name.split("-")[1] in environment.bench("--version")
    assert "table1" in run(environment.folder / "bin/python", "-m", "pudnet_bench", "list", cwd=repository)
    few = ("--groups", "2", "--training-groups", "2", "--cache", str(tmp_path / "cache"), "--out", "runs/quick")
    assert "PudNet" in environment.bench("run", "table1", *few)
    assert "mine" in environment.bench("run", "table1", *few, "--method", "mine.py:Mine", "--methods", "mine")
    environment.bench("report", "runs/quick")
    records = [path.read_text() for path in (repository / "runs").rglob("*.json")]
    assert records
    assert not [record for record in records if commit in record]
    assert commit not in (repository / "runs/quick/report.html").read_text()
    environment.bench("new", "method", "new_method.py")
    environment.bench("check", "new_method.py:NewMethod", "--cache", str(tmp_path / "cache"))
    environment.bench("check", "mine:Mine", "--cache", str(tmp_path / "cache"))

    (environment.packages / "borrowed.pth").unlink()
    environment.pip("uninstall", "--yes", "--quiet", "pudnet-bench")
    assert not (environment.packages / "pudnet_bench" / "__init__.py").exists()
    assert {name: environment.files_of(name) for name in OTHERS} == others
    environment.pip("uninstall", "--yes", "--quiet", *OTHERS)
