"""Meta-DeepBDC: the BDC matrix against a slow reference, the size of the maps, the two stages, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pudnet_bench.methods.base import Budget, Dataset, MethodError, Session, TargetSpec
from pudnet_bench.methods.deepbdc import MapNetwork, MetaDeepBDC, brownian_covariance
from pudnet_bench.methods.meta_training import validation_accuracy
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

TARGET = TargetSpec("convnet3", (1, 8, 8))


def maps_of(seed: int, n: int = 3, c: int = 5, h: int = 4, w: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(image: list[list[float]], log_temperature: float) -> list[float]:
    """One image's vector, entry by entry; `image` is a list of channels, each a list of positions."""
    c = len(image)
    a = [
        [
            math.sqrt(
                math.exp(log_temperature) * sum((p - q) ** 2 for p, q in zip(image[k], image[m], strict=True)) + 1e-5
            )
            for m in range(c)
        ]
        for k in range(c)
    ]
    grand = sum(map(sum, a)) / c**2
    column = [sum(a[k][m] for k in range(c)) / c for m in range(c)]
    return [a[k][m] - sum(a[k]) / c - column[m] + grand for k in range(c) for m in range(k, c)]


# --- the function ---


@pytest.mark.parametrize("log_temperature", [-math.log(24), 0.7])
def test_the_bdc_matrix_equals_a_loop_over_channels(log_temperature: float) -> None:
    maps = maps_of(0)
    expected = torch.tensor([reference(m.flatten(1).tolist(), log_temperature) for m in maps], dtype=torch.float64)
    t = torch.tensor(log_temperature, dtype=torch.float64)
    assert torch.allclose(brownian_covariance(maps, t), expected, rtol=1e-12, atol=1e-12)
    single = brownian_covariance(maps.float(), t.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), expected, atol=1e-5)


def test_two_channels_by_hand() -> None:
    # Distance 5 between the channels, temperature 4: off the diagonal sqrt(100) = 10, on it sqrt(1e-5); the double
    # centring of [[s, a], [a, s]] is (s - a) / 2 * [[1, -1], [-1, 1]].
    maps = torch.tensor([[[[0.0, 0.0]], [[3.0, 4.0]]]], dtype=torch.float64)
    half = (math.sqrt(1e-5) - math.sqrt(100 + 1e-5)) / 2
    vector = brownian_covariance(maps, torch.tensor(math.log(4), dtype=torch.float64))
    assert vector[0].tolist() == pytest.approx([half, -half, half], rel=1e-9)


