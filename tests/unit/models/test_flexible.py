"""A flexible UNETR is, at each of its patch sizes, the fixed UNETR of that size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811

from patchcore.config.cost import upsampling_factors
from patchcore.config.patch_choice import PatchChoice
from patchcore.config.patches import stage_strides
from patchcore.config.plan import Plan
from patchcore.config.run import InitConfig, resolve_config
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.models import UNETR
from patchcore.models.flexible import AtSize, ByClass, draw_size
from patchcore.models.registry import build_network
from patchcore.models.weights import transfer_weights
from patchcore.training.init_from import _initialise_flexible
from tiny_plan import tiny_target

TINY: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
SIZES = (8, 12, (16, 16, 8), 24)


def flexible(seed: int = 0, patch: Any = 12, **options: Any) -> UNETR:
    torch.manual_seed(seed)
    network = UNETR(1, 3, 48, patch, patch_sizes=SIZES, **(TINY | options))
    # Positions that matter.
    network.get_parameter("vit.patch_embedding.position_embeddings").data.mul_(20)
    return network.eval()


@pytest.mark.parametrize("embedding", ["own", "transposed", "pseudo-inverse"])
@pytest.mark.parametrize("kernels", ["own", "shared"])
def test_each_size_is_a_fixed_network(embedding: str, kernels: str) -> None:
    network = flexible(embedding=embedding, kernels=kernels, deep_supervision=True)
    image = torch.randn(1, 1, 48, 48, 48)
    outputs = []
    with torch.no_grad():
        for size in network.patch_sizes:
            outputs.append(network.use(size)(image))
            fixed = network.fixed(size)
            assert not fixed.is_flexible
            assert (fixed(image) - outputs[-1]).abs().max() < 1e-5
            assert set(fixed.state_dict()) == set(UNETR(1, 3, 48, size, **TINY, deep_supervision=True).state_dict())
    assert not any(torch.allclose(a, b) for n, a in enumerate(outputs) for b in outputs[:n])
    assert network.patch_size == (24, 24, 24)
    network.fixed(8)
    assert network.patch_size == (24, 24, 24)


@pytest.mark.parametrize("patch", [4, 8, 9, 12, 16, 24, (16, 16, 8), (24, 24, 6)])
def test_a_residual_tokenizer_has_a_token_per_patch(patch: Any) -> None:
    torch.manual_seed(0)
    network = UNETR(1, 2, 144 if patch == 9 else 48, patch, tokenizer="residual", **TINY).vit.patch_embedding
    edges = (patch,) * 3 if isinstance(patch, int) else patch
    assert np.prod([np.prod(strides) for strides in zip(*stage_strides(edges), strict=True)]) == np.prod(edges)
    window = 2 * np.array(edges)
    image = torch.randn(1, 1, *window.tolist())
    embed = network.get_submodule("patch_embeddings")
    found = embed(image)
    assert tuple(found.shape) == (1, 48, 2, 2, 2)
    # A token sees its patch, whatever its size.
    image.requires_grad_()
    embed(image)[0, :, 0, 0, 0].abs().sum().backward()
    assert image.grad is not None
    assert (image.grad[0, 0, : edges[0], : edges[1], : edges[2]] != 0).float().mean() > 0.5


@pytest.mark.parametrize("patch", [2, 4, 6, 8, 12, 16, 24, (16, 16, 8), (24, 24, 6)])
def test_a_pyramid_feeds_the_skip_connections(patch: Any) -> None:
    torch.manual_seed(0)
    network = UNETR(1, 2, 48, patch, tokenizer="pyramid", **TINY)
    edges = (patch,) * 3 if isinstance(patch, int) else patch
    steps = upsampling_factors(patch)[::-1]
    image = torch.randn(1, 1, 48, 48, 48)
    tokens, features = network.vit.patch_embedding(network.encoder1(image))
    assert tuple(tokens.shape) == (1, int(np.prod([48 // edge for edge in edges])), 48)
    used = [step for step in steps[:3] if np.prod(step) > 1]
    assert [feature.shape[1] for feature in features] == [8, 16, 32][: len(used)]
    for number, feature in enumerate(features, 1):
        assert tuple(feature.shape[2:]) == tuple(48 // np.prod(steps[:number], axis=0))
    # Without what a stage adds to its skip connection, the output differs.
    network.eval()
    with torch.no_grad():
        before = network(image)
        for number in range(len(features)):
            handle = network.get_submodule(
                f"vit.patch_embedding.patch_embeddings.stages.{number}"
            ).register_forward_hook(lambda _module, _inputs, found: found + 1)
            assert not torch.allclose(network(image), before)
            handle.remove()
    network.train()(image).square().mean().backward()
    silent = [n for n, weight in network.named_parameters() if weight.requires_grad and weight.grad is None]
    assert silent == []


@pytest.mark.parametrize("tokenizer", ["residual", "pyramid"])
def test_a_flexible_network_with_tokenizers_of_stages(tokenizer: Any) -> None:
    network = flexible(tokenizer=tokenizer)
    image = torch.randn(1, 1, 48, 48, 48)
    with torch.no_grad():
        for size in network.patch_sizes:
            assert (network.fixed(size)(image) - network.use(size)(image)).abs().max() < 1e-5
    # From patch size 8 to 16 the stages are kept that both have.
    torch.manual_seed(1)
    source, target = (UNETR(1, 2, 48, patch, tokenizer=tokenizer, **TINY) for patch in (8, 16))
    report = {tensor.name: tensor.action for tensor in transfer_weights(target, source.state_dict())}
    assert report["vit.patch_embedding.patch_embeddings.stages.0.0.weight"] == "kept"
    deepest = "stages.3.0" if tokenizer == "residual" else "token"
    assert report[f"vit.patch_embedding.patch_embeddings.{deepest}.weight"] == "re-made"
    with pytest.raises(ConfigError, match="cannot be resampled"):
        UNETR(1, 2, 48, 16, tokenizer=tokenizer, embedding="transposed", **TINY)


def test_a_fixed_network_of_16_is_monais() -> None:
    torch.manual_seed(0)
    network = UNETR(1, 2, 48, 16, patch_sizes=[8, 16], **TINY).eval()
    theirs = MonaiUNETR(
        in_channels=1, out_channels=2, img_size=(48, 48, 48), feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4,
        proj_type="conv", norm_name="instance",
    ).eval()  # fmt: skip
    theirs.load_state_dict(network.fixed(16).state_dict())
    image = torch.randn(1, 1, 48, 48, 48)
    with torch.no_grad():
        assert (theirs(image) - network(image)).abs().max() < 1e-4


@pytest.mark.parametrize("embedding", ["own", "transposed", "pseudo-inverse"])
def test_a_step_at_one_size_changes_what_all_share(embedding: str) -> None:
    network = flexible(embedding=embedding, kernels="shared").train()
    network.use(8)(torch.randn(1, 1, 48, 48, 48)).square().mean().backward()
    without = {name for name, value in network.named_parameters() if value.requires_grad and value.grad is None}
    own = {f"vit.patch_embedding.patch_embeddings.{name}" for name in ("12x12x12", "16x16x8", "24x24x24")}
    expected = {f"{name}.{part}" for name in own for part in ("weight", "bias")} if embedding == "own" else set()
    assert without == expected


def test_views_of_a_network() -> None:
    network = flexible()
    image = torch.randn(2, 1, 48, 48, 48)
    with torch.no_grad():
        at = {size: AtSize(network, size)(image).softmax(1) for size in ((8, 8, 8), (24, 24, 24))}
        same = ByClass(network, [(8, 8, 8)] * 2)(image).softmax(1)
        assert torch.allclose(same, at[8, 8, 8], atol=1e-6)
        both = ByClass(network, [(24, 24, 24), (8, 8, 8)])(image).softmax(1)
    background = (at[8, 8, 8][:, 0] + at[24, 24, 24][:, 0]) / 2
    expected = torch.stack([background, at[24, 24, 24][:, 1], at[8, 8, 8][:, 2]], 1)
    assert torch.allclose(both, expected / expected.sum(1, keepdim=True), atol=1e-6)


def test_sizes_are_drawn_with_their_shares_from_seed_and_step() -> None:
    sizes = [(8, 8, 8), (12, 12, 12), (24, 24, 24)]
    drawn = [draw_size(sizes, (0.5, 0.0, 0.5), 3, step) for step in range(400)]
    assert drawn == [draw_size(sizes, (0.5, 0.0, 0.5), 3, step) for step in range(400)]
    assert set(drawn) == {sizes[0], sizes[2]}
    assert 150 < drawn.count(sizes[0]) < 250
    assert drawn != [draw_size(sizes, (0.5, 0.0, 0.5), 4, step) for step in range(400)]
    assert {draw_size(sizes, (), 3, step) for step in range(50)} == set(sizes)


def test_weights_of_another_network() -> None:
    torch.manual_seed(5)
    source = UNETR(1, 3, 48, 12, **TINY).eval()
    network = flexible()
    state = source.state_dict()
    report = _initialise_flexible(network, lambda _: (state, (4, 4, 4)), InitConfig())
    image = torch.randn(1, 1, 48, 48, 48)
    with torch.no_grad():
        assert (network.use(12)(image) - source(image)).abs().max() < 1e-5
        # Its other sizes begin as a fixed network of that size would.
        other = UNETR(1, 3, 48, 24, **TINY).eval()
        transfer_weights(other, state, token_grid=(4, 4, 4))
        assert (network.use(24)(image) - other(image)).abs().max() < 1e-4
    assert any("patch size 24x24x24" in tensor.note for tensor in report)
    # From a flexible network to itself nothing changes.
    again = flexible(seed=9)
    _initialise_flexible(again, lambda size: (network.fixed_state(size), None), InitConfig())
    with torch.no_grad():
        for size in network.patch_sizes:
            assert (again.use(size)(image) - network.use(size)(image)).abs().max() < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"base_patch_size": 8},
        {"kernels": "shared"},
        {"embedding": "transposed", "base_patch_size": 24},
        {"embedding": "pseudo-inverse", "base_patch_size": 8, "kernels": "shared"},
    ],
)
def test_a_flexible_network_is_copied_into_an_equal_one(options: dict[str, Any]) -> None:
    source, target, encoder = flexible(**options), flexible(seed=9, **options), flexible(seed=9, **options)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    def weights(size: Any) -> tuple[dict[str, torch.Tensor], Any]:
        return source.fixed_state(size), None

    _initialise_flexible(target, weights, InitConfig(), source)
    _initialise_flexible(encoder, weights, InitConfig(part="encoder"), source)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
        expected = value if name.startswith("vit.") else before[name]
        assert torch.equal(encoder.state_dict()[name], expected), name


@pytest.mark.parametrize("patch", [8, 12, 24])
@pytest.mark.parametrize(("embedding", "base"), [("own", None), ("transposed", None), ("pseudo-inverse", 16)])
def test_shared_parts_begin_with_the_weights_of_a_fixed_network(patch: int, embedding: str, base: int | None) -> None:
    torch.manual_seed(5)
    state = UNETR(1, 3, 48, patch, **TINY).state_dict()
    network = flexible(patch=patch, embedding=embedding, base_patch_size=base, kernels="shared")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grid = (48 // patch,) * 3
    _initialise_flexible(network, lambda _: (state, grid), InitConfig())
    # Nothing that is learned keeps its random weights; the classifier's bias among them.
    for name, value in network.state_dict().items():
        assert not torch.equal(value, before[name]) or "norm" in name, name


def test_refusals() -> None:
    with pytest.raises(PatchSizeError, match="is not among"):
        UNETR(1, 2, 48, 16, patch_sizes=[8, 12], **TINY)
    with pytest.raises(PatchSizeError, match="does not divide"):
        UNETR(1, 2, 48, 16, patch_sizes=[9, 16], **TINY)
    with pytest.raises(PatchSizeError, match="does not divide"):
        UNETR(1, 2, 48, 16, patch_sizes=[8, 16], base_patch_size=32, **TINY)
    with pytest.raises(PatchSizeError, match=r"has no patch size \(9, 9, 9\)"):
        flexible().use(9)
    for settings, words in (
        (["model.patch_sizes=[8,16]", "model.patch_size_shares=[1]"], "give one share per patch size"),
        (["model.patch_sizes=[8,16]", "model.patch_size_shares=[1,NaN]"], "give one share per patch size"),
        (["model.patch_sizes=[8,16]", "model.patch_size_shares=[1,Infinity]"], "give one share per patch size"),
        (["model.patch_sizes=[8,[8,8,8],16]"], r"\(8, 8, 8\) twice"),
        (["model.kernels=shared"], "model.kernels is for a network of several patch sizes"),
        (["model.embedding=transposed"], "model.embedding is for a network of several"),
        (["model.base_patch_size=8", "model.network=dynunet"], "model.base_patch_size is for a network of several"),
        (["model.patch_sizes=[8,16]", "model.network=segresnet"], "is for unetr"),
        (["model.patch_sizes=[8,16]", "train.compile=graphs"], "a graph has one patch size"),
        (["model.patch_sizes=[8,10]"], "10 is not a product of four"),
        (["model.tokenizer=residual", "model.network=dynunet"], "model.tokenizer is for unetr"),
        (
            ["model.patch_sizes=[8,16]", "model.tokenizer=residual", "model.embedding=transposed"],
            "set model.embedding=own",
        ),
        (
            ["model.patch_sizes=[8,16]", "model.tokenizer=pyramid", "model.embedding=transposed"],
            "set model.embedding=own",
        ),
    ):
        with pytest.raises((ConfigError, PatchSizeError), match=words):
            resolve_config(settings=settings)
    target = tiny_target(window=(16, 16, 16), patch_size=(8, 8, 8))
    with pytest.raises(PatchSizeError, match=r"is not among model\.patch_sizes"):
        build_network(target, resolve_config(settings=["model.patch_sizes=[4,16]"]).model)


@pytest.mark.parametrize("text", ["", "x", "8,1:8", "8x8", "1:8,1:9"])
def test_patch_sizes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError):
        PatchChoice.parse(text)


def test_patch_sizes_as_text() -> None:
    for text in ("8", "8x8x4,16", "1:16,2:8x8x4"):
        assert str(PatchChoice.parse(text)) == text
    assert PatchChoice.parse("1:16,2:8").name == "patch1-16+2-8"


def test_the_plan_chooses_a_size_for_each_label() -> None:
    first = tiny_target(classes=3, window=(48, 48, 48), patch_size=(12, 12, 12), lesion_labels=(2, 3), lesion_label=2)
    own = [first.model_copy(update={"lesion_label": label, "lesion_labels": (), "patch_size": (size,) * 3})
           for label, size in ((2, 16), (3, 8))]  # fmt: skip
    choice = PatchChoice.parse("plan")
    assert (str(choice), choice.name) == ("plan", "patch-plan")
    found = choice.of_plan(Plan(fingerprint_hash="0" * 64, targets=(first, *own)))
    assert found.by_label == {1: (12, 12, 12), 2: (16, 16, 16), 3: (8, 8, 8)}
    fixed = PatchChoice.parse("8")
    assert fixed.of_plan(Plan(fingerprint_hash="0" * 64, targets=(first,))) is fixed
