"""The meta-training loop shared by all methods: step, validate on held-out classes, keep the best state, stop early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import SINGLE_PROCESS, Checkpoint, Group, GroupStream, Method, Ranks, Session

LEARNING_RATE = 1e-3  # of every method, with Adam (paper, section 4.3)
REPORT_EVERY = 10  # groups between two reports; each costs one synchronisation with the device

Input = TypeVar("Input")


@torch.no_grad()
def validation_accuracy(method: Method, groups: Sequence[Group], ranks: Ranks = SINGLE_PROCESS) -> float:
    """Return the mean accuracy (0..1) of `method` over `groups`, divided among `ranks`.

    Each group has a seed of its own; the random state of the training is left as it was.
    """
    accuracies = torch.zeros(len(groups), device=groups[0].test.labels.device)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        for number in range(ranks.rank, len(groups), ranks.world_size):
            torch.manual_seed(number)
            *_, snapshot = method.fit(groups[number].fit)
            test = groups[number].test
            accuracies[number] = (snapshot.classifier(test.images).argmax(-1) == test.labels).float().mean()
    ranks.all_reduce([accuracies])
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
    """Minimise `losses` over a stream of inputs within the session's budget, and leave the best state in `method`.

    With validation groups the best state is the one with the highest validation accuracy, the first of equals; without,
    it is the last. `session.chosen_groups` is the number of groups after which it was reached. A training resumed from
    `session.checkpoint` ends bit for bit like one that was never interrupted.

    With `Budget.groups_per_step` > 1, the groups of a step start from the same parameters and buffers, each with its own
    random numbers; gradients and buffers are averaged. The number of ranks then changes only the order of sums.

    Args:
        module: everything that has a training mode and buffers.
        optimizer: holds the learned parameters.
        inputs: `inputs(first, stride)` yields every `stride`-th input (an episode or a batch) from number `first` on.
        losses: maps an input to scalar losses by name; the first is minimised, all are reported.
        groups: the source of the validation groups.
        updates: optimiser steps on each input.

    Raises:
        DivergenceError: if a reported loss is not finite.
    """
    budget, validation = session.budget, list(groups.validation_groups())
    seen, best = _restore(session.checkpoint, module, optimizer) if session.checkpoint else (0, _Best())
    if best.state:
        session.best_state = (best.groups, best.state)
    module.train()
    stepper = _Stepper(losses, inputs, iter(inputs(seen, 1)), updates, module, optimizer, session, bool(validation))
    while seen < budget.max_groups:
        before, (seen, metrics) = seen, stepper.step(seen)
        last = seen == budget.max_groups
        check = bool(validation) and (seen % budget.check_every == 0 or last)
        if check or last or seen // REPORT_EVERY > before // REPORT_EVERY:
            report = {name: float(value) for name, value in metrics.items()}
            if check:
                report["validation_accuracy"] = validation_accuracy(method, validation, session.ranks)
                module.train()
            session.report(seen, report)
        if seen in session.milestones:
            session.save_milestone(seen, method.state_dict())
        if check:
            best = best.updated(report["validation_accuracy"], seen, method)
            session.best_state = (best.groups, best.state)
            if best.checks_since == budget.patience:
                break
        if session.checkpoint_due():
            session.save_checkpoint(_checkpoint(seen, best, module, optimizer))
    session.chosen_groups = best.groups if best.state else seen
    if best.state:
        method.load_state_dict(best.state)


@dataclass(frozen=True)
class _Best:
    """The highest validation accuracy so far, after how many groups, how many checks ago, and the state that had it."""

    accuracy: float = -1.0
    groups: int = 0
    checks_since: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def updated(self, accuracy: float, groups: int, method: Method) -> _Best:
        """Return the best after another check, with a copy of the method's state if it has improved."""
        if accuracy > self.accuracy:
            state = {name: value.detach().clone() for name, value in method.state_dict().items()}
            return _Best(accuracy, groups, 0, state)
        return replace(self, checks_since=self.checks_since + 1)


