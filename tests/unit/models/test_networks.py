"""Tests networks by name: their interface, memory footprint, and tensors with two names."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811

from patchcore.config.run import MODEL_PRESETS, ModelConfig, OptimConfig
from patchcore.errors import ConfigError
from patchcore.models.checkpoint import load_checkpoint, save_checkpoint
from patchcore.models.footprint import footprint
from patchcore.models.registry import NETWORKS, _topology, make_network
from patchcore.models.weights import distinct_names, transfer_weights
from patchcore.training.loss import outputs_of
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
    assert tuple(outputs[0].shape) == (2, 3, *WINDOW)
    assert all(output.shape[:2] == (2, 3) for output in outputs)
    edges = [output.shape[2] for output in outputs]
    # MONAI's DynUNet resamples its coarser outputs to full resolution itself.
    assert edges == {"unetr": [64, 32, 16], "dynunet": [64, 64, 64], "mednext": [64, 32, 16, 8, 4]}[name]
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
    assert found.again_bytes == 0
    # The peak memory in the backward pass of a checkpointed network is measured by counting tensors.
    network = make_network(tiny(name, checkpointing=True), **sizes).train()  # type: ignore[arg-type]
    assert saving.activation_bytes + saving.again_bytes >= 0.9 * _peak_kept(network, image)


def _peak_kept(network: torch.nn.Module, image: torch.Tensor) -> int:
    """Return the largest number of bytes that autograd holds at once, without weights and image."""
    ours = {weight.untyped_storage().data_ptr() for weight in (*network.parameters(), image)}
    alive: dict[int, int] = {}
    counts: dict[int, int] = {}
    peak = 0

    class Handle:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal peak
            storage = tensor.untyped_storage()
            self.tensor, self.key = tensor, storage.data_ptr()
            if self.key not in ours:
                counts[self.key] = counts.get(self.key, 0) + 1
                alive[self.key] = storage.nbytes()
                peak = max(peak, sum(alive.values()))

        def __del__(self) -> None:
            if self.key in counts:
                counts[self.key] -= 1
                if not counts[self.key]:
                    del counts[self.key], alive[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Handle, lambda handle: handle.tensor):
        network(image).square().mean().backward()
    return peak


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


def test_the_footprint_counts_what_the_optimiser_and_bf16_add() -> None:
    sizes = {"out_channels": 2, "window_size": WINDOW, "patch_size": (16, 16, 16), "spacing": MM}
    found = footprint(tiny(), **sizes)  # type: ignore[arg-type]
    averaged = footprint(tiny(), optim=OptimConfig(ema=0.9), **sizes)  # type: ignore[arg-type]
    assert averaged.weight_bytes - found.weight_bytes == 4 * found.parameters
    plain = footprint(tiny(), optim=OptimConfig(optimizer="sgd"), **sizes)  # type: ignore[arg-type]
    assert plain.weight_bytes < found.weight_bytes
    half = footprint(tiny(), bf16=True, **sizes)  # type: ignore[arg-type]
    # Copies of weights do not grow with the windows.
    assert half.weight_bytes > found.weight_bytes
    assert half.activation_bytes < found.activation_bytes


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
    ("window", "spacing", "expected", "kernels"),
    [
        # Expected values from nnU-Net's get_pool_and_conv_props.
        ((64, 64, 64), (1.0, 1.0, 1.0), [(1, 1, 1), *[(2, 2, 2)] * 4], [(3, 3, 3)] * 5),
        (
            (64, 64, 16),
            (0.7, 0.7, 2.5),
            [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1)],
            [(3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        (
            (96, 96, 48),
            (0.75, 0.75, 5.0),
            [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (1, 1, 2)],
            [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        ((32, 32, 32), (1.0, 1.0, 2.0), [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)], [(3, 3, 1), *[(3, 3, 3)] * 3]),
        ((40, 40, 40), (1.0, 1.0, 1.0), [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)], [(3, 3, 3)] * 4),
        ((9, 9, 9), (1.0, 1.0, 1.0), [(1, 1, 1)], [(3, 3, 3)]),
    ],
)
def test_a_unet_pools_and_convolves_coarse_axes_later(
    window: IntTriple, spacing: Triple, expected: list[IntTriple], kernels: list[IntTriple]
) -> None:
    assert _topology(window, spacing) == (expected, kernels)


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
    # The same if only a part is transferred: the second name of a filled tensor is not re-made.
    third = build(tiny("dynunet"), outputs=2)
    report = transfer_weights(third, load_checkpoint(folder).weights())
    assert {r.name for r in report if r.action == "re-made"} == {
        name for name in dict.fromkeys(names.values()) if name.startswith("output_block")
    }
    assert torch.equal(
        third.state_dict()["input_block.conv1.conv.weight"], network.state_dict()["input_block.conv1.conv.weight"]
    )


def test_another_unetrs_supervision_heads_are_made_again() -> None:
    source, network = build(tiny()), build(tiny(deep_supervision=True))
    report = {item.name: item.action for item in transfer_weights(network, source.state_dict())}
    assert {name for name, action in report.items() if action == "re-made"} == {
        name for name in network.state_dict() if name.startswith("supervision.")
    }


@pytest.mark.parametrize("window", [(48, 48, 32), (64, 32, 16)])
def test_monais_unetr_keeps_its_position_embeddings_in_any_window(window: IntTriple) -> None:
    sizes = {"out_channels": 2, "window_size": window, "patch_size": (16, 16, 16), "spacing": MM}
    source, network = (make_network(tiny("monai-unetr"), **sizes) for _ in range(2))  # type: ignore[arg-type]
    report = transfer_weights(network, source.state_dict())
    assert {item.action for item in report} == {"kept"}
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["mednext", "swin-unetr", "segresnet"])
def test_heads_for_other_classes_are_made_again_in_any_network(name: str) -> None:
    source, network = build(tiny(name), outputs=2), build(tiny(name), outputs=4)
    report = {item.name: item.action for item in transfer_weights(network, source.state_dict())}
    remade = [key for key, action in report.items() if action == "re-made"]
    assert 1 <= len(remade) <= 2
    assert all(4 in network.state_dict()[key].shape for key in remade)
    assert "kept" in report.values()
