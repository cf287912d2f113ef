"""Tests the transfer of weights across patch sizes, windows and classes, and the errors for weights that do not fit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811
from monai.networks.nets import ViT
from safetensors.torch import save_file

from patchcore.config.run import InitConfig
from patchcore.errors import CheckpointError
from patchcore.models import UNETR
from patchcore.models.weights import (
    _fitted,
    _linear_matrix,
    area_matrix,
    foreign_weights,
    resample_embedding,
    resample_kernel,
    transfer_weights,
)
from patchcore.training.init_from import initialise

TINY: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
EDGES = (4, 6, 8, 9, 12, 16)


def unetr(patch: Any, window: Any = 48, classes: int = 2, seed: int = 0, **sizes: Any) -> UNETR:
    torch.manual_seed(seed)
    return UNETR(1, classes, window, patch, **(TINY | sizes))


def inner(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.einsum("xyz,hxyz->h", x.double(), w[:, 0].double())


def resized(x: torch.Tensor, edge: int) -> torch.Tensor:
    """Enlarge a patch by the pseudo-inverse of averaging. If the ratio is whole, this repeats voxels."""
    up = torch.from_numpy(np.linalg.pinv(area_matrix(x.shape[0], edge)))
    return torch.einsum("abc,xa,yb,zc->xyz", x.double(), up, up, up)


@settings(max_examples=40, deadline=None)
@given(pair=st.sampled_from([(a, b) for a, b in itertools.combinations(EDGES, 2)]), seed=st.integers(0, 99))
def test_the_embedding_of_a_resized_patch_is_kept(pair: tuple[int, int], seed: int) -> None:
    small, large = pair
    torch.manual_seed(seed)
    weight, x = torch.randn(5, 1, small, small, small), torch.randn(small, small, small)
    up, error = resample_embedding(weight, (large, large, large))
    assert error < 1e-5
    torch.testing.assert_close(inner(resized(x, large), up), inner(x, weight), atol=1e-5 * small**1.5, rtol=1e-5)
    back, _ = resample_embedding(up, (small, small, small))
    torch.testing.assert_close(back, weight, atol=1e-5, rtol=1e-5)


def test_from_8_to_16_repeated_voxels_are_embedded_the_same() -> None:
    weight, x = torch.randn(7, 1, 8, 8, 8), torch.randn(8, 8, 8)
    repeated = x.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    up, _ = resample_embedding(weight, (16, 16, 16))
    torch.testing.assert_close(inner(repeated, up), inner(x, weight), atol=1e-5 * 23, rtol=1e-5)


def test_flexivits_way_is_exact_upwards_and_says_what_is_lost_downwards() -> None:
    weight = torch.randn(5, 1, 16, 16, 16)
    _, up = resample_embedding(weight, (24, 24, 24), "pseudo-inverse")
    _, down = resample_embedding(weight, (8, 8, 8), "pseudo-inverse")
    assert up < 1e-6
    assert 0.5 < down < 1.0
    x, y = torch.randn(16, 16, 16), resample_embedding(weight, (16, 16, 16), "pseudo-inverse")
    torch.testing.assert_close(inner(x, y[0]), inner(x, weight))


def test_area_averages_keep_sums() -> None:
    for small, large in itertools.combinations(range(1, 12), 2):
        matrix = area_matrix(small, large)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        np.testing.assert_allclose(matrix.sum(axis=0), small / large)


def test_the_same_network_keeps_everything() -> None:
    source, network = unetr(12, seed=1), unetr(12, seed=2)
    report = transfer_weights(network, source.state_dict())
    assert {tensor.action for tensor in report} == {"kept"}
    x = torch.randn(1, 1, 48, 48, 48)
    with torch.no_grad():
        assert torch.equal(source.eval()(x), network.eval()(x))


@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 8), (8, 12), (12, 16), ((16, 16, 8), (8, 8, 8)), (24, 6)])
def test_every_tensor_is_accounted_for(old: Any, new: Any) -> None:
    source, network = unetr(old, seed=1), unetr(new, seed=2)
    given = transfer_weights(network, source.state_dict(), token_grid=source.token_grid)
    report = {tensor.name: tensor for tensor in given}
    assert set(report) == set(network.state_dict())
    assert report["vit.patch_embedding.patch_embeddings.weight"].action == "resampled"
    assert report["vit.patch_embedding.position_embeddings"].action == "resampled"
    assert {tensor.action for tensor in report.values()} == {"kept", "resampled"}
    for name, value in network.state_dict().items():
        if report[name].action == "kept":
            assert torch.equal(value, source.state_dict()[name])
        assert torch.isfinite(value).all()


def test_there_and_back_is_the_network_again() -> None:
    source = unetr(8, seed=1)
    middle, again = unetr(16, seed=2), unetr(8, seed=3)
    transfer_weights(middle, source.state_dict())
    transfer_weights(again, middle.state_dict())
    for name, value in source.state_dict().items():
        if "position" not in name:
            torch.testing.assert_close(again.state_dict()[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_positions_are_interpolated_on_their_grid() -> None:
    source, network = unetr(16, window=(96, 48, 48), seed=1), unetr(16, window=(48, 48, 48), seed=2)
    state = source.state_dict()
    ramp = torch.linspace(0, 5, 6)[:, None, None, None].expand(6, 3, 3, 48).reshape(1, 54, 48)
    state["vit.patch_embedding.position_embeddings"] = ramp.clone()
    transfer_weights(network, state, token_grid=(6, 3, 3))
    found = network.state_dict()["vit.patch_embedding.position_embeddings"].reshape(3, 3, 3, 48)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([0.5, 2.5, 4.5]))
    # If the token grid is not known, position embeddings are re-made, unless they have the right shape already.
    report = transfer_weights(unetr(16), state)
    assert [t.action for t in report if "position" in t.name] == ["re-made"]
    report = transfer_weights(unetr(16, window=(96, 48, 48)), state)
    assert [t.action for t in report if "position" in t.name] == ["kept"]


def test_heads_for_other_classes_and_the_encoder_alone() -> None:
    source, network = unetr(16, classes=4, seed=1), unetr(16, seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = transfer_weights(network, source.state_dict())
    remade = [tensor for tensor in report if tensor.action == "re-made"]
    assert [tensor.name for tensor in remade] == ["out.conv.conv.weight", "out.conv.conv.bias"]
    assert remade[0].note == "3 classes in the source, 1 here"
    assert torch.equal(network.state_dict()["out.conv.conv.weight"], before["out.conv.conv.weight"])

    alone, untouched = unetr(16, seed=2), "decoder2.transp_conv.conv.weight"
    report = transfer_weights(alone, source.state_dict(), part="encoder")
    assert {t.name.startswith("vit.") for t in report if t.action == "kept"} == {True}
    assert torch.equal(alone.state_dict()[untouched], before[untouched])


def test_monais_unetr_and_vit_load() -> None:
    torch.manual_seed(4)
    peer = MonaiUNETR(1, 2, (48, 48, 48), **TINY).eval()
    network = unetr(16).eval()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in peer.state_dict().items()}}
    report = transfer_weights(network, foreign_weights(wrapped))
    assert {tensor.action for tensor in report} == {"kept"}
    x = torch.randn(1, 1, 48, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(x), peer(x), atol=1e-5, rtol=1e-4)

    given = {"in_channels": 1, "img_size": 48, "patch_size": 16, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
    for kind in ("conv", "perceptron"):
        vit = ViT(**given, proj_type=kind).eval()
        report = transfer_weights(network, foreign_weights(vit.state_dict()))
        assert sum(tensor.action == "kept" for tensor in report) > 100
        with torch.no_grad():
            torch.testing.assert_close(network.vit(x)[0], vit(x)[0], atol=1e-4, rtol=1e-3)


def test_what_cannot_cross_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has shape .*model\.preset"):
        transfer_weights(unetr(16), unetr(16, hidden_size=96, mlp_dim=192).state_dict())
    with pytest.raises(CheckpointError, match="no tensor in common"):
        transfer_weights(unetr(16), {"other": torch.zeros(3)})
    flat = unetr(16).state_dict() | {"vit.patch_embedding.patch_embeddings.weight": torch.zeros(48, 1, 16, 16)}
    with pytest.raises(CheckpointError, match="has 4 axes"):
        transfer_weights(unetr(16), flat)
    # Only up-sampling kernels follow their stride, and only with the same channels.
    for name, shape in (
        ("encoder1.layer.conv2.conv.weight", (4, 4, 5, 5, 5)),
        ("decoder5.transp_conv.conv.weight", (48, 31, 4, 4, 4)),
        ("decoder5.transp_conv.conv.weight", (47, 32, 4, 4, 4)),
        ("out.conv.conv.weight", (2, 5, 1, 1, 1)),
    ):
        with pytest.raises(CheckpointError, match=f"{name} has shape"):
            transfer_weights(unetr(16), unetr(16).state_dict() | {name: torch.zeros(shape)})
    for loaded in ({}, {"epoch": 3}, [1, 2], {"state_dict": {}}):
        with pytest.raises(CheckpointError, match="contains no weights"):
            foreign_weights(loaded)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("/tmp/patchcore-was-executed"),))  # type: ignore[return-value]


def test_foreign_files(tmp_path: Path) -> None:
    source, target = unetr(8, seed=1), TargetLike()
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pt")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        network = unetr(16)
        report = initialise(network, InitConfig(source=str(tmp_path / name)), target)  # type: ignore[arg-type]
        assert report.differences is None
        assert "resampled" in report.summary()
        assert math.isclose(
            float(network.state_dict()["vit.norm.weight"].sum()), float(source.state_dict()["vit.norm.weight"].sum())
        )
    executed = Path("/tmp/patchcore-was-executed")
    executed.unlink(missing_ok=True)
    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("no weights at all")
    for name, words in (
        ("bomb.pt", r"more than tensors \(\S+\); unpickling it could run arbitrary code"),
        ("short.safetensors", "cannot be read"), ("short.pt", "cannot be read"),
        ("text.pt", "not a weights file"), ("gone.pt", "no such file"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=words) as caught:
            initialise(unetr(16), InitConfig(source=str(tmp_path / name)), target)  # type: ignore[arg-type]
        assert name in str(caught.value)
        assert "weights_only" not in str(caught.value)
    assert not executed.exists()


class TargetLike:
    """Stands in for a plan: of weights from a file only the patch size is used."""

    patch_size = (8, 8, 8)


@pytest.mark.parametrize(("old", "new"), [(1, 4), (2, 5), (3, 3), (4, 2), (4, 9), (7, 3)])
def test_linear_interpolation_is_numpys(old: int, new: int) -> None:
    values = np.random.default_rng(old).standard_normal(old)
    centres = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    np.testing.assert_allclose(_linear_matrix(old, new) @ values, np.interp(centres, np.arange(old), values))


def test_positions_of_a_network_that_does_not_say_its_grid_lie_on_a_cube() -> None:
    class Plain(torch.nn.Module):
        """Position embeddings of 4³ tokens, under ViT's name."""

        def __init__(self, tokens: int) -> None:
            super().__init__()
            self.vit = torch.nn.Module()
            self.vit.patch_embedding = torch.nn.Module()
            self.vit.patch_embedding.position_embeddings = torch.nn.Parameter(torch.zeros(1, tokens, 48))

    network = Plain(4**3)
    weights = {"vit.patch_embedding.position_embeddings": torch.randn(1, 8**3, 48)}
    [report] = transfer_weights(network, weights)
    assert (report.action, report.note) == ("resampled", "interpolated from (8, 8, 8) to (4, 4, 4) tokens")


