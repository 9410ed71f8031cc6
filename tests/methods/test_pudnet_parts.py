"""PudNet's parts against the paper's equations as loops in float64: context, generator, losses, sketch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pudnet_bench.methods.pudnet.context import ContextGRU
from pudnet_bench.methods.pudnet.generator import WeightGenerator
from pudnet_bench.methods.pudnet.losses import Losses, consistency_loss, full_loss, metric_loss, pad_logits
from pudnet_bench.methods.pudnet.sketch import DatasetSketch

# --- section 3.4: the context relations ---


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def product(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [math.fsum(w * x for w, x in zip(row, vector, strict=True)) for row in matrix]


def loop_step(gru: ContextGRU, hidden: list[list[float]], a: list[float]) -> tuple[list[list[float]], list[float]]:
    """One step of the paper's equations; a layer above the first takes the new hidden state below it as `a`."""
    dim, new = len(a), []
    for layer, h in enumerate(hidden):
        gates = gru.gates[layer].weight.tolist()
        w_r, w_z, w_h = gates[:dim], gates[dim:], gru.candidates[layer].weight.tolist()
        r = [sigmoid(x) for x in product(w_r, h + a)]
        z = [sigmoid(x) for x in product(w_z, h + a)]
        candidate = [math.tanh(x) for x in product(w_h, [r_i * h_i for r_i, h_i in zip(r, h, strict=True)] + a)]
        a = [(1 - z_i) * h_i + z_i * c_i for z_i, h_i, c_i in zip(z, h, candidate, strict=True)]
        new.append(a)
    return new, [sigmoid(x) for x in product(gru.output.weight.tolist(), a)]


