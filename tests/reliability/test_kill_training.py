"""`kill -9` twenty times and more, in meta-training, in cells and while files are written; the end is as without a kill."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from pudnet_bench.results.store.run import Run

ROOT = Path(__file__).parents[2]
KILLS, STEPS, GROUPS = 20, 60, 8

# The command line, saving after every step: what is saved twice a minute otherwise would hardly be met by a kill. A process
# that has imported everything forks for each line of arguments: twenty starts of Python would take minutes.
MAIN = """
import json
import os
import sys

import pudnet_bench.harness.running.run
from pudnet_bench.harness.cli.app import main
from pudnet_bench.harness.running import cell
from pudnet_bench.harness.training import checkpoint

checkpoint.SECONDS_BETWEEN, checkpoint.SAVING_SHARE, cell.SHARD_SECONDS = 0.0, 0, 0.0
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        os.environ["PAUSE"], *sys.argv[1:] = json.loads(line)
        main()
        sys.exit()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
METHOD = """
import itertools
import os
import time
from pathlib import Path

import torch
from torch import nn

from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.methods.meta_training import train_until_converged

EVENTS = Path(os.environ["EVENTS"])


def note(text):
    with EVENTS.open("a") as log:
        log.write(text + "\\n")
    time.sleep(float(os.environ["PAUSE"]))


class Patient(Method):
    name = "patient"

    def __init__(self, target, n_training_classes, rate=1e-2):
        super().__init__(target, n_training_classes)
        self.rate = rate
        self.module = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 8))

    def meta_train(self, groups, session):
        optimizer = torch.optim.Adam(self.module.parameters(), lr=self.rate, fused=True)

        def losses(episode):
            note(f"step {self.rate} {episode.index}")
            features = self.module(episode.query.images.flatten(1) + torch.randn(1))
            return {"loss": features.square().mean() - features.var(0).mean()}

        train_until_converged(self, self.module, optimizer, groups.episodes, losses, groups, session)

    @torch.no_grad()
    def fit(self, dataset):
        self.module.eval()
        note(f"fit {self.rate} {float(dataset.images.double().sum())!r}")
        features = self.module(dataset.images.flatten(1))
        means = torch.stack([features[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        bias = torch.randn(dataset.n_classes)
        yield Snapshot(torch.no_grad()(lambda images: bias - torch.cdist(self.module(images.flatten(1)), means)))

    def state_dict(self):
        return dict(self.module.state_dict())

    def load_state_dict(self, state):
        self.module.load_state_dict(state)
"""
SUITE = """
from pudnet_bench.suites.declaration import Suite, Variant

ROWS = tuple(Variant(f"patient-{rate}", "patient", f"rate {rate}", options=(("rate", rate),)) for rate in (0.01, 0.02))
SUITE = Suite("patience", "Patience", ("convnet3",), ("digits",), ROWS)
"""


class Runs:
    """Processes of one run: its folder, its cache and its log of steps and fits."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.cache, self.events = folder / name, folder / f"cache-{name}", folder / f"{name}.log"
        self.events.touch()
        (folder / "patient.py").write_text(METHOD)
        (folder / "patience.py").write_text(SUITE)
        self.arguments = [
            "run", str(folder / "patience.py"), "--method", f"{folder / 'patient.py'}:Patient",
            "--training-groups", f"{STEPS // 2},{STEPS}", "--groups", str(GROUPS), "--precision", "fp32",
            "--cache", str(self.cache), "--out", str(self.folder),
        ]  # fmt: skip
        self.said = folder / f"{name}.err"
        environment = {**os.environ, "EVENTS": str(self.events), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", MAIN], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said.open("w"),
        )  # fmt: skip
        assert self.server.stdin
        assert self.server.stdout
        self.asks, self.answers = self.server.stdin, self.server.stdout

    def begin(self, pause: float) -> int:
        """Start a process of the run and return its id."""
        self.asks.write(json.dumps([str(pause), *self.arguments]) + "\n")
        self.asks.flush()
        return int(self.answers.readline())

    def ended(self) -> int:
        """The exit code of the process that was begun last, or minus the signal that ended it; waits for that."""
        return int(self.answers.readline())

    def whole(self) -> None:
        self.begin(0)
        assert self.ended() == 0, self.said.read_text()

    def close(self) -> None:
        with self.server:
            self.asks.close()

    def happened(self) -> list[str]:
        return self.events.read_text().splitlines()


def runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def outcome(made: Runs) -> str:
    """Everything of the run that no clock has touched, as text: what a table shows, of every group."""
    frame = Run.open(made.folder).frame()
    assert frame["finished"].all()
    kept = frame.drop(
        columns=[
            "seconds",
            "wall_seconds",
            "evaluation_seconds",
            "data_seconds",
            "peak_memory_bytes",
            "meta_train_seconds",
            "energy_joules",
        ]
    )
    table = pd.read_csv(made.folder / "tables" / "patience.csv")
    shown = table[["row", "column", "accuracy_mean", "accuracy_ci", "n"]]
    return str(kept.to_csv(index=False)) + str(shown.to_csv(index=False))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Runs, Runs]]:
    both = Runs(tmp_path, "killed"), Runs(tmp_path, "smooth")
    yield both
    for each in both:
        each.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_change_nothing(made: tuple[Runs, Runs]) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moments of the kills come from random.Random({seed})")  # pytest shows it when the test fails
    rng = random.Random(seed)
    killed, smooth = made
    smooth.whole()
    total = len(smooth.happened())
    finished: set[str] = set()
    where: Counter[str] = Counter()
    for _ in range(KILLS):
        before = len(killed.happened())
        wanted = before + rng.randint(0, total // KILLS)
        process = killed.begin(0.01)
        ends = time.monotonic() + 120
        while len(killed.happened()) < wanted and runs(process):
            assert time.monotonic() < ends, "the run does not get on"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        if killed.ended() != -signal.SIGKILL:
            break  # it was done before: the last kill came too late
        where[(killed.happened() or ["start"])[-1].split()[0]] += 1
        fresh = killed.happened()[before:]
        assert not any(line.split()[1] in finished for line in fresh), "a finished cell or training was begun again"
        if (killed.folder / "record.json").exists():
            run = Run.open(killed.folder)
            cells = [cell for cell in run.record.plan.cells if run.finished(cell.key)]
            rates = Counter(cell.method.split("-")[1] for cell in cells)
            finished = {rate for rate, count in rates.items() if count == 2}  # both milestones
    kills = sum(where.values())
    print(f"{kills} kills: {dict(where)}")
    assert kills >= KILLS - 2
    killed.whole()
    assert outcome(killed) == outcome(smooth)
    assert not list(killed.folder.rglob("*.corrupt")) + list(killed.cache.rglob("*.corrupt"))
    made = {path.parent.name: load_file(path) for path in killed.cache.glob("artifacts/*/weights.safetensors")}
    expected = {path.parent.name: load_file(path) for path in smooth.cache.glob("artifacts/*/weights.safetensors")}
    assert made.keys() == expected.keys()
    assert len(made) == 4
    for key, state in expected.items():
        assert all(state[name].equal(made[key][name]) for name in state)
    steps = Counter(line for line in killed.happened() if line.startswith("step"))
    assert set(steps) == {line for line in smooth.happened() if line.startswith("step")}
    assert (
        sum(steps.values()) <= 2 * STEPS + 2 * kills
    )  # a kill costs the step it meets, and one that was not yet saved
