"""Tests the instance norm with the residual and the leaky ReLU that follow it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from patchcore.models import norm
from patchcore.models.norm import ChannelsLastInstanceNorm


def noise(shape: tuple[int, ...], seed: int, layout: torch.memory_format = torch.channels_last_3d) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=layout)


def outcome(call: Callable[[Tensor, Tensor | None], Tensor], inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = call(leaves[0], leaves[1] if len(leaves) > 1 else None)
    gradients = torch.autograd.grad(y, leaves, weight)
    return [y.detach(), *gradients]


@pytest.mark.parametrize("shape", [(2, 1, 7, 6, 5), (2, 4, 7, 6, 5), (2, 16, 24, 24, 24), (3, 160, 3, 2, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("residual", [False, True])
def test_norm_equals_torchs_forward_and_backward(
    shape: tuple[int, ...], layout: torch.memory_format, slope: float, residual: bool
) -> None:
    inputs = [noise(shape, 1, layout) * 3 + 5, *([noise(shape, 2, layout)] if residual else [])]

    for one in (torch.float32, torch.float64):  # the core's function, and that of torch's operations
        got = outcome(
            ChannelsLastInstanceNorm(slope=slope), [x.to(one) for x in inputs], noise(shape, 3, layout).to(one)
        )
        assert all(tensor.dtype == one for tensor in got)
        # Near 0, rounding decides on which side of the activation's bend a value is.
        slopes = torch.where(got[0] > 0, 1.0, slope).double()

        def theirs(x: Tensor, added: Tensor | None, slopes: Tensor = slopes) -> Tensor:
            y = F.instance_norm(x) if added is None else F.instance_norm(x) + added
            return y * slopes

        expected = outcome(theirs, [x.double() for x in inputs], noise(shape, 3, layout).double())
        for ours, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=2e-5)


def test_the_result_is_channels_last_and_its_inputs_stay() -> None:
    x, added = noise((2, 4, 5, 6, 7), 1), noise((2, 4, 5, 6, 7), 2)
    before = [x.clone(), added.clone()]
    y = ChannelsLastInstanceNorm(slope=0.01)(x, added)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(x, before[0])
    assert torch.equal(added, before[1])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck's own tensors
def test_the_core_s_norm_is_a_complete_operation_of_torch() -> None:
    """Schema, fake tensors and autograd, as torch.compile needs them."""
    x, added = (noise((2, 4, 5, 6, 7), seed).requires_grad_() for seed in (1, 2))
    for residual, slope in ((added, 0.01), (None, 0.01), (None, 1.0)):
        torch.library.opcheck(norm._core_norm, (x, residual, 1e-5, slope))


def test_one_voxel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        ChannelsLastInstanceNorm()(torch.zeros(1, 2, 1, 1, 1))


@pytest.mark.parametrize("slope", [1.0, 0.1])
def test_norm_gradient_is_its_numerical_derivative(slope: float) -> None:
    x, added = (noise((1, 2, 3, 2, 2), seed).double().requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(ChannelsLastInstanceNorm(slope=slope), (x, added))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_the_gpus_norm_is_torchs() -> None:
    """The kernels run in Triton's interpreter. It must be enabled before the kernels are defined, in a new process."""
    program = """
import torch
import torch.nn.functional as F
from patchcore.models.norm_triton import triton_instance_norm

torch.manual_seed(0)
for shape in ((2, 16, 7, 6, 5), (1, 4, 12, 12, 12), (2, 24, 9, 3, 4), (3, 128, 2, 3, 2), (1, 1, 5, 5, 5)):
    for offset in (0.0, 1000.0):
        data = (torch.randn(shape) * 3 + offset).to(memory_format=torch.channels_last_3d)
        mine, reference, g = data.clone().requires_grad_(), data.double().requires_grad_(), torch.randn(shape)
        y, z = triton_instance_norm(mine, 1e-5), F.instance_norm(reference, eps=1e-5)
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
        y.backward(g)
        z.backward(g.double())
        torch.testing.assert_close(y, z.float(), atol=5e-5, rtol=0)
        torch.testing.assert_close(mine.grad, reference.grad.float(), atol=5e-5, rtol=0)
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_norm_of_a_large_offset_keeps_its_digits() -> None:
    x = torch.randn(1, 2, 40, 40, 40) + 100
    reference = (x.double() - x.double().mean((2, 3, 4), keepdim=True)) / x.double().std((2, 3, 4), keepdim=True)
    assert (ChannelsLastInstanceNorm()(x) - reference).abs().max() < 1e-3
