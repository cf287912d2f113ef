"""Networks by name, what they keep in memory, and which tensors of theirs are one."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811

from patchcore.config.run import MODEL_PRESETS, ModelConfig
from patchcore.engine.checkpoint import load_checkpoint, save_checkpoint
from patchcore.engine.loss import outputs_of
from patchcore.errors import ConfigError
from patchcore.models.footprint import footprint
from patchcore.models.registry import NETWORKS, _strides, make_network
from patchcore.models.weights import distinct_names, transfer_weights
from patchcore.types import IntTriple, Triple

WINDOW: IntTriple = (64, 32, 32)
MM: Triple = (1.0, 1.0, 1.0)


def tiny(network: str = "unetr", **more: object) -> ModelConfig:
    return ModelConfig(**(MODEL_PRESETS["tiny"] | {"feature_size": 8, "network": network} | more))  # type: ignore[arg-type]


def build(config: ModelConfig, outputs: int = 3) -> torch.nn.Module:
    return make_network(config, out_channels=outputs, window_size=WINDOW, patch_size=(16, 16, 16), spacing=MM)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_has_one_interface(name: str) -> None:
    torch.manual_seed(0)
    network = build(tiny(name))
    logits = network(torch.rand(2, 1, *WINDOW))
    assert tuple(logits.shape) == (2, 3, *WINDOW)
    logits.square().mean().backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


@pytest.mark.parametrize("name", [name for name, kind in NETWORKS.items() if kind.supervised])
def test_deep_supervision_gives_coarser_outputs_in_training_alone(name: str) -> None:
    network = build(tiny(name, deep_supervision=True))
    outputs = outputs_of(network(torch.rand(2, 1, *WINDOW)))
    assert len(outputs) >= 2
    assert tuple(outputs[0].shape) == (2, 3, *WINDOW)
    assert all(output.shape[:2] == (2, 3) for output in outputs)
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 1, *WINDOW)).shape == (1, 3, *WINDOW)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_checkpointing_changes_no_number_and_no_name(name: str) -> None:
    torch.manual_seed(0)
    plain = build(tiny(name))
    saving = build(tiny(name, checkpointing=True))
    assert list(saving.state_dict()) == list(plain.state_dict())
    saving.load_state_dict(plain.state_dict())
    image = torch.rand(1, 1, *WINDOW)
    for network in (plain, saving):
        network(image).square().mean().backward()
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=key, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_footprint_is_what_autograd_keeps(name: str) -> None:
    sizes = {"out_channels": 2, "window_size": WINDOW, "patch_size": (16, 16, 16), "spacing": MM}
    found = footprint(tiny(name), **sizes)  # type: ignore[arg-type]
    network = make_network(tiny(name), **sizes).train()  # type: ignore[arg-type]
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    image = torch.rand(1, 1, *WINDOW)
    ours = {weight.untyped_storage().data_ptr() for weight in (*network.parameters(), image)}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in ours)
    assert found.activation_bytes == pytest.approx(real, rel=0.05)
    saving = footprint(tiny(name, checkpointing=True), **sizes)  # type: ignore[arg-type]
    assert saving.activation_bytes < 0.7 * found.activation_bytes
    assert saving.weight_bytes == found.weight_bytes


def test_a_copy_of_a_checkpointed_network_computes_with_its_own_weights() -> None:
    network = build(tiny(checkpointing=True)).eval()
    image = torch.rand(1, 1, *WINDOW)
    with torch.no_grad():
        before = network(image)
        copied = copy.deepcopy(network)
        for weight in network.parameters():
            weight.zero_()
        assert torch.equal(copied(image), before)
        assert not torch.equal(network(image), before)


def test_the_footprint_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    footprint(tiny(), out_channels=2, window_size=WINDOW, patch_size=(16, 16, 16), spacing=MM)
    assert torch.equal(torch.get_rng_state(), before)


def test_monais_unetr_is_the_published_one() -> None:
    ours = build(tiny("monai-unetr"), outputs=2)
    theirs = MonaiUNETR(1, 2, WINDOW, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, norm_name="instance")
    assert {name: t.shape for name, t in ours.state_dict().items()} == {
        name: t.shape for name, t in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("window", "spacing", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)]),
        # The coarse axis waits until the others have caught up with it.
        ((64, 64, 16), (0.7, 0.7, 2.5), [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1)]),
        ((40, 40, 40), (1.0, 1.0, 1.0), [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((9, 9, 9), (1.0, 1.0, 1.0), [(1, 1, 1)]),
    ],
)
def test_a_unet_pools_coarse_axes_later(window: IntTriple, spacing: Triple, expected: list[IntTriple]) -> None:
    assert _strides(window, spacing) == expected


def test_a_unet_without_room_to_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 16"):
        make_network(
            tiny("dynunet"), out_channels=2, window_size=(9, 9, 9), patch_size=(9, 9, 9), spacing=(1.0, 1.0, 1.0)
        )


def test_a_tensor_under_two_names_is_kept_once_and_restored_under_both(tmp_path: object) -> None:
    network = build(tiny("dynunet"))
    names = distinct_names(network.state_dict())
    assert len(set(names.values())) < len(names)
    folder = save_checkpoint(f"{tmp_path}/last", network, {"step": 1})
    other = build(tiny("dynunet"))
    load_checkpoint(folder).restore(other)
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    # Also where only a part is taken over: the alias of a filled tensor is no new one.
    third = build(tiny("dynunet"), outputs=2)
    report = transfer_weights(third, load_checkpoint(folder).weights())
    assert {r.name for r in report if r.action == "re-made"} == {
        name for name in dict.fromkeys(names.values()) if name.startswith("output_block")
    }
    assert torch.equal(
        third.state_dict()["input_block.conv1.conv.weight"], network.state_dict()["input_block.conv1.conv.weight"]
    )


def test_another_unetrs_supervision_heads_are_made_anew() -> None:
    source, network = build(tiny()), build(tiny(deep_supervision=True))
    report = {item.name: item.action for item in transfer_weights(network, source.state_dict())}
    assert {name for name, action in report.items() if action == "re-made"} == {
        name for name in network.state_dict() if name.startswith("supervision.")
    }
