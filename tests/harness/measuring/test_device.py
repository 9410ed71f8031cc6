"""Device and precision: what is chosen, and that autocast is that."""

from __future__ import annotations

import pytest
import torch

from pudnet_bench.harness.measuring.device import choose_device, native_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_have_the_precision_that_was_chosen(precision: str, dtype: torch.dtype) -> None:
    compute = choose_device("cpu", precision)
    assert (compute.device, compute.precision) == (CPU, precision)
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_auto_is_bfloat16_where_the_processor_has_instructions_for_it() -> None:
    assert choose_device("cpu").precision == ("bf16" if native_bf16(CPU) else "fp32")


@pytest.mark.cuda
def test_on_a_gpu_auto_is_bfloat16_from_ampere_on(cuda: torch.device) -> None:
    compute = choose_device()
    assert (compute.device, compute.name) == (cuda, torch.cuda.get_device_name(cuda))
    assert compute.precision == ("bf16" if torch.cuda.get_device_capability(cuda) >= (8, 0) else "fp32")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_convolutions_and_gradients_have_the_precision_that_was_chosen(
    precision: str, cuda: torch.device
) -> None:
    if precision == "bf16" and not native_bf16(cuda):
        pytest.skip("this CUDA device has no instructions for bfloat16")
    compute = choose_device("cuda", precision)
    convolution = torch.nn.Conv2d(3, 8, 3).to(cuda)
    with compute.autocast():
        features = convolution(torch.randn(2, 3, 8, 8, device=cuda))
    assert features.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    features.float().square().mean().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.dtype == convolution.weight.grad.dtype == torch.float32
