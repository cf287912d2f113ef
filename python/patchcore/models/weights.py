"""Transfers weights between UNETRs with different patch sizes, windows and classes, and reports each tensor.

*Patch embedding.* Let R average a large patch to a small one (edge-aligned, by area), and let U be its pseudo-inverse,
so R U = 1. From small to large, the kernel becomes Rᵀw: a large patch has the embedding of its average. From large to
small, the kernel becomes Uᵀw. Then ⟨x, w⟩ = ⟨U x, Rᵀ w⟩ for every small patch x, and resampling up and down again is
exact. The method of FlexiViT (Beyer et al., CVPR 2023: the pseudo-inverse of linear interpolation) is also available.

*Position embeddings* are interpolated between token grids. *Up-sampling kernels* with a different stride are averaged
or repeated, so that a stage gives the same values at its new stride. *Heads* for other classes are re-made: they keep
the initial weights of the new network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from patchcore.errors import CheckpointError
from patchcore.types import Float64Array, IntTriple

__all__ = [
    "Embedding",
    "TensorReport",
    "area_matrix",
    "distinct_names",
    "embedding_matrix",
    "foreign_weights",
    "resample_embedding",
    "resample_kernel",
    "resample_positions",
    "transfer_weights",
]

Embedding: TypeAlias = Literal["transposed", "pseudo-inverse"]
Action: TypeAlias = Literal["kept", "resampled", "re-made", "unused"]

_POSITION = "vit.patch_embedding.position_embeddings"
_PATCH = "vit.patch_embedding.patch_embeddings.weight"
_TOKENIZER = tuple(f"vit.patch_embedding.patch_embeddings.{part}." for part in ("stages", "token"))
ENCODERS = ("vit.", "swinViT.")
"""Prefixes of the parameter names of a transformer."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")


@dataclass(frozen=True)
class TensorReport:
    """Result of the transfer of one tensor.

    Attributes:
        name: Name in the network's state dict.
        action: ``kept``, ``resampled``, ``re-made`` (as in a new network), or ``unused``.
        found: Shape in the source; None if the source does not have it.
        wanted: Shape in the network; None if the network does not have it.
        note: Method or reason.
    """

    name: str
    action: Action
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None
    note: str = ""


def area_matrix(small: int, large: int) -> Float64Array:
    """Return the matrix (small, large) that averages `large` values to `small` values by overlap, edge-aligned.

    Example:
        >>> area_matrix(2, 3).round(3).tolist()
        [[0.667, 0.333, 0.0], [0.0, 0.333, 0.667]]
    """
    edges = np.arange(small + 1) * (large / small)
    low = np.maximum(edges[:-1, None], np.arange(large)[None, :])
    high = np.minimum(edges[1:, None], np.arange(1, large + 1)[None, :])
    matrix: Float64Array = np.clip(high - low, 0, None) / (large / small)
    return matrix


def _linear_matrix(old: int, new: int) -> Float64Array:
    """Return the matrix (new, old) of edge-aligned linear interpolation."""
    matrix = np.zeros((new, old))
    centres = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    below = np.minimum(np.floor(centres).astype(int), max(old - 2, 0))
    share = centres - below
    matrix[np.arange(new), below] += 1 - share
    matrix[np.arange(new), np.minimum(below + 1, old - 1)] += share
    return matrix


def _inverse(matrix: Float64Array) -> Float64Array:
    return np.asarray(np.linalg.pinv(matrix), dtype=np.float64)


def _along_axes(tensor: Tensor, matrices: Sequence[Float64Array]) -> Tensor:
    """Apply a matrix to each of the last three axes, in float64."""
    out = tensor.double()
    for axis, matrix in enumerate(matrices):
        out = torch.movedim(torch.tensordot(out, torch.from_numpy(matrix), dims=([2 + axis], [1])), -1, 2 + axis)
    return out


def embedding_matrix(old: int, new: int, method: Embedding) -> Float64Array:
    """Return the matrix (new, old) that brings one axis of a patch embedding to another patch size."""
    if method == "pseudo-inverse":
        return _inverse(_linear_matrix(old, new).T)
    return area_matrix(old, new).T if new >= old else _inverse(area_matrix(new, old)).T


