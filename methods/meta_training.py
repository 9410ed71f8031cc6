"""One loop for every method that meta-trains: step, check on held-out classes, keep the best, stop when it no longer gains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from methods.base import Group, GroupStream, Method, Progress, Session

LEARNING_RATE = 1e-3  # of every method, with Adam (the paper, section 4.3)
REPORT_EVERY = 10  # groups between two reports; each costs one synchronisation with the device

Input = TypeVar("Input")


@torch.no_grad()
def validation_accuracy(method: Method, groups: Iterable[Group]) -> float:
    """Mean accuracy (0..1) of ``method`` over ``groups``, fitted and tested as unseen groups are."""
    accuracies = []
    for group in groups:
        *_, snapshot = method.fit(group.fit)
        accuracies.append((snapshot.classifier(group.test.images).argmax(-1) == group.test.labels).float().mean())
    return float(torch.stack(accuracies).mean())


def train_until_converged(
    method: Method,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Callable[[int], Iterable[Input]],
    step: Callable[[Input], dict[str, Tensor]],
    groups: GroupStream,
    session: Session,
) -> None:
    """Call ``step`` on one input after the other until the session's budget ends, and leave the best state in place.

    ``module`` is put into training mode; ``step`` updates what ``optimizer`` holds and returns scalar tensors to report.
    ``inputs(n)`` begins after the first n. With validation groups, the state with the best validation accuracy is kept and
    ``session.chosen_groups`` says when it was reached; without, the last state is kept. With ``session.saved`` the
    training goes on from there, bit for bit as if it had not stopped.
    """
    budget, validation = session.budget, list(groups.validation_groups())
    best = Best()
    begun = 0
    if session.saved is not None:
        begun, best = _restore(session.saved, module, optimizer)
    seen = begun
    module.train()
    for seen, item in enumerate(islice(inputs(begun), budget.max_groups - begun), begun + 1):
        metrics = step(item)
        last = seen == budget.max_groups
        check = bool(validation) and (seen % budget.check_every == 0 or last)
        if check or last or seen % REPORT_EVERY == 0:
            report = {name: float(value) for name, value in metrics.items()}
            if check:
                report["validation_accuracy"] = validation_accuracy(method, validation)
                module.train()
            session.report(seen, report)
        if seen in session.milestones:
            session.keep(seen, method.state_dict())
        if check:
            if report["validation_accuracy"] > best.accuracy:
                state = {name: value.detach().clone() for name, value in method.state_dict().items()}
                best = Best(report["validation_accuracy"], seen, 0, state)
            else:
                best = replace(best, checks_since=best.checks_since + 1)
            if best.checks_since == budget.patience:
                break
        if session.due():
            session.save(_progress(seen, best, module, optimizer))
    if best.state:
        session.chosen_groups = best.groups
        method.load_state_dict(best.state)
    else:
        session.chosen_groups = seen


@dataclass(frozen=True)
class Best:
    """The best validation accuracy so far, after how many groups, how many checks ago, and the state it was reached with."""

    accuracy: float = -1.0
    groups: int = 0
    checks_since: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


def _progress(seen: int, best: Best, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    tensors = {f"best/{name}": value for name, value in best.state.items()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in module.named_buffers()}
    for number, parameter in enumerate(_parameters(optimizer)):
        tensors[f"parameter/{number}"] = parameter.detach()
        tensors |= {f"optimizer/{number}/{name}": value for name, value in optimizer.state[parameter].items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    numbers = {"seen": seen, "accuracy": best.accuracy, "groups": best.groups, "checks_since": best.checks_since}
    return Progress(numbers, tensors)


@torch.no_grad()
def _restore(progress: Progress, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, Best]:
    tensors, numbers = progress.tensors, progress.numbers
    for name, buffer in module.named_buffers():
        buffer.copy_(tensors[f"buffer/{name}"])
    for number, parameter in enumerate(_parameters(optimizer)):
        parameter.copy_(tensors[f"parameter/{number}"])
        prefix = f"optimizer/{number}/"
        for key, value in tensors.items():
            if key.startswith(prefix):
                # The fused step needs moments laid out like their parameter, and files do not keep the layout.
                like = parameter if value.shape == parameter.shape else value.to(parameter.device)
                optimizer.state[parameter][key.removeprefix(prefix)] = torch.empty_like(like).copy_(value)
    torch.set_rng_state(tensors["random"])
    if "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    state = {name.removeprefix("best/"): value for name, value in tensors.items() if name.startswith("best/")}
    device = next(iter(_parameters(optimizer))).device
    best = Best(
        numbers["accuracy"], numbers["groups"], numbers["checks_since"],
        {name: value.to(device) for name, value in state.items()},
    )  # fmt: skip
    return numbers["seen"], best


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