def random_gru(dim: int, layers: int) -> tuple[ContextGRU, Tensor, Tensor]:
    torch.manual_seed(layers)
    gru = ContextGRU(dim, layers).double()
    return gru, torch.randn(layers, dim).double(), torch.randn(dim).double()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_context_is_the_papers_equations_step_after_step(layers: int) -> None:
    gru, hidden, a = random_gru(5, layers)
    expected_hidden, expected_a = hidden.tolist(), a.tolist()
    for _ in range(4):
        hidden, a = gru(hidden, a)
        expected_hidden, expected_a = loop_step(gru, expected_hidden, expected_a)
        torch.testing.assert_close(hidden, torch.tensor(expected_hidden).double(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a, torch.tensor(expected_a).double(), rtol=1e-6, atol=1e-7)
    assert hidden.shape == (layers, 5)


def test_context_has_no_biases_and_the_same_weights_at_every_step() -> None:
    gru, _, _ = random_gru(5, 2)
    assert sum(p.numel() for p in gru.parameters()) == 2 * (3 * 5 * 10) + 5 * 5


def test_torchs_cell_with_the_same_weights_is_another_one() -> None:
    gru, hidden, a = random_gru(5, 1)
    cell = nn.GRUCell(5, 5, bias=False).double()
    w_r, w_z = gru.gates[0].weight.chunk(2)
    w_h = gru.candidates[0].weight
    with torch.no_grad():
        cell.weight_hh.copy_(torch.cat((w_r[:, :5], w_z[:, :5], w_h[:, :5])))
        cell.weight_ih.copy_(torch.cat((w_r[:, 5:], w_z[:, 5:], w_h[:, 5:])))
    theirs = cell(a[None], hidden)
    ours, _ = gru(hidden, a)
    assert (ours - theirs).abs().max() > 0.05
    # Swapping z and 1 - z alone (negated weights) does not repair it: the reset still comes after the product.
    with torch.no_grad():
        cell.weight_hh[5:10].neg_()
        cell.weight_ih[5:10].neg_()
    assert (ours - cell(a[None], hidden)).abs().max() > 1e-3


# --- equation 5: the weight generator ---


@pytest.mark.parametrize(("d_out", "d_in", "size"), [(64, 1, 3), (64, 64, 3), (16, 8, 1), (8, 3, 7)])
def test_kernels_have_the_layers_shape_and_kaimings_magnitude(d_out: int, d_in: int, size: int) -> None:
    torch.manual_seed(0)
    generator = WeightGenerator(32, d_out, d_in, size)
    for scale in (0.3, 1.0, 5.0):
        kernel = generator(scale * torch.randn(32))
        assert kernel.shape == (d_out, d_in, size, size)
        rms = kernel.detach().double().square().mean().sqrt()
        assert float(rms) == pytest.approx(math.sqrt(2 / (d_in * size * size)), rel=1e-4)


def test_without_kernel_norm_the_magnitude_is_free_but_starts_in_kaimings_range() -> None:
    torch.manual_seed(0)
    generator, context = WeightGenerator(128, 64, 64, 3, kernel_norm=False), torch.randn(128)
    kernel = generator(context)
    kaiming = math.sqrt(2 / (64 * 9))
    assert kaiming / 2 < float(kernel.detach().square().mean().sqrt()) < 2 * kaiming
    with torch.no_grad():
        generator.expand.weight.mul_(3)
    torch.testing.assert_close(generator(context), 3 * kernel)


def test_the_generator_is_a_linear_layer_and_two_pointwise_convolutions() -> None:
    """Figure 4 as loops: each kernel place (x, y) is a two-layer perceptron of the hidden values at that place."""
    torch.manual_seed(0)
    generator = WeightGenerator(6, 3, 2, 2, hidden=4, kernel_norm=False).double()
    for parameter in generator.parameters():
        nn.init.normal_(parameter)
    context = torch.randn(6).double()

    def gelu(values: list[float]) -> list[float]:
        return [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in values]

    def affine(layer: nn.Linear | nn.Conv2d, values: list[float]) -> list[float]:
        return [
            y + b for y, b in zip(product(layer.weight.flatten(1).tolist(), values), layer.bias.tolist(), strict=True)
        ]

    kernel = generator(context)
    grid = gelu(affine(generator.linear, context.tolist()))
    for x in range(2):
        for y in range(2):
            hidden = [grid[channel * 4 + x * 2 + y] for channel in range(4)]
            flat = affine(generator.expand, gelu(affine(generator.mix, hidden)))
            for out in range(3):
                for into in range(2):
                    assert float(kernel[out, into, x, y].detach()) == pytest.approx(flat[out * 2 + into], rel=1e-9)


@pytest.mark.parametrize("kernel_norm", [True, False])
def test_gradient_flows_through_the_generator(kernel_norm: bool) -> None:
    torch.manual_seed(0)
    generator, context = WeightGenerator(16, 8, 4, 3, kernel_norm=kernel_norm), torch.randn(16, requires_grad=True)
    (generator(context) * torch.randn(8, 4, 3, 3)).sum().backward()
    for tensor in (context, *generator.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 1e-6


# --- section 3.5: the losses ---


def loop_softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(x) for x in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def loop_consistency(logits: list[list[float]], full: list[list[float]], classes: list[int]) -> float:
    divergences = []
    for few, all_ in zip(logits, full, strict=True):
        padded = [0.0] * len(all_)
        for value, c in zip(few, classes, strict=True):
            padded[c] = value
        p, q = loop_softmax(padded), loop_softmax(all_)
        divergences.append(math.fsum(q_i * math.log(q_i / p_i) for q_i, p_i in zip(q, p, strict=True)))
    return math.fsum(divergences) / len(divergences)


@st.composite
def loss_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Metric logits [n, k], labels [n], full logits [n, C], the group's classes [k]; float64."""
    total = draw(st.integers(2, 7))
    classes = draw(st.permutations(range(total)))[: draw(st.integers(1, total))]
    n = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = 5 * torch.randn(n, len(classes), dtype=torch.float64, generator=generator)
    full_logits = 5 * torch.randn(n, total, dtype=torch.float64, generator=generator)
    labels = torch.randint(len(classes), (n,), generator=generator)
    return logits, labels, full_logits, torch.tensor(classes)


def losses(logits: Tensor, labels: Tensor, full_logits: Tensor, ids: Tensor, classes: Tensor) -> Losses:
    consistency = consistency_loss(logits, full_logits, classes)
    return Losses(metric_loss(logits, labels), full_loss(full_logits, ids), consistency)


@given(loss_cases())
@settings(deadline=None)
def test_losses_against_loops(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, full_logits, classes = case
    n, ids = len(labels), classes[labels]
    metric = -sum(math.log(loop_softmax(row)[y]) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)) / n
    full = -sum(math.log(loop_softmax(row)[y]) for row, y in zip(full_logits.tolist(), ids.tolist(), strict=True)) / n
    consistency = loop_consistency(logits.tolist(), full_logits.tolist(), classes.tolist())
    parts = losses(logits, labels, full_logits, ids, classes)
    for part, expected in zip(
        (*parts, parts.total), (metric, full, consistency, metric + full + consistency), strict=True
    ):
        assert float(part) == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_losses_worked_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4)
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    assert float(metric_loss(logits, torch.tensor([0, 0]))) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    full_logits = torch.log(torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64))
    assert float(full_loss(full_logits, torch.tensor([2]))) == pytest.approx(math.log(2))
    # q = (1/4, 1/4, 1/2); the only logit ln 2 belongs to class 1, padded (0, ln 2, 0): p = (1/4, 1/2, 1/4)
    kl = consistency_loss(torch.tensor([[math.log(2)]], dtype=torch.float64), full_logits, torch.tensor([1]))
    assert float(kl) == pytest.approx(0.25 * math.log(1 / 2) + 0.5 * math.log(2))