def resample_embedding(weight: Tensor, patch_size: IntTriple, method: Embedding = "transposed") -> tuple[Tensor, float]:
    """Resample a patch embedding to another patch size.

    Args:
        weight: Kernel, (h, C, p, p, p).
        patch_size: Patch size of the result, voxels per axis.
        method: ``transposed`` or FlexiViT's ``pseudo-inverse``.

    Returns:
        The kernel (h, C, *patch_size), and the relative error after resampling it back: 0 is exact.

    Example:
        >>> weight = torch.randn(4, 1, 8, 8, 8)
        >>> larger, error = resample_embedding(weight, (16, 16, 16))
        >>> tuple(larger.shape), error < 1e-6
        ((4, 1, 16, 16, 16), True)
    """
    old = tuple(int(n) for n in weight.shape[2:])
    new = _along_axes(weight, [embedding_matrix(a, b, method) for a, b in zip(old, patch_size, strict=True)])
    if method == "pseudo-inverse":
        back = _along_axes(new, [_linear_matrix(a, b).T for a, b in zip(old, patch_size, strict=True)])
    else:
        back = _along_axes(new, [embedding_matrix(b, a, method) for a, b in zip(old, patch_size, strict=True)])
    error = float((back - weight.double()).norm() / weight.double().norm().clamp(min=1e-30))
    return new.to(weight.dtype), error


def resample_kernel(weight: Tensor, factors: Sequence[int]) -> Tensor:
    """Resample an up-sampling kernel (in, out, k, k, k) to other strides by averaging or repeating."""
    old = [int(n) for n in weight.shape[2:]]
    matrices = [
        area_matrix(new, k) if new <= k else _inverse(area_matrix(k, new)) for k, new in zip(old, factors, strict=True)
    ]
    return _along_axes(weight, matrices).to(weight.dtype)


def resample_positions(weight: Tensor, old: IntTriple, new: IntTriple) -> Tensor:
    """Interpolate position embeddings (1, tokens, h) from one grid of tokens to another."""
    if old == new:
        return weight
    grid = weight.float().reshape(1, *old, -1).permute(0, 4, 1, 2, 3)
    grid = functional.interpolate(grid, new, mode="trilinear", align_corners=False)
    return grid.permute(0, 2, 3, 4, 1).reshape(1, -1, weight.shape[2]).to(weight.dtype)


