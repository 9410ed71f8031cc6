"""One loop for every method that meta-trains: step, check on held-out classes, keep the best, stop when it no longer gains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from methods.base import Group, GroupStream, Method, Session

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
    inputs: Iterable[Input],
    step: Callable[[Input], dict[str, Tensor]],
    groups: GroupStream,
    session: Session,
) -> None:
    """Call ``step`` on one input after the other until the session's budget ends, and leave the best state in place.

    ``module`` is put into training mode; ``step`` updates it and returns scalar tensors to report. With validation
    groups, the state with the best validation accuracy is kept and ``session.chosen_groups`` says when it was reached;
    without, the last state is kept.
    """
    budget, validation = session.budget, list(groups.validation_groups())
    best_accuracy, best_state, checks_since = -1.0, None, 0
    module.train()
    seen = 0
    for seen, item in enumerate(islice(inputs, budget.max_groups), 1):
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
            if report["validation_accuracy"] > best_accuracy:
                best_accuracy, session.chosen_groups, checks_since = report["validation_accuracy"], seen, 0
                best_state = {name: value.detach().clone() for name, value in method.state_dict().items()}
            else:
                checks_since += 1
            if checks_since == budget.patience:
                break
    if best_state is None:
        session.chosen_groups = seen
    else:
        method.load_state_dict(best_state)