def test_a_prefix_is_removed_only_if_all_names_have_it() -> None:
    weight = torch.zeros(2, 2)
    mixed = {"net.vit.norm.weight": weight, "vit.norm.bias": weight}
    assert foreign_weights(mixed).keys() == mixed.keys()
    assert foreign_weights({f"net.{name}": weight for name in ("vit.a", "vit.b")}).keys() == {"vit.a", "vit.b"}


def test_positions_of_as_many_tokens_on_another_grid_are_interpolated() -> None:
    source, target = unetr(8, (16, 24, 32)), unetr(8, (32, 24, 16), seed=1)
    transfer_weights(target, source.state_dict(), token_grid=(2, 3, 4))
    name = "vit.patch_embedding.position_embeddings"
    before, after = source.state_dict()[name], target.state_dict()[name]
    assert before.shape == after.shape
    assert not torch.equal(before, after)
    again = unetr(8, (16, 24, 32), seed=1)
    transfer_weights(again, target.state_dict(), token_grid=(4, 3, 2))
    assert again.state_dict()[name].shape == before.shape
    # Without a grid, weights of the same shape are of the same network.
    transfer_weights(target, source.state_dict())
    assert torch.equal(target.state_dict()[name], before)


def test_a_kernel_that_samples_nothing_up_is_not_resampled() -> None:
    given, wanted = torch.ones(4, 1, 3, 3, 3), torch.ones(4, 1, 1, 3, 3)
    with pytest.raises(CheckpointError, match="input_block"):
        _fitted("input_block.0.conv.weight", given, wanted, unetr(8), "transposed", None)


def test_a_kernel_for_fewer_voxels_has_the_means_of_the_old_one_and_one_for_more_has_its_means() -> None:
    def along(values: list[float], factor: int) -> list[float]:
        kernel = torch.tensor(values).reshape(1, 1, -1, 1, 1)
        return resample_kernel(kernel, (factor, 1, 1)).flatten().tolist()

    # 3 → 2: the middle voxel is shared by both halves.
    assert along([1.0, 2.0, 4.0], 2) == pytest.approx([(1 + 2 / 2) / 1.5, (2 / 2 + 4) / 1.5])
    assert along([1.0, 2.0, 4.0, 8.0], 2) == pytest.approx([1.5, 6.0])
    assert along([1.0, 3.0], 4) == pytest.approx([1, 1, 3, 3])
    assert along(along([1.0, 3.0], 3), 2) == pytest.approx([1, 3])
