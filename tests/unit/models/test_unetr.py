"""Tests UNETR at every patch size: shapes, counts, gradients, errors and attention."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from patchcore.config.patches import Tokenizer
from patchcore.errors import ConfigError, PatchSizeError, ShapeMismatchError
from patchcore.models import UNETR, network_cost, trainable_parameters, upsampling_factors
from patchcore.models.attention import SelfAttention
from patchcore.models.blocks import _Conv

TINY: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}

SIZES: list[tuple[Any, Any]] = [
    (48, 8),
    (48, 12),
    (48, 16),
    (48, 24),
    (36, 6),
    (36, 9),
    (64, 32),
    ((48, 48, 24), (16, 16, 4)),
    ((32, 16, 16), (8, 8, 4)),
]


def meta_unetr(window: Any, patch: Any, **sizes: Any) -> UNETR:
    with torch.device("meta"):
        return UNETR(1, 3, window, patch, **sizes)


@pytest.mark.parametrize(("window", "patch"), SIZES)
def test_output_has_the_window_and_one_channel_a_class(window: Any, patch: Any) -> None:
    model = UNETR(2, 3, window, patch, **TINY).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 2, *model.window_size))
    assert logits.shape == (1, 3, *model.window_size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("window", "patch"), SIZES)
@pytest.mark.parametrize("own", [{}, {"qkv_bias": True}, {"tokenizer": "residual"}, {"tokenizer": "pyramid"}], ids=str)
def test_counted_parameters_are_those_of_the_network(window: Any, patch: Any, own: dict[str, Any]) -> None:
    model = meta_unetr(window, patch, **TINY, **own)
    cost = network_cost(window, patch, out_channels=3, **own, **TINY)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in trainable_parameters(model))
    assert cost.frozen_parameters == cost.parameters - trainable


@pytest.mark.parametrize(("window", "patch"), SIZES)
@pytest.mark.parametrize("tokenizer", ["linear", "residual", "pyramid"])
def test_counted_flop_are_those_of_the_network(window: Any, patch: Any, tokenizer: Tokenizer) -> None:
    model = meta_unetr(window, patch, **TINY, tokenizer=tokenizer)
    cost = network_cost(window, patch, out_channels=3, **TINY, tokenizer=tokenizer)
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        model(torch.zeros(1, 1, *model.window_size, device="meta"))
    assert counter.get_total_flops() == cost.flop


@pytest.mark.parametrize("patch", [8, 12, 24])
def test_a_patch_size_changes_the_embedding_and_up_sampling_kernels_only(patch: int) -> None:
    reference = {n: tuple(p.shape) for n, p in meta_unetr(96, 16).named_parameters()}
    shapes = {n: tuple(p.shape) for n, p in meta_unetr(96, patch).named_parameters()}
    assert shapes.keys() == reference.keys()
    changed = {name for name in shapes if shapes[name] != reference[name]}
    assert changed
    for name in changed:
        assert "patch_embedding" in name or shapes[name][:2] == reference[name][:2]
        assert "patch_embedding" in name or "transp_conv" in name or ".blocks.0.0" in name or ".blocks.1.0" in name
    assert not any(name.startswith("vit.blocks") for name in changed)


def test_each_stage_has_its_own_kernel() -> None:
    model = meta_unetr((48, 48, 24), (24, 24, 4), **TINY)
    up = upsampling_factors((24, 24, 4))
    kernels = {n: tuple(m.kernel_size) for n, m in model.named_modules() if isinstance(m, nn.ConvTranspose3d)}
    expected = {
        "encoder2": up[:3],
        "encoder3": up[:2],
        "encoder4": up[:1],
        "decoder5": up[0:1],
        "decoder4": up[1:2],
        "decoder3": up[2:3],
        "decoder2": up[3:4],
    }
    for branch, factors in expected.items():
        assert tuple(k for n, k in kernels.items() if n.startswith(branch)) == factors
    assert len(kernels) == sum(map(len, expected.values()))


def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one_does() -> None:
    model = UNETR(1, 2, 24, 12, **TINY)
    model(torch.randn(2, 1, 24, 24, 24)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("norm_cross_attn" not in name), name
    assert all(parameter.requires_grad for parameter in trainable_parameters(model))


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    model = UNETR(1, 2, 24, 8, **TINY).eval()
    x = torch.randn(2, 1, 24, 24, 24)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_channels_last_changes_nothing() -> None:
    model = UNETR(1, 2, 24, 12, **TINY).eval()
    x = torch.randn(2, 1, 24, 24, 24)
    with torch.no_grad():
        plain = model(x)
        last = model.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_trains() -> None:
    # 3 tokens an axis: at 2, oneDNN's bfloat16 gradient of a convolution's weights reads memory it never wrote.
    model = UNETR(1, 2, 36, 12, **TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(1, 1, 36, 36, 36))
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in trainable_parameters(model) if p.grad is not None)


def test_dropout_acts_in_training_only() -> None:
    model = UNETR(1, 2, 24, 12, **TINY, dropout=0.5)
    x = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_attention_is_the_textbook_formula() -> None:
    h, heads = 12, 3
    qkv, out = nn.Linear(h, 3 * h), nn.Linear(h, h)
    x = torch.randn(2, 5, h)
    q, k, v = qkv(x).chunk(3, dim=-1)
    parts = []
    for q_, k_, v_ in zip(*(z.chunk(heads, dim=-1) for z in (q, k, v)), strict=True):
        parts.append(torch.softmax(q_ @ k_.transpose(1, 2) / 2.0, dim=-1) @ v_)
    expected = out(torch.cat(parts, dim=-1))
    torch.testing.assert_close(SelfAttention(qkv, out, num_heads=heads, dropout=0.0)(x), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_of_one_voxel_is_torchs(bias: bool) -> None:
    """On a CPU it is a matrix product of the channels."""
    torch.manual_seed(0)
    convolution = _Conv(6, 4, 1, bias=bias)
    x = torch.randn(2, 6, 5, 4, 3).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    results = []
    for module in (convolution, convolution.conv):
        convolution.zero_grad()
        x.grad = None
        y = module(x)
        (y**2).sum().backward()
        results.append((y.detach(), x.grad, *(p.grad for p in convolution.parameters())))
    assert results[0][0].is_contiguous(memory_format=torch.channels_last_3d)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "shape", [(1, 2, 8, 6, 5), (1, 3, 2, 1, 1), (1, 2, 7, 6, 5), (2, 2, 8, 6, 5), (1, 40, 24, 24, 2)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_convolution_of_one_window_is_torchs(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    """A single window is computed as two halves, where torch's own way is slow."""
    torch.manual_seed(1)
    layer = _Conv(shape[1], 4, 3, bias=True)
    found, expected = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    outputs = []
    for image, conv in ((found, layer), (expected, layer.conv)):
        image.requires_grad_()
        layer.zero_grad()
        out = conv(image.to(memory_format=layout))
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        outputs.append((out.detach(), image.grad, layer.conv.weight.grad, layer.conv.bias.grad))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_wrong_input_is_reported_with_what_is_right() -> None:
    model = UNETR(1, 2, 24, 12, **TINY)
    with pytest.raises(ShapeMismatchError, match=r"expects \(batch, 1, 24, 24, 24\)"):
        model(torch.zeros(1, 1, 24, 24, 12))
    with pytest.raises(ShapeMismatchError):
        model(torch.zeros(1, 24, 24, 24))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"patch_size": 10}, PatchSizeError, "9 or 12"),
        ({"patch_size": 16}, PatchSizeError, "does not divide"),
        ({"num_heads": 5}, ConfigError, "num_heads 5"),
        ({"dropout": 1.0}, ConfigError, "dropout"),
        ({"feature_size": 0}, ConfigError, "feature_size 0"),
    ],
)
def test_impossible_networks_are_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"in_channels": 1, "out_channels": 2, "window_size": 24, "patch_size": 12, **TINY} | change
    with pytest.raises(error, match=words):
        UNETR(**arguments)


QUICK_START = """
import sys
from patchcore.config.run import TrainConfig
from patchcore.models import UNETR
from patchcore.models.device import place
place(TrainConfig(device="cpu"), 0)
UNETR(1, 2, 16, 4, hidden_size=12, mlp_dim=12, num_heads=2, feature_size=2)
print([name for name in ("monai", "torch._inductor", "matplotlib", "scipy") if name in sys.modules])
"""


def test_a_training_starts_without_monai_and_without_the_compiler() -> None:
    """Their imports take longer than all other imports of a training together."""
    done = subprocess.run([sys.executable, "-c", QUICK_START], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