@dataclass(frozen=True)
class _Stepper(Generic[Input]):
    """Optimiser steps on one group or several at once; `stream` is what `inputs` yields from the current group on."""

    losses: Callable[[Input], dict[str, Tensor]]
    inputs: Callable[[int, int], Iterable[Input]]
    stream: Iterator[Input]
    updates: int
    module: nn.Module
    optimizer: torch.optim.Optimizer
    session: Session
    validates: bool

    def step(self, seen: int) -> tuple[int, dict[str, Tensor]]:
        """Step on what comes after `seen` groups; return the groups seen then and the losses of the last update."""
        budget = self.session.budget
        if budget.groups_per_step == 1:
            return seen + 1, self._on_one(next(self.stream))
        stops = [seen + budget.groups_per_step, budget.max_groups, *(m for m in self.session.milestones if m > seen)]
        if self.validates:
            stops.append((seen // budget.check_every + 1) * budget.check_every)
        return min(stops), self._on_many(seen, min(stops))

    def _on_one(self, item: Input) -> dict[str, Tensor]:
        for _ in range(self.updates):
            losses = self.losses(item)
            self.optimizer.zero_grad(set_to_none=True)
            next(iter(losses.values())).backward()
            self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _on_many(self, first: int, end: int) -> dict[str, Tensor]:
        """Step on the groups from number `first` up to `end`, of which each rank computes its share."""
        ranks = self.session.ranks
        own = range(first + ranks.rank, end, ranks.world_size)
        # A rank without a group computes the first, to know the names and shapes to share, and counts it as zero.
        numbers = own or range(first, first + 1)
        items = list(zip(numbers, self.inputs(numbers.start, ranks.world_size), strict=False))
        buffers = list(self.module.buffers())
        for _ in range(self.updates):
            initial = [buffer.clone() for buffer in buffers]
            changes = [torch.zeros_like(buffer) for buffer in buffers]
            reported: list[Tensor] = []
            self.optimizer.zero_grad(set_to_none=True)
            for number, item in items:
                torch.manual_seed(self.session.seed * 1_000_003 + number)
                for buffer, value in zip(buffers, initial, strict=True):
                    buffer.copy_(value)
                losses = self.losses(item)
                next(iter(losses.values())).backward()
                reported.append(torch.stack([loss.detach() for loss in losses.values()]))
                for change, buffer, value in zip(changes, buffers, initial, strict=True):
                    change.add_(buffer - value)
            gradients = [p.grad for p in _parameters(self.optimizer) if p.grad is not None]
            total = torch.stack(reported).sum(0)
            shared = [*gradients, *changes, total]
            if not own:
                for tensor in shared:
                    tensor.zero_()
            ranks.all_reduce(shared)
            for tensor in (*gradients, total):
                tensor.div_(end - first)
            for buffer, value, change in zip(buffers, initial, changes, strict=True):
                buffer.copy_(value + (change / (end - first) if change.is_floating_point() else change))
            self.optimizer.step()
        return dict(zip(losses, total, strict=True))


def _checkpoint(seen: int, best: _Best, module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
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
def _restore(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, _Best]:
    """Restore parameters, buffers, optimiser and random state; return the groups seen and the best so far."""
    tensors, numbers = checkpoint.tensors, checkpoint.numbers
    for name, buffer in module.named_buffers():
        buffer.copy_(tensors[f"buffer/{name}"])
    for number, parameter in enumerate(_parameters(optimizer)):
        parameter.copy_(tensors[f"parameter/{number}"])
        prefix = f"optimizer/{number}/"
        for key, value in tensors.items():
            if key.startswith(prefix):
                # The fused step needs moments with the memory layout of their parameter, which files do not store.
                like = parameter if value.shape == parameter.shape else value.to(parameter.device)
                optimizer.state[parameter][key.removeprefix(prefix)] = torch.empty_like(like).copy_(value)
    torch.set_rng_state(tensors["random"])
    if "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    device = _parameters(optimizer)[0].device
    state = {key.removeprefix("best/"): value.to(device) for key, value in tensors.items() if key.startswith("best/")}
    return numbers["seen"], _Best(numbers["accuracy"], numbers["groups"], numbers["checks_since"], state)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
