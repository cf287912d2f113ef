"""At patch 16 the network is MONAI's: one state dict, one output."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from patchcore.models import UNETR

monai_nets = pytest.importorskip("monai.networks.nets")

CONFIGS: list[dict[str, Any]] = [
    {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4},
    {"hidden_size": 48, "mlp_dim": 64, "num_heads": 3, "feature_size": 8, "qkv_bias": True},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("window", [(32, 32, 32), (48, 32, 16)])
def test_state_dict_both_ways_and_output(config: dict[str, Any], window: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    theirs = monai_nets.UNETR(2, 3, window, **config).eval()
    ours = UNETR(2, 3, window, 16, **config).eval()
    x = torch.randn(2, 2, *window)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
        fresh = UNETR(2, 3, window, 16, **config).eval()
        theirs.load_state_dict(fresh.state_dict(), strict=True)
        torch.testing.assert_close(fresh(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_seed_gives_the_same_initial_weights(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = monai_nets.UNETR(2, 3, (48, 32, 16), **config).state_dict()
    torch.manual_seed(0)
    ours = UNETR(2, 3, (48, 32, 16), 16, **config).state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    theirs = monai_nets.UNETR(1, 2, 32, **CONFIGS[0])
    ours = UNETR(1, 2, 32, 16, **CONFIGS[0])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 1, 32, 32, 32)
    for network in (ours, theirs):
        network(x).square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            scale = float(gradients[name].grad.abs().max())
            torch.testing.assert_close(
                parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
            )


def test_full_size_state_dicts_have_the_same_names_order_and_shapes() -> None:
    with torch.device("meta"):
        theirs, ours = monai_nets.UNETR(1, 2, 96), UNETR(1, 2, 96, 16)
    assert [(n, v.shape) for n, v in ours.state_dict().items()] == [
        (n, v.shape) for n, v in theirs.state_dict().items()
    ]