def distinct_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for every name of a state dict, the first name of the same tensor: DynUNet has two names per tensor.

    Args:
        state: A module's own state dict, not a copy of its tensors.
    """
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    names = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        names[name] = first.setdefault(key, name) if tensor.numel() else name
    return names


def foreign_weights(loaded: object) -> dict[str, Tensor]:
    """Return the tensors of a file loaded by ``torch.load``, with patchcore's names.

    Wrappers and prefixes that trainers add are removed. A ViT without a decoder is loaded as encoder. MONAI's older
    ``perceptron`` patch embedding is converted to the equivalent convolution.

    Raises:
        CheckpointError: The object contains no weights.
    """
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise CheckpointError(
            "contains no weights", remedy="give a state dict, as written by torch.save(network.state_dict(), path)"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if not any(name.startswith("vit.") for name in tensors) and any(n.startswith("patch_embedding.") for n in tensors):
        tensors = {f"vit.{name}": value for name, value in tensors.items()}
    for part in ("weight", "bias"):
        linear = tensors.pop(f"vit.patch_embedding.patch_embeddings.1.{part}", None)
        if linear is not None:
            tensors[f"vit.patch_embedding.patch_embeddings.{part}"] = linear
    flat = tensors.get(_PATCH)
    if flat is not None and flat.ndim == 2:
        edge = round(flat.shape[1] ** (1 / 3))
        if edge**3 != flat.shape[1]:
            raise CheckpointError(f"a patch of {flat.shape[1]} voxels is not a cube with one channel")
        tensors[_PATCH] = flat.reshape(flat.shape[0], 1, edge, edge, edge)
    return tensors


def transfer_weights(
    network: nn.Module,
    found: Mapping[str, Tensor],
    *,
    part: Literal["all", "encoder"] = "all",
    embedding: Embedding = "transposed",
    token_grid: IntTriple | None = None,
) -> list[TensorReport]:
    """Fill a network with the weights of another network of the same kind, as far as they fit.

    Args:
        network: Network to fill. Tensors that are not found stay unchanged.
        found: State dict of the other network, with patchcore's names; see :func:`foreign_weights`.
        part: ``all``, or ``encoder`` for the transformer alone.
        embedding: How the patch embedding is resampled to another patch size.
        token_grid: Tokens of the other network along each axis [default: a cube].

    Returns:
        The result for each tensor.

    Raises:
        CheckpointError: A tensor differs in more than patch size, window or classes, or no tensor fits.
    """
    state = network.state_dict()
    names = distinct_names(state)
    report: list[TensorReport] = []
    filled: dict[str, Tensor] = {}
    for name in dict.fromkeys(names.values()):
        wanted = state[name]
        shape, given = tuple(wanted.shape), found.get(name)
        have = None if given is None else tuple(given.shape)
        if part == "encoder" and not name.startswith(ENCODERS):
            report.append(TensorReport(name, "re-made", have, shape, "only the encoder was requested"))
        elif given is None:
            report.append(TensorReport(name, "re-made", None, shape, "not in the source"))
        elif have == shape and name != _POSITION:
            filled[name] = given
            report.append(TensorReport(name, "kept", have, shape))
        else:
            tensor, note = _fitted(name, given, wanted, network, embedding, token_grid)
            if tensor is not None:
                filled[name] = tensor
            action: Action = "re-made" if tensor is None else "resampled" if note else "kept"
            report.append(TensorReport(name, action, have, shape, note))
    for name in found:
        if name not in state:
            report.append(
                TensorReport(name, "unused", tuple(found[name].shape), None, "the network has no such tensor")
            )
    if not filled:
        raise CheckpointError(
            "has no tensor in common with this network",
            remedy="give weights of the same network, or of a ViT for UNETR",
        )
    network.load_state_dict(
        {name: filled[first].to(state[name].dtype) if first in filled else state[name] for name, first in names.items()}
    )
    return report


def _fitted(
    name: str,
    given: Tensor,
    wanted: Tensor,
    network: nn.Module,
    embedding: Embedding,
    token_grid: IntTriple | None,
) -> tuple[Tensor | None, str]:
    """Return a tensor resampled to another shape, and a note on the method; None if it must be re-made."""
    have, shape = tuple(given.shape), tuple(wanted.shape)
    if len(have) != len(shape):
        raise CheckpointError(
            f"{name} has {len(have)} axes, this network's has {len(shape)}",
            found=have,
            expected=shape,
            remedy="give weights of a 3D network",
        )
    if name == _POSITION and have[2] == shape[2]:
        if token_grid is None and have == shape:
            return given, ""
        # MONAI's UNETR calls its grid feat_size.
        new = getattr(network, "token_grid", None) or getattr(network, "feat_size", None) or _cube(shape[1])
        old = token_grid or (new if have == shape else _cube(have[1]))
        if old is None or new is None or int(np.prod(old)) != have[1]:
            return None, f"{have[1]} tokens on an unknown grid"
        if old == new:
            return given, ""
        return resample_positions(given, old, new), f"interpolated from {old} to {new} tokens"
    if name == _PATCH and have[:2] == shape[:2]:
        tensor, error = resample_embedding(given, (shape[2], shape[3], shape[4]), embedding)
        return tensor, f"{embedding} from patch size {have[2:]}; relative error after resampling back {error:.1e}"
    if name.startswith(_TOKENIZER):
        return None, "a stage of the tokenizer of another patch size"
    up_sampling = "transp_conv" in name or (".blocks." in name and name.endswith(".0.conv.weight"))
    if up_sampling and len(have) == len(shape) == 5 and have[:2] == shape[:2]:
        return resample_kernel(given, shape[2:]), f"stride {have[2:]} to {shape[2:]}"
    if name.startswith(("out.", "supervision.")) and have[1:] == shape[1:]:
        return None, f"{have[0] - 1} classes in the source, {shape[0] - 1} here"
    # In a transposed convolution, e.g. in MedNeXt's heads, the outputs are the second axis.
    if not hasattr(network, "token_grid") and (have[1:] == shape[1:] or (have[0], have[2:]) == (shape[0], shape[2:])):
        return None, f"shape {have} in the source, {shape} here: different outputs"
    raise CheckpointError(
        f"{name} has shape {have}, this network's has {shape}",
        found=have,
        expected=shape,
        remedy="train with the source's model.preset (or hidden_size, mlp_dim, num_heads, feature_size)",
    )


def _cube(tokens: int) -> IntTriple | None:
    edge = round(tokens ** (1 / 3))
    return (edge, edge, edge) if edge**3 == tokens else None