def test_gradients_of_maps_and_temperature() -> None:
    maps, t = maps_of(1, 2, 4, 2, 2).requires_grad_(), torch.tensor([-1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(brownian_covariance, (maps, t))


def test_equal_channels_have_finite_gradients() -> None:
    maps, t = torch.ones(2, 4, 3, 3, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    brownian_covariance(maps, t).square().sum().backward()
    assert maps.grad is not None
    assert t.grad is not None
    assert torch.isfinite(maps.grad).all()
    assert torch.isfinite(t.grad)


def test_rows_of_the_matrix_sum_to_zero() -> None:
    vector = brownian_covariance(maps_of(2), torch.tensor(0.3, dtype=torch.float64))
    matrix = torch.zeros(3, 5, 5, dtype=torch.float64)
    row, column = torch.triu_indices(5, 5)
    matrix[:, row, column] = vector
    matrix[:, column, row] = vector
    assert torch.allclose(matrix.sum(2), torch.zeros(3, 5, dtype=torch.float64), atol=1e-12)


def test_the_order_of_positions_and_a_shift_of_all_channels_do_not_matter() -> None:
    maps, t = maps_of(3), torch.tensor(-0.5, dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = maps.flatten(2)[:, :, order].reshape(maps.shape)
    assert torch.allclose(brownian_covariance(shuffled, t), brownian_covariance(maps, t), atol=1e-12)
    assert torch.allclose(brownian_covariance(maps + 7, t), brownian_covariance(maps, t), atol=1e-10)
    assert not torch.allclose(brownian_covariance(maps.flip(1), t), brownian_covariance(maps, t), atol=0.1)


def test_on_one_position_the_matrix_says_nothing_but_the_channel_values() -> None:
    """Why maps of 1x1 are avoided: distances of scalars add up along the line, and centring is linear.

    So as long as the channels keep their order, the vector is a linear function of the c values; on 4x4 it is not.
    """
    t = torch.tensor(0.0, dtype=torch.float64)

    def gap(p: Tensor, q: Tensor) -> float:
        mixed = brownian_covariance(2 * p + 3 * q, t)
        return float((mixed - 2 * brownian_covariance(p, t) - 3 * brownian_covariance(q, t)).abs().max())

    p, q = maps_of(4, 1, 6, 4, 4).sort(1).values, maps_of(5, 1, 6, 4, 4).sort(1).values
    assert gap(p[..., :1, :1], q[..., :1, :1]) < 0.05  # 1e-5 under the root: at most sqrt(1e-5) per distance
    assert gap(p, q) > 0.5


def test_autocast_does_not_reach_the_function() -> None:
    maps, t = maps_of(5, dtype=torch.float32), torch.tensor(0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = brownian_covariance(maps, t)
    assert torch.equal(inside, brownian_covariance(maps, t))
    assert brownian_covariance(maps.bfloat16(), t).dtype == torch.float32


def test_one_image_keeps_its_dimension() -> None:
    assert brownian_covariance(maps_of(6, 1), torch.tensor(0.0)).shape == (1, 15)


# --- the maps ---


@pytest.mark.parametrize(
    ("target", "shape", "maps"),
    [
        (TargetSpec("convnet3", (1, 8, 8)), (64, 4, 4), (64, 4, 4)),
        (TargetSpec("convnet3", (1, 28, 28)), (64, 7, 7), (64, 7, 7)),
        (TargetSpec("convnet3", (3, 32, 32)), (64, 4, 4), (64, 4, 4)),
        (TargetSpec("convnet3", (3, 84, 84)), (64, 10, 10), (64, 10, 10)),
        (TargetSpec("convnet3", (3, 32, 32), (("width", 300),)), (300, 4, 4), (256, 4, 4)),
        (TargetSpec("resnet18", (1, 8, 8)), (512, 4, 4), (256, 4, 4)),
        (TargetSpec("resnet18", (1, 28, 28)), (512, 4, 4), (256, 4, 4)),
        (TargetSpec("resnet18", (3, 32, 32)), (512, 4, 4), (256, 4, 4)),
        (TargetSpec("resnet18", (3, 84, 84)), (512, 6, 6), (256, 6, 6)),
        (TargetSpec("resnet18", (3, 8, 8), (("stem", "imagenet"),)), (512, 4, 4), (256, 4, 4)),
        (TargetSpec("resnet34", (3, 32, 32)), (512, 4, 4), (256, 4, 4)),
    ],
)
def test_maps_have_at_least_four_by_four_positions(target: TargetSpec, shape: tuple, maps: tuple) -> None:
    network = MapNetwork(target, 256).eval()
    with torch.no_grad():
        made = network(torch.zeros(2, *target.image_shape))
    assert made.shape == (2, *maps)
    assert network.channels == maps[0]
    assert isinstance(network.reduction, nn.Identity) == (shape[0] <= 256)
    assert network.log_temperature.item() == pytest.approx(math.log(1 / (2 * shape[1] * shape[2])))


def test_leaving_out_halvings_leaves_the_parameters_of_the_target() -> None:
    from pudnet_bench.methods import targets

    spec = TargetSpec("resnet18", (1, 8, 8))
    expected = {name: p.shape for name, p in targets.build(spec).named_parameters()}
    network = MapNetwork(spec, 256).network
    assert {name: p.shape for name, p in network.named_parameters()} == expected


# --- the method ---


@pytest.mark.parametrize("name", ["convnet3", "resnet18", "resnet34"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_target_classifies_and_a_test_image_is_judged_alone(name: str, channels: int, make_dataset) -> None:
    torch.manual_seed(0)
    method = MetaDeepBDC(TargetSpec(name, (channels, 8, 8)), 6, reduce_dim=32)
    dataset, others = (make_dataset(seed, (channels, 8, 8), ways=3, per_class=4) for seed in (0, 1))
    (snapshot,) = method.fit(dataset)
    together = snapshot.classifier(torch.cat((dataset.images[:2], others.images)))
    assert together.shape == (14, 3)
    assert torch.isfinite(together).all()
    assert torch.allclose(snapshot.classifier(dataset.images[:1]), together[:1], rtol=1e-4, atol=1e-4)
    assert not method.module.training


def test_many_images_are_judged_as_few_are(make_dataset) -> None:
    method = MetaDeepBDC(TARGET, 6)
    dataset = make_dataset(0, (1, 8, 8), per_class=200)
    method.module.eval()
    with torch.no_grad():
        many = method.features(dataset.images)
        assert many.shape == (400, 64 * 65 // 2)
        assert torch.allclose(many[300:], method.features(dataset.images[300:]), atol=1e-5)


def test_the_network_runs_in_the_harness_s_precision_and_bdc_in_float32(make_dataset) -> None:
    method, images = MetaDeepBDC(TARGET, 6), make_dataset(0, (1, 8, 8)).images
    method.module.eval()
    with torch.no_grad():
        full = method.features(images)
        method.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
        half = method.features(images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()


def test_renaming_classes_renames_the_logits(make_dataset) -> None:
    method, dataset = MetaDeepBDC(TARGET, 6), make_dataset(0, (1, 8, 8), ways=3)
    new_name = torch.tensor([2, 0, 1])
    (snapshot,) = method.fit(dataset)
    before = snapshot.classifier(dataset.images)
    (snapshot,) = method.fit(Dataset(dataset.images, new_name[dataset.labels], 3))
    assert torch.allclose(snapshot.classifier(dataset.images)[:, new_name], before, atol=1e-4)


def test_the_order_of_a_class_s_support_images_does_not_matter(make_dataset) -> None:
    method, dataset = MetaDeepBDC(TARGET, 6), make_dataset(0, (1, 8, 8), per_class=10)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    (snapshot,) = method.fit(dataset)
    before = snapshot.classifier(dataset.images)
    (snapshot,) = method.fit(Dataset(dataset.images[order], dataset.labels[order], 2))
    assert torch.allclose(snapshot.classifier(dataset.images), before, atol=1e-4)


def test_the_state_survives_a_file(digits: FamilyImages, tmp_path: Path) -> None:
    method, group = MetaDeepBDC(TARGET, 6), digits.group("unseen", 0, 0)
    method.meta_train(TrainingStream(digits, seed=0), Session(Budget(4, 2, 2)))
    save_file({name: t.contiguous() for name, t in method.state_dict().items()}, tmp_path / "state.safetensors")
    copy = MetaDeepBDC(TARGET, 6)
    copy.load_state_dict(load_file(tmp_path / "state.safetensors"))
    (first,), (second,) = method.fit(group.fit), copy.fit(group.fit)
    assert torch.allclose(first.classifier(group.test.images), second.classifier(group.test.images), atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [({"reduce_dim": 1}, "reduce_dim"), ({"dropout": 1.0}, "dropout")])
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        MetaDeepBDC(TARGET, 6, **options)


# --- meta-training ---


def test_each_stage_gets_half_of_the_groups_and_the_count_goes_on(digits: FamilyImages) -> None:
    method, session = MetaDeepBDC(TARGET, 6), Session(Budget(25, 10, 3))
    before = {name: p.detach().clone() for name, p in method.module.named_parameters()}
    method.meta_train(TrainingStream(digits, seed=0), session)
    stages = {int(row["groups"]): "pretraining" if "pretraining_loss" in row else "episodes" for row in session.curve}
    assert stages == {10: "pretraining", 12: "pretraining", 22: "episodes", 25: "episodes"}
    assert session.chosen_groups == 25
    assert all(not torch.equal(p, before[name]) for name, p in method.module.named_parameters())  # temperature too


def test_both_stages_see_as_many_images_per_step_as_the_other_methods(digits: FamilyImages, monkeypatch) -> None:
    method, seen = MetaDeepBDC(TARGET, 6), []
    features = method.features
    monkeypatch.setattr(method, "features", lambda images: seen.append(len(images)) or features(images))
    stream = TrainingStream(digits, seed=0)
    method.meta_train(stream, Session(Budget(4, 10, 3)))
    assert seen == [stream.ways * stream.support_per_class + stream.queries_per_group] * 4


def test_a_budget_of_one_group_is_no_obstacle(digits: FamilyImages) -> None:
    method, session = MetaDeepBDC(TARGET, 6), Session(Budget(1, 10, 3))
    method.meta_train(TrainingStream(digits, seed=0), session)
    assert (session.chosen_groups, [row["groups"] for row in session.curve]) == (1, [1])


class OneStageTwice(TrainingStream):
    """Trains on the search classes like a search, but without validation groups, like a final training."""

    def validation_groups(self):
        return iter(())


def test_a_run_of_the_chosen_length_repeats_the_schedule_of_the_search(digits: FamilyImages, monkeypatch) -> None:
    # The first stage is best at its fourth check: 4 x 5 groups, and 20 on episodes, two checks without gain or not.
    told = iter([0.6, 0.7, 0.8, 0.9, 0.8, 0.8, 0.6, 0.5, 0.5, 0.7])
    monkeypatch.setattr("pudnet_bench.methods.meta_training.validation_accuracy", lambda *_: next(told))
    torch.manual_seed(0)
    search, session = MetaDeepBDC(TARGET, 6), Session(Budget(100, 5, 2))
    search.meta_train(TrainingStream(digits, seed=0, validation=1), session)
    assert session.chosen_groups == 40
    assert [row["groups"] for row in session.curve] == list(range(5, 55, 5))

    torch.manual_seed(0)
    final, again = MetaDeepBDC(TARGET, 6), Session(Budget(session.chosen_groups, 5, 2))
    final.meta_train(OneStageTwice(digits, seed=0, validation=1), again)
    assert again.chosen_groups == 40
    # The search's best check on episodes was its last, so both end in the same place.
    assert all(torch.equal(t, final.state_dict()[name]) for name, t in search.state_dict().items())


def test_meta_training_repeats_itself_under_a_seed(digits: FamilyImages) -> None:
    def state_after(stream_seed: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = MetaDeepBDC(TARGET, 6)
        method.meta_train(TrainingStream(digits, stream_seed), Session(Budget(4, 20, 3)))
        return method.state_dict()

    first, again, other = state_after(0), state_after(0), state_after(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_it_learns_to_tell_unseen_digits_apart(digits: FamilyImages) -> None:
    torch.manual_seed(0)
    method = MetaDeepBDC(TARGET, 6)
    method.meta_train(TrainingStream(digits, seed=0), Session(Budget(60, 20, 3)))
    groups = [digits.group("unseen", 0, index) for index in range(10)]
    assert validation_accuracy(method, groups) > 0.8  # chance is 0.5
