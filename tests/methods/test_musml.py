"""MUSML: its equations against float64 references, what its subspaces confine, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from pudnet_bench.methods import musml, targets
from pudnet_bench.methods.base import Budget, Dataset, Episode, MethodError, Session, TargetSpec
from pudnet_bench.methods.meta_training import validation_accuracy
from pudnet_bench.methods.musml import MUSML
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

SMALL = {"n_subspaces": 2, "subspace_dim": 3, "inner_steps": 2, "head": "linear"}
TARGETS = {
    "convnet3": TargetSpec("convnet3", (1, 16, 16), (("width", 8),)),
    "convnet3-colour": TargetSpec("convnet3", (3, 8, 8), (("width", 8),)),
    "resnet18-colour": TargetSpec("resnet18", (3, 8, 8)),
}


def method(target: str = "convnet3", seed: int = 0, **options: Any) -> MUSML:
    torch.manual_seed(seed)
    return MUSML(TARGETS[target], 6, **{**SMALL, **options})


def classifier(fitted: MUSML, dataset: Dataset) -> Callable[[Tensor], Tensor]:
    (snapshot,) = fitted.fit(dataset)
    return snapshot.classifier


def episode(dataset: Dataset, per_class: int = 5) -> Episode:
    """The first `per_class` images of each class as support, all others as queries."""
    rank = torch.arange(len(dataset)) % (len(dataset) // dataset.n_classes)
    cut = [
        Dataset(dataset.images[where], dataset.labels[where], dataset.n_classes)
        for where in (rank < per_class, rank >= per_class)
    ]
    return Episode(0, cut[0], cut[1], torch.arange(dataset.n_classes), lambda: dataset)


# --- the equations ---


def test_parameters_are_a_linear_combination_of_the_bases_columns() -> None:
    rng = np.random.default_rng(0)
    basis, coordinates = rng.standard_normal((3, 10)), rng.standard_normal(3)
    vector = musml.subspace_parameters(torch.from_numpy(basis), torch.from_numpy(coordinates))
    expected = sum(coordinates[i] * basis[i] for i in range(3))
    np.testing.assert_allclose(vector.numpy(), expected, rtol=1e-12)
    pieces = musml.named_parameters(vector, {"kernel": torch.Size((2, 3)), "bias": torch.Size((4,))})
    np.testing.assert_array_equal(pieces["kernel"].numpy(), vector.numpy()[:6].reshape(2, 3))
    np.testing.assert_array_equal(pieces["bias"].numpy(), vector.numpy()[6:])


def test_soft_choice_and_meta_loss_are_the_equations() -> None:
    support, query, gamma = [0.7, 0.2, 0.5], [1.0, 0.4, 3.0], 0.3
    exponentials = [math.exp(-loss / gamma) for loss in support]
    weights = [e / sum(exponentials) for e in exponentials]
    losses = torch.tensor(support, dtype=torch.float64), torch.tensor(query, dtype=torch.float64)
    assert musml.soft_choice(losses[0], gamma).tolist() == pytest.approx(weights, rel=1e-12)
    expected = sum(o * loss for o, loss in zip(weights, query, strict=True))
    assert float(musml.meta_loss(*losses, gamma)) == pytest.approx(expected, rel=1e-12)


def test_the_soft_choice_sharpens_into_the_hard_one_as_the_temperature_falls() -> None:
    losses = torch.tensor([0.7, 0.2, 0.5])
    weights = [musml.soft_choice(losses, gamma) for gamma in (1e6, 1.0, 0.3, 0.05, 1e-3)]
    assert all(float(w.sum()) == pytest.approx(1, abs=1e-6) for w in weights)
    assert weights[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)
    largest = [float(w.max()) for w in weights]
    assert largest == sorted(largest)
    assert musml.hard_choice(losses) == 1
    assert weights[-1].tolist() == [0, 1, 0]


def test_the_temperature_falls_linearly_and_depends_on_groups_seen_alone() -> None:
    at = [musml.temperature_at(seen, 0.5, 0.1, 200) for seen in (0, 50, 100, 200, 10_000)]
    assert at == pytest.approx([0.5, 0.4, 0.3, 0.1, 0.1])


def least_squares(images: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: (images @ vector - values).square().mean()


def linear_problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (6,), (5, 4), (5,), (2, 2, 4))  # support, query, two bases of two columns of four parameters
    a, b, c, d, bases = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return a, b, c, d, bases


def test_inner_steps_are_gradient_descent_in_the_coordinates() -> None:
    images, values, _, _, bases = linear_problem()
    start = torch.full((2,), 0.5, dtype=torch.float64)
    for first_order in (False, True):
        found = musml.adapt(least_squares(images, values), bases[0], start, 3, 0.1, first_order)
        x, y, s, v = images.numpy(), values.numpy(), bases[0].numpy().T, start.numpy()
        for _ in range(3):
            v = v - 0.1 * s.T @ (2 / len(y) * x.T @ (x @ s @ v - y))  # the gradient, by hand
        np.testing.assert_allclose(found.detach().numpy(), v, rtol=1e-12)


def linear_meta_loss(bases: Tensor, first_order: bool = False) -> Tensor:
    support_x, support_y, query_x, query_y, _ = linear_problem()
    support, query = least_squares(support_x, support_y), least_squares(query_x, query_y)
    start = torch.full((2,), 0.5, dtype=torch.float64)
    vectors = [
        musml.subspace_parameters(basis, musml.adapt(support, basis, start, 2, 0.1, first_order)) for basis in bases
    ]
    losses = torch.stack([support(w) for w in vectors]), torch.stack([query(w) for w in vectors])
    return musml.meta_loss(*losses, 0.7)


def test_gradients_of_the_meta_loss_reach_the_bases_through_the_inner_steps() -> None:
    bases = linear_problem()[-1].requires_grad_()
    assert torch.autograd.gradcheck(linear_meta_loss, (bases,))


def test_first_order_has_the_same_loss_and_another_gradient() -> None:
    bases = linear_problem()[-1].requires_grad_()
    exact, first = linear_meta_loss(bases), linear_meta_loss(bases, first_order=True)
    assert exact.item() == pytest.approx(first.item(), rel=1e-12)
    (one,), (two,) = torch.autograd.grad(exact, bases), torch.autograd.grad(first, bases)
    assert (one - two).abs().max() > 1e-3


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_every_column_of_every_basis_receives_gradient(make_dataset, head: str, first_order: bool) -> None:
    learner = method(head=head, first_order=first_order)
    losses = learner.episode_losses(episode(make_dataset(0, (1, 16, 16))))
    musml.meta_loss(*losses, 0.5).backward()
    assert learner.subspaces is not None
    for basis in learner.subspaces.bases:
        pieces = [
            musml.named_parameters(row, learner.shapes(2)) for row in (basis.grad if basis.grad is not None else [])
        ]
        assert len(pieces) == 3
        assert all(float(piece.abs().max()) > 0 for row in pieces for piece in row.values())


# --- fitting ---


@pytest.mark.parametrize("adapt_on", ["support", "fit"])
@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_adapted_parameters_stay_in_their_subspace_and_move(make_dataset, head: str, adapt_on: str) -> None:
    learner = method(head=head, adapt_on=adapt_on)
    outcomes = learner.adapted(make_dataset(0, (1, 16, 16)))
    assert learner.subspaces is not None
    for k, (vector, _, _) in enumerate(outcomes):
        basis = learner.subspaces.bases[k].detach()
        ranks = [
            int(torch.linalg.matrix_rank(torch.cat((rows, vector.unsqueeze(0))).double(), rtol=1e-5))
            for rows in (basis, learner.subspaces.bases[1 - k].detach())
        ]
        assert ranks == [3, 4]  # in its own subspace, and not in the other
        assert (vector - basis.mean(0)).norm() > 1e-3 * vector.norm()


def test_the_subspace_with_the_smallest_training_loss_is_chosen(make_dataset) -> None:
    dataset = make_dataset(0, (1, 16, 16))
    learner = method(n_subspaces=4)
    losses = [float(loss) for _, _, loss in learner.adapted(dataset)]
    best = losses.index(min(losses))
    chosen = classifier(learner, dataset)(dataset.images)
    # BatchNorm keeps the unbiased variance, so that the classifier is near to its training pass, not equal to it.
    assert float(F.cross_entropy(chosen, dataset.labels)) == pytest.approx(losses[best], rel=0.02)
    state = learner.state_dict()
    for k in range(4):
        alone = method(n_subspaces=1)
        alone.load_state_dict({"bases.0": state[f"bases.{k}"]})
        assert torch.allclose(classifier(alone, dataset)(dataset.images), chosen) == (k == best)


def test_the_classifier_is_the_network_of_the_adapted_parameters(make_dataset) -> None:
    dataset, images = make_dataset(0, (1, 16, 16)), make_dataset(1, (1, 16, 16)).images
    learner = method(n_subspaces=1)
    ((vector, buffers, _),) = learner.adapted(dataset)
    network = targets.build(TARGETS["convnet3"])
    torch.nn.utils.vector_to_parameters(vector[: -2 * learner.n_features - 2], network.parameters())
    network.load_state_dict(buffers, strict=False)
    weight, bias = vector[-2 * learner.n_features - 2 : -2].view(2, -1), vector[-2:]
    with torch.no_grad():
        expected = network.eval()(images) @ weight.T + bias
    assert torch.allclose(classifier(learner, dataset)(images), expected, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_test_images_logits_depend_on_no_other_image_and_no_later_fit(make_dataset, target: str) -> None:
    shape = TARGETS[target].image_shape
    small = {"n_subspaces": 1, "inner_steps": 1} if target.startswith("resnet") else {}
    learner, images = method(target, **small), make_dataset(1, shape).images
    classify = classifier(learner, make_dataset(0, shape))
    together = classify(images)
    assert together.shape == (30, 2)
    assert torch.isfinite(together).all()
    assert torch.allclose(classify(images[3:4]), together[3:4], atol=1e-4)
    if target.startswith("resnet"):
        return  # seconds a pass; what follows does not depend on the target
    other = images.clone()
    other[4:] *= 100
    assert torch.allclose(classify(other)[3:4], together[3:4], atol=1e-4)
    learner.episode_losses(episode(make_dataset(2, shape)))  # puts the network into training mode
    assert torch.allclose(classify(images), together, atol=1e-4)


def test_fitting_works_without_gradients_and_leaves_the_mode_alone(make_dataset) -> None:
    dataset, learner = make_dataset(0, (1, 16, 16)), method()
    with_gradients = classifier(learner, dataset)(dataset.images)
    with torch.no_grad():
        fit = learner.fit(dataset)
        snapshot = next(fit)
        assert not torch.is_grad_enabled()
        assert torch.equal(snapshot.classifier(dataset.images), with_gradients)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_the_state_survives_a_file(make_dataset, tmp_path: Path, head: str) -> None:
    dataset = make_dataset(0, (1, 16, 16), ways=3)
    learner = method(head=head)
    expected = classifier(learner, dataset)(dataset.images)
    safetensors.torch.save_file(learner.state_dict(), tmp_path / "state.safetensors")
    loaded = method(seed=1, head=head)
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(classifier(loaded, dataset)(dataset.images), expected)


def test_a_linear_head_refuses_another_number_of_classes_and_prototypes_do_not(make_dataset) -> None:
    two, three = make_dataset(0, (1, 16, 16)), make_dataset(0, (1, 16, 16), ways=3)
    learner = method()
    classifier(learner, two)
    loaded = method()
    loaded.load_state_dict(learner.state_dict())
    for known in (learner, loaded):
        with pytest.raises(MethodError, match="groups of 2 classes and cannot classify 3"):
            classifier(known, three)
    learner = method(head="prototype")
    assert [classifier(learner, data)(data.images).shape[1] for data in (two, three)] == [2, 3]


@pytest.mark.parametrize("options", [{"n_subspaces": 3}, {"subspace_dim": 2}, {"head": "prototype"}])
def test_a_state_of_other_options_is_refused(make_dataset, options: dict[str, Any]) -> None:
    learner = method()
    classifier(learner, make_dataset(0, (1, 16, 16)))
    with pytest.raises(MethodError, match="this state does not fit a musml with"):
        method(**options).load_state_dict(learner.state_dict())


def test_unknown_options_are_refused() -> None:
    with pytest.raises(MethodError, match="head=linear or prototype"):
        method(head="cosine")


# --- meta-training ---


def unseen_accuracy(learner: MUSML, images: FamilyImages, n: int = 10) -> float:
    right = []
    for index in range(n):
        group = images.group("unseen", 0, index)
        right.append((classifier(learner, group.fit)(group.test.images).argmax(1) == group.test.labels).float().mean())
    return float(torch.stack(right).mean())


@pytest.mark.parametrize(("first_order", "groups"), [(True, 20), (False, 12)])
def test_it_learns_to_classify_unseen_digits(digits: FamilyImages, first_order: bool, groups: int) -> None:
    def trained(groups: int) -> MUSML:
        torch.manual_seed(0)
        learner = MUSML(TargetSpec("convnet3", (1, 8, 8)), 6, first_order=first_order, n_subspaces=2, head="linear")
        if groups:
            learner.meta_train(TrainingStream(digits, seed=0), Session(Budget(groups, 20, 3)))
        return learner

    before, after = unseen_accuracy(trained(0), digits), unseen_accuracy(trained(groups), digits)
    assert after > 0.65  # chance is 0.5
    assert after > before + 0.05


def test_meta_training_lowers_the_loss_with_prototypes_too(digits: FamilyImages) -> None:
    """Prototypes classify digits before any training; what training changes shows in its loss."""
    torch.manual_seed(0)
    learner, session = (
        MUSML(TargetSpec("convnet3", (1, 8, 8)), 6, head="prototype", n_subspaces=2),
        Session(Budget(20, 20, 3)),
    )
    learner.meta_train(TrainingStream(digits, seed=0), session)
    assert session.curve[-1]["loss"] < session.curve[0]["loss"] / 2
    assert unseen_accuracy(learner, digits) > 0.7


def test_a_training_does_not_depend_on_how_long_it_was_meant_to_be(digits: FamilyImages) -> None:
    """The search for the best length and the final training of that length must agree, annealing included."""

    def losses(groups: int) -> list[float]:
        torch.manual_seed(0)
        learner = MUSML(TargetSpec("convnet3", (1, 8, 8), (("width", 8),)), 6, **SMALL, anneal_groups=8)
        session = Session(Budget(groups, 100, 3))
        learner.meta_train(TrainingStream(digits, seed=0), session)
        assert session.chosen_groups == groups
        return [row["loss"] for row in session.curve if row["groups"] == 10]

    assert losses(10) == losses(25)


def test_the_best_state_of_a_search_is_kept(digits: FamilyImages) -> None:
    torch.manual_seed(0)
    learner = MUSML(TargetSpec("convnet3", (1, 8, 8), (("width", 8),)), 6, **SMALL)
    stream, session = TrainingStream(digits, seed=0, validation=3), Session(Budget(12, 4, 3))
    learner.meta_train(stream, session)
    checks = {row["groups"]: row["validation_accuracy"] for row in session.curve if "validation_accuracy" in row}
    assert session.chosen_groups == max(checks, key=lambda groups: checks[groups])
    assert validation_accuracy(learner, list(stream.validation_groups())) == pytest.approx(
        checks[session.chosen_groups]
    )


# --- memory ---


@pytest.mark.parametrize(("name", "megaparameters"), [("resnet18", 11.2), ("resnet34", 21.3)])
def test_bases_with_gradients_and_moments_fit_in_8_gb(name: str, megaparameters: float) -> None:
    learner = MUSML(TargetSpec(name, (3, 32, 32)), 80)
    parameters = sum(shape.numel() for shape in learner.shapes(5).values())
    assert parameters / 1e6 == pytest.approx(megaparameters, abs=0.1)
    needed = 4 * 4 * learner.n_subspaces * learner.subspace_dim * parameters  # float32; value, gradient and two moments
    assert needed < 4.5e9  # of 8 GB; activations take the rest
    assert learner.first_order  # the graphs of the inner steps are freed step by step
