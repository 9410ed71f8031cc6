"""One loop for every method that meta-trains: step, check on held-out classes, keep the best, stop when it no longer gains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import ALONE, Checkpoint, Group, GroupStream, Method, Ranks, Session

LEARNING_RATE = 1e-3  # of every method, with Adam (the paper, section 4.3)
REPORT_EVERY = 10  # groups between two reports; each costs one synchronisation with the device

Input = TypeVar("Input")


@torch.no_grad()
def validation_accuracy(method: Method, groups: Sequence[Group], ranks: Ranks = ALONE) -> float:
    """Mean accuracy (0..1) of ``method`` over ``groups``, fitted and tested as unseen groups are, each by one of ``ranks``.

    A group's random draws are its own, and the training's go on as if there had been no validation.
    """
    accuracies = torch.zeros(len(groups), device=groups[0].test.labels.device)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        for place in range(ranks.rank, len(groups), ranks.count):
            torch.manual_seed(place)
            *_, snapshot = method.fit(groups[place].fit)
            test = groups[place].test
            accuracies[place] = (snapshot.classifier(test.images).argmax(-1) == test.labels).float().mean()
    ranks.add([accuracies])
    return float(accuracies.mean())


def train_until_converged(
    method: Method,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Callable[[int, int], Iterable[Input]],
    losses: Callable[[Input], dict[str, Tensor]],
    groups: GroupStream,
    session: Session,
    updates: int = 1,
) -> None:
    """Minimise ``losses`` of one input after the other until the session's budget ends, and leave the best state in place.

    ``module`` is put into training mode; ``optimizer`` holds what is learned. ``losses`` returns scalar tensors: the first is
    minimised, all are reported. ``inputs(n, stride)`` gives every ``stride``-th from number n on. With validation groups,
    the state with the best validation accuracy is kept and ``session.chosen_groups`` says when it was reached; without,
    the last state is kept. With ``session.saved`` the training goes on from there, bit for bit as if it had not stopped.

    ``updates`` optimiser steps are taken on each input. Where ``Budget.groups_per_step`` is more than one, each group of a
    step is computed from the same parameters and buffers, with random numbers of its own, and gradients and buffers are
    averaged: how many of ``session.ranks`` share the groups changes nothing but the order of floating-point sums.
    """
    budget, ranks, validation = session.budget, session.ranks, list(groups.validation_groups())
    step = _Step(losses, module, optimizer, session)
    seen, best = (0, Best()) if session.saved is None else _restore(session.saved, module, optimizer)
    if best.state:
        session.good = (best.groups, best.state)
    module.train()
    stream = iter(inputs(seen, 1))
    while seen < budget.max_groups:
        if budget.groups_per_step == 1:
            metrics = step.on_one(next(stream), updates)
            end = seen + 1
        else:
            end = min(seen + budget.groups_per_step, _next_stop(seen, session, bool(validation)))
            metrics = step.on_many(seen, end, inputs, updates)
        last = end == budget.max_groups
        check = bool(validation) and (end % budget.check_every == 0 or last)
        report_now = check or last or end // REPORT_EVERY > seen // REPORT_EVERY
        seen = end
        if report_now:
            report = {name: float(value) for name, value in metrics.items()}
            if check:
                report["validation_accuracy"] = validation_accuracy(method, validation, ranks)
                module.train()
            session.report(seen, report)
        if seen in session.milestones:
            session.keep(seen, method.state_dict())
        if check:
            if report["validation_accuracy"] > best.accuracy:
                state = {name: value.detach().clone() for name, value in method.state_dict().items()}
                best = Best(report["validation_accuracy"], seen, 0, state)
                session.good = (seen, state)
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


def _next_stop(seen: int, session: Session, checks: bool) -> int:
    """The next number of groups after ``seen`` at which something is done that a step must not pass."""
    budget = session.budget
    stops = [budget.max_groups, *(milestone for milestone in session.milestones if milestone > seen)]
    if checks:
        stops.append((seen // budget.check_every + 1) * budget.check_every)
    return min(stops)


@dataclass(frozen=True)
class _Step(Generic[Input]):
    """Optimiser steps on one group, or on several at once."""

    losses: Callable[[Input], dict[str, Tensor]]
    module: nn.Module
    optimizer: torch.optim.Optimizer
    session: Session

    def on_one(self, item: Input, updates: int) -> dict[str, Tensor]:
        """Returns the losses, of the last update."""
        for _ in range(updates):
            losses = self.losses(item)
            self.optimizer.zero_grad(set_to_none=True)
            next(iter(losses.values())).backward()
            self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def on_many(
        self, first: int, end: int, inputs: Callable[[int, int], Iterable[Input]], updates: int
    ) -> dict[str, Tensor]:
        """On the groups from number ``first`` up to ``end``, of which each rank computes its share."""
        ranks = self.session.ranks
        own = range(first + ranks.rank, end, ranks.count)
        # A rank that has none computes the first, to know what is reported, and counts it as nothing.
        numbers = own or range(first, first + 1)
        items = list(zip(numbers, inputs(numbers.start, ranks.count), strict=False))
        buffers = list(self.module.buffers())
        for _ in range(updates):
            begin = [buffer.clone() for buffer in buffers]
            changes = [torch.zeros_like(buffer) for buffer in buffers]
            reported: list[Tensor] = []
            self.optimizer.zero_grad(set_to_none=True)
            for number, item in items:
                torch.manual_seed(self.session.seed * 1_000_003 + number)
                for buffer, value in zip(buffers, begin, strict=True):
                    buffer.copy_(value)
                losses = self.losses(item)
                next(iter(losses.values())).backward()
                reported.append(torch.stack([loss.detach() for loss in losses.values()]))
                for change, buffer, value in zip(changes, buffers, begin, strict=True):
                    change.add_(buffer - value)
            gradients = [p.grad for p in _parameters(self.optimizer) if p.grad is not None]
            total = torch.stack(reported).sum(0)
            shared = [*gradients, *changes, total]
            if not own:
                for tensor in shared:
                    tensor.zero_()
            ranks.add(shared)
            for tensor in (*gradients, total):
                tensor.div_(end - first)
            for buffer, value, change in zip(buffers, begin, changes, strict=True):
                buffer.copy_(value + (change / (end - first) if change.is_floating_point() else change))
            self.optimizer.step()
        return dict(zip(losses, total, strict=True))


@dataclass(frozen=True)
class Best:
    """The best validation accuracy so far, after how many groups, how many checks ago, and the state it was reached with."""

    accuracy: float = -1.0
    groups: int = 0
    checks_since: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


def _progress(seen: int, best: Best, module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    tensors = {f"best/{name}": value for name, value in best.state.items()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in module.named_buffers()}
    for number, parameter in enumerate(_parameters(optimizer)):
        tensors[f"parameter/{number}"] = parameter.detach()
        tensors |= {f"optimizer/{number}/{name}": value for name, value in optimizer.state[parameter].items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    numbers = {"seen": seen, "accuracy": best.accuracy, "groups": best.groups, "checks_since": best.checks_since}
    return Checkpoint(numbers, tensors)


@torch.no_grad()
def _restore(progress: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, Best]:
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
