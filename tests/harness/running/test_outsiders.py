"""Methods as people write them who have not read the contract: measured right, or refused with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

METHODS = """
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.methods.meta_training import train_until_converged
from pudnet_bench.methods.metric import euclidean_logits, prototypes
from torch import nn


@dataclass
class Config:  # looks for its module while the file is imported
    width: int = 3
    layers: list[int] = field(default_factory=list)


def pixels(dataset):
    means = prototypes(dataset.images.flatten(1), dataset.labels, dataset.n_classes)
    return lambda images: euclidean_logits(images.flatten(1), means)


class Many(Method):
    name = "Many"

    def fit(self, dataset):
        classifier = pixels(dataset)
        for step in range(300):
            yield Snapshot(classifier, f"step {step}")


class Numpy(Method):
    name = "Numpy"

    def fit(self, dataset):
        classifier = pixels(dataset)
        yield Snapshot(lambda x: classifier(x).numpy())


class Float64(Method):
    name = "Float64"

    def fit(self, dataset):
        means = prototypes(dataset.images.flatten(1).double(), dataset.labels, dataset.n_classes)
        yield Snapshot(lambda x: euclidean_logits(x.flatten(1).double(), means))


class InPlace(Method):
    name = "InPlace"

    def fit(self, dataset):
        dataset.images.mul_(0).add_(1)
        dataset.labels.zero_()
        yield Snapshot(lambda x: -x.mul_(0).flatten(1)[:, : dataset.n_classes])


class View(Method):
    name = "View"

    def fit(self, dataset):
        means = prototypes(dataset.images.view(len(dataset), -1), dataset.labels, dataset.n_classes)
        yield Snapshot(lambda images: euclidean_logits(images.view(len(images), -1), means))


class ModuleToo(Method, nn.Module):
    name = "ModuleToo"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        self.net = targets.build(target)

    def fit(self, dataset):
        yield Snapshot(pixels(dataset))


class OneThread(Method):
    name = "OneThread"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        torch.set_num_threads(7)
        torch.set_default_dtype(torch.float64)

    def fit(self, dataset):
        yield Snapshot(pixels(dataset))


class Loader(Method):
    name = "Loader"

    def fit(self, dataset):
        pairs = torch.utils.data.TensorDataset(dataset.images, dataset.labels)
        x, y = zip(*torch.utils.data.DataLoader(pairs, 20, num_workers=2), strict=True)
        means = prototypes(torch.cat(x).flatten(1), torch.cat(y), dataset.n_classes)
        yield Snapshot(lambda images: euclidean_logits(images.flatten(1), means))


class Learns(Method):
    name = "Learns"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        self.network = targets.build(target)

    def classifier(self, known):
        means = prototypes(self.network(known.images).float(), known.labels, known.n_classes)
        return lambda x: euclidean_logits(self.network(x).float(), means)

    @torch.no_grad()
    def fit(self, dataset):
        self.network.eval()
        yield Snapshot(torch.no_grad()(self.classifier(dataset)))

    def meta_train(self, groups, session):
        def losses(episode):
            logits = self.classifier(episode.support)(episode.query.images)
            return {"loss": torch.nn.functional.cross_entropy(logits, episode.query.labels)}

        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        train_until_converged(self, self.network, optimizer, groups.episodes, losses, groups, session)

    def state_dict(self):
        return dict(self.network.state_dict())

    def load_state_dict(self, state):
        self.network.load_state_dict(state)


class NonContiguous(Learns):
    name = "NonContiguous"

    def state_dict(self):
        return {k: v.transpose(0, -1) if v.ndim > 1 else v for k, v in self.network.state_dict().items()}

    def load_state_dict(self, state):
        self.network.load_state_dict({k: v.transpose(0, -1) if v.ndim > 1 else v for k, v in state.items()})


class Nested(Learns):
    name = "Nested"

    def state_dict(self):
        return {"model": self.network.state_dict()}

    def load_state_dict(self, state):
        self.network.load_state_dict(state["model"])


class OwnLoop(Learns):
    name = "OwnLoop"

    def meta_train(self, groups, session):
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        for _, episode in zip(range(3), groups.episodes()):
            logits = self.classifier(episode.support)(episode.query.images)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, episode.query.labels).backward()
            optimizer.step()


class Complex(Learns):
    name = "Complex"
    OTHERS = {"basis": torch.zeros(3, dtype=torch.complex64), "mask": torch.tensor([True]), "half": torch.zeros(2).bfloat16(),
              "empty": torch.zeros(0), "scalar": torch.tensor(3)}

    def state_dict(self):
        return {**self.network.state_dict(), **self.OTHERS}

    def load_state_dict(self, state):
        self.network.load_state_dict({k: v for k, v in state.items() if k not in self.OTHERS})
"""
# What `run` says of the cell that fails, and `check` of the method; "" where it is measured, or keeps the contract.
SAID = {
    "Many": ("", ""), "Float64": ("", ""), "View": ("", ""), "Loader": ("", ""), "Learns": ("", ""),
    "NonContiguous": ("", ""), "Complex": ("", ""),
    "Numpy": ("a classifier returned ndarray; it must return a tensor", "a classifier returned ndarray; it must return a tensor"),
    "InPlace": ("equal logits for all 2 classes", "the images of the fit dataset were changed; work on a copy"),
    "ModuleToo": ("AttributeError: cannot assign module before Module.__init__() call (methods.py, line",
                  "cannot assign module before Module.__init__() call (methods.py, line"),
    "OneThread": ("", "after __init__; restore it"),
    "Nested": ("state_dict holds OrderedDict under 'model'; tensors only", "state_dict holds OrderedDict under 'model'"),
    "OwnLoop": ("", "session.save_milestone must be called after 2 and 4 groups"),
}  # fmt: skip


@pytest.mark.slow
def test_each_is_measured_or_told_what_is_wrong(command_line: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "methods.py").write_text(METHODS)
    files = [word for name in SAID for word in ("--method", f"methods.py:{name}")]
    call = ("run", "table1", *files, "--methods", ",".join(SAID), "--groups", 2, "--training-groups", 2, "--out", "out")
    done = command_line(*call, "--cache", tmp_path / "cache")
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    cells = json.loads(command_line("status", "out", "--json").stdout)["cells"]
    found = {cell["method"]: (cell["state"], cell["reason"]) for cell in cells}
    for name, (said, _) in SAID.items():
        assert found[name][0] == ("failed" if said else "done"), found[name]
        assert said in found[name][1]
    for name, (_, said) in SAID.items():
        checked = command_line("check", f"methods.py:{name}", "--cache", tmp_path / "cache")
        assert (checked.exit_code, said in checked.stdout) == (1 if said else 0, True), checked.output
        assert "Casting complex" not in checked.output