def test_padding_puts_each_logit_at_its_class_and_zero_elsewhere() -> None:
    padded = pad_logits(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([3, 0]), 5)
    assert padded.tolist() == [[2, 0, 0, 1, 0], [4, 0, 0, 3, 0]]


@given(loss_cases())
@settings(deadline=None)
def test_divergence_is_zero_where_the_two_agree_and_positive_elsewhere(case) -> None:
    logits, _, full_logits, classes = case
    agreeing = pad_logits(logits, classes, full_logits.shape[1]) + 3.0  # softmax ignores a shift
    assert float(consistency_loss(logits, agreeing, classes)) == pytest.approx(0, abs=1e-12)
    assert float(consistency_loss(logits, full_logits, classes)) > 0


def test_divergence_is_finite_for_confident_logits_and_so_is_its_gradient() -> None:
    logits = torch.tensor([[10.0, -10.0]], requires_grad=True)
    full_logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    loss = consistency_loss(logits, full_logits, torch.tensor([0, 1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(20, rel=1e-3)
    for tensor in (logits, full_logits):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


def test_the_metric_logits_may_be_a_fixed_target_of_the_divergence() -> None:
    torch.manual_seed(0)
    logits, full_logits = torch.randn(4, 2, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    both = consistency_loss(logits, full_logits, torch.tensor([3, 1]), into_metric=True)
    fixed = consistency_loss(logits, full_logits, torch.tensor([3, 1]), into_metric=False)
    torch.testing.assert_close(fixed, both, rtol=0, atol=0)
    into_both, into_fixed = (torch.autograd.grad(x, (logits, full_logits), allow_unused=True) for x in (both, fixed))
    assert into_both[0].abs().max() > 1e-4
    assert into_fixed[0] is None
    torch.testing.assert_close(into_fixed[1], into_both[1])


def test_all_losses_have_the_numerical_gradient() -> None:
    torch.manual_seed(0)
    logits, full_logits = torch.randn(4, 3).double().requires_grad_(), torch.randn(4, 6).double().requires_grad_()
    labels, classes = torch.tensor([0, 2, 1, 1]), torch.tensor([5, 0, 2])
    assert torch.autograd.gradcheck(
        lambda few, full: losses(few, labels, full, classes[labels], classes).total, (logits, full_logits)
    )


# --- equation 3: the sketch ---


def sketch_and_images(blocks: int, make_dataset) -> tuple[DatasetSketch, Tensor]:
    torch.manual_seed(blocks)
    sketch = DatasetSketch((3, 16, 16), f"{blocks}conv-1linear", 2, 12)
    for seed in range(30):  # running statistics, where there are any, as after some training
        sketch(make_dataset(100 + seed, (3, 16, 16), per_class=4).images)
    return sketch, make_dataset(0, (3, 16, 16), per_class=9).images


@pytest.mark.parametrize("blocks", [1, 5])
def test_sketch_is_the_mean_of_the_projected_images(blocks: int, make_dataset) -> None:
    """Equation 3 takes the mean after the Linear; before it, it is the same."""
    sketch, images = sketch_and_images(blocks, make_dataset)
    one_by_one = torch.stack([sketch.project(row) for row in sketch.extractor(images)])
    torch.testing.assert_close(sketch(images), one_by_one.mean(0).view(2, 12), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_sketch_ignores_the_order_of_the_images(training: bool, make_dataset) -> None:
    sketch, images = sketch_and_images(1, make_dataset)
    sketch.train(training)
    shuffled = images[torch.randperm(len(images))]
    torch.testing.assert_close(sketch(shuffled), sketch(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [18, 19, 1000])
def test_streaming_in_one_piece_is_the_sketch_in_evaluation(chunk: int, make_dataset) -> None:
    sketch, images = sketch_and_images(1, make_dataset)
    sketch.eval()
    torch.testing.assert_close(sketch.stream(images, chunk=chunk), sketch(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("chunk", "parts"), [(1, 18), (5, 4), (8, 3), (9, 2), (17, 2)])
def test_streaming_in_pieces_is_the_mean_over_even_spreads(chunk: int, parts: int, make_dataset) -> None:
    """Part i has every `parts`-th image from the i-th on, so classes that lie one after the other are in every part."""
    sketch, images = sketch_and_images(1, make_dataset)
    sketch.eval()
    pieces = [images[first::parts] for first in range(parts)]
    assert max(len(piece) for piece in pieces) <= chunk
    expected = sum(len(piece) * sketch(piece).detach() for piece in pieces) / len(images)
    torch.testing.assert_close(sketch.stream(images, chunk=chunk), expected, rtol=1e-4, atol=1e-5)


def test_streaming_in_pieces_is_nearly_the_sketch_though_images_are_sorted_by_class(make_dataset) -> None:
    sketch, _ = sketch_and_images(1, make_dataset)
    sketch.eval()
    images, other = (make_dataset(seed, (3, 16, 16), per_class=100).images for seed in (0, 1))
    whole, streamed = sketch(images).detach(), sketch.stream(images, chunk=50)
    assert (streamed - whole).norm() < 0.05 * (sketch(other).detach() - whole).norm()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("blocks", [1, 5])
def test_different_datasets_have_different_sketches(blocks: int, training: bool, make_dataset) -> None:
    """Global pooling would leave BatchNorm's bias alone in training mode: no difference at all."""
    sketch, images = sketch_and_images(blocks, make_dataset)
    other = make_dataset(1, (3, 16, 16), per_class=9).images
    sketch.train(training)
    with torch.no_grad():
        one, two = sketch(images), sketch(other)
    assert (one - two).norm() > 0.1 * torch.maximum(one.norm(), two.norm())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 11, 11), (1, 28, 28), (3, 84, 84)])
def test_sketch_has_the_same_size_for_any_images(shape: tuple[int, int, int]) -> None:
    sketch = DatasetSketch(shape, "5conv-1linear", 4, 7)
    assert sketch(torch.randn(2, *shape)).shape == (4, 7)
