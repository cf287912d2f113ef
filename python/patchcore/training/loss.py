"""Computes the training loss, soft Dice plus cross-entropy, and the DSC of training windows.

Shape legend: B samples, C classes (channel 0 is background), … the window's axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import LossConfig
from patchcore.errors import DataError, ShapeMismatchError

__all__ = ["DiceCrossEntropyLoss", "make_loss", "outputs_of", "supervised_loss", "window_dsc", "window_voxels"]


def _check(logits: Tensor, target: Tensor) -> None:
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim < 3 or logits.shape[1] < 2 or tuple(target.shape) != expected:
        raise ShapeMismatchError(
            f"logits of shape {tuple(logits.shape)} need at least two channels "
            f"and a target of shape {expected}, not {tuple(target.shape)}",
            found=tuple(target.shape),
            expected=expected,
        )


class DiceCrossEntropyLoss(nn.Module):
    """Per sample: soft Dice over the foreground channels plus cross-entropy over all classes; then the mean.

    For sample b with probabilities p and one-hot target y, Σ sums over voxels and mean_c averages over the C − 1
    foreground channels::

        dice_b = 1 − mean_c (2·Σ p_c·y_c + ε) / (Σ p_c + Σ y_c + ε)
        cross_entropy_b = −mean_voxels log p_y

    Without `batch_dice` no term mixes samples, so the mean of the losses over ranks is the loss of the global batch. A
    channel without a voxel in the target is still trained: every probability in it increases the loss.

    Equal to MONAI's ``DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=ε,
    smooth_dr=ε)``, with three differences: this loss always computes in float32, takes the target without a channel
    axis, and is deterministic on CUDA (PyTorch's spatial cross-entropy is not).

    Source: soft Dice from Milletari et al., "V-Net", 3DV 2016 (arXiv 1606.04797), here with the sum of the
        probabilities instead of their squares; combined as in UNETR, arXiv 2103.10504, equation 6.

    Args:
        epsilon: Added to numerator and denominator of Dice.
        batch_dice: Compute the sums of Dice over all samples of the batch instead of per sample.
        regions: Class indices that form one region. Dice is computed on the summed probabilities of each region;
            cross-entropy is still computed on the classes. Default: each foreground class is one region.
        ignored: Class index of voxels that count in no sum: the network has no channel for it. Default: none.
        across: With `batch_dice`, a differentiable sum over ranks, so that Dice covers the samples of all ranks.
            Default: only the samples of this rank.

    Example:
        >>> background = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
        >>> loss = DiceCrossEntropyLoss()(torch.zeros(1, 2, 4, 4, 4), background)
        >>> round(float(loss), 4)
        1.6931
    """

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        batch_dice: bool = False,
        regions: Sequence[Sequence[int]] | None = None,
        ignored: int | None = None,
        across: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.batch_dice = batch_dice
        self.regions = None if regions is None else tuple(tuple(members) for members in regions)
        self.ignored = ignored
        self._across = across

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C, …) any floating dtype.
            target: (B, …) class indices, any integer dtype.

        Returns:
            Scalar, float32.

        Raises:
            ShapeMismatchError: The shapes do not match, or there are fewer than two channels.
            DataError: A class index has no channel. Checked on the CPU only: on a GPU the check would have to wait for
                the device.
        """
        _check(logits, target)
        channels = logits.shape[1]
        most = channels - 1 if self.ignored is None else max(channels - 1, self.ignored)
        if target.device.type == "cpu" and int(target.max()) > most:
            raise DataError(
                f"target holds class {int(target.max())}, but the network has {channels} output channels",
                found=int(target.max()),
                expected=f"0 to {channels - 1}",
                remedy="give the network one channel for each class of the plan and one for background",
            )
        # Sums over a window need more precision than bfloat16's 8 significant bits: autocast is turned off.
        with torch.autocast(logits.device.type, enabled=False):
            log_p = F.log_softmax(logits.float(), dim=1).flatten(2)
            labels = target.flatten(1)
            # Voxels that are ignored have no class: they are in no sum, and not in the number of voxels.
            counted = None if self.ignored is None else (labels != self.ignored).to(log_p.dtype)
            voxels = labels.shape[1] if counted is None else counted.sum(1).clamp(min=1)
            cross_entropy = log_p.new_zeros(logits.shape[0])
            dice = log_p.new_zeros(1 if self.batch_dice else logits.shape[0])
            regions = self.regions or tuple((channel,) for channel in range(1, channels))
            for channel in range(channels):
                y = (labels == channel).to(log_p.dtype)
                cross_entropy = cross_entropy - (log_p[:, channel] * y).sum(1) / voxels
                if (channel,) in regions:
                    dice = dice + self._dice(log_p[:, channel].exp(), y, counted)
            for members in regions:
                if len(members) > 1:
                    p = log_p[:, list(members)].exp().sum(1)
                    y = torch.stack([labels == channel for channel in members]).any(0).to(log_p.dtype)
                    dice = dice + self._dice(p, y, counted)
            loss: Tensor = (dice / len(regions)).mean() + cross_entropy.mean()
        return loss

    def _dice(self, p: Tensor, y: Tensor, counted: Tensor | None) -> Tensor:
        p = p if counted is None else p * counted
        both, either = (p * y).sum(1), p.sum(1) + y.sum(1)
        if self.batch_dice:
            both, either = self._over_samples(both, either)
        return 1 - (2 * both + self.epsilon) / (either + self.epsilon)

    def _over_samples(self, both: Tensor, either: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack((both.sum(), either.sum()))
        if self._across is not None:
            sums = self._across(sums)
        return sums[:1], sums[1:]


def make_loss(
    config: LossConfig, target: TargetPlan, *, across: Callable[[Tensor], Tensor] | None = None
) -> DiceCrossEntropyLoss:
    """Return the configured loss for a plan's target; `across` as in :class:`DiceCrossEntropyLoss`."""
    regions = target.region_indices
    members = None if regions is None else list(regions.values())
    return DiceCrossEntropyLoss(
        batch_dice=config.batch_dice, regions=members, ignored=target.ignored_index, across=across
    )


def outputs_of(logits: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a network as a list, full resolution first.

    Args:
        logits: (B, C, X, Y, Z); a sequence of such tensors at decreasing resolution; or (B, outputs, C, X, Y, Z).
    """
    if isinstance(logits, Tensor):
        return list(logits.unbind(1)) if logits.ndim == 6 else [logits]
    return list(logits)


def supervised_loss(loss: Callable[[Tensor, Tensor], Tensor], outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the loss over outputs at several resolutions. Each output has half the weight of the previous one.

    The target is resampled to each resolution by nearest neighbour. The weights sum to 1.

    Args:
        loss: Computes the loss from logits (B, C, …) and target (B, …).
        outputs: As returned by :func:`outputs_of`.
        target: (B, X, Y, Z) class indices.

    Source:
        Isensee et al., "nnU-Net", Nature Methods 18 (2021): deep supervision with weights 1, 1/2, 1/4, …
    """
    if len(outputs) == 1:
        return loss(outputs[0], target)
    weights = [0.5**number for number in range(len(outputs))]
    terms = [
        weight / sum(weights) * loss(logits, _nearest(target, logits.shape[2:]))
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(terms).sum()


def _nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Take the middle one of the voxels that each coarse voxel covers; the upper one of two."""
    for axis, (new, old) in enumerate(zip(size, target.shape[1:], strict=True), 1):
        if new != old:
            index = ((2 * torch.arange(new, device=target.device) + 1) * old) // (2 * new)
            target = target.index_select(axis, index)
    return target


@torch.no_grad()
def window_voxels(logits: Tensor, target: Tensor, ignored: int | None = None) -> Tensor:
    """Return the inputs of :func:`window_dsc`: voxels of the intersection, and voxels of prediction plus label.

    Args:
        logits: (B, C, …) any floating dtype.
        target: (B, …) class indices.
        ignored: Class index of voxels that do not count.

    Returns:
        float64 (2,), on the device of the logits. Values of several windows, parts and ranks can be added.

    Raises:
        ShapeMismatchError: The shapes do not match.
    """
    _check(logits, target)
    prediction = logits.argmax(1)
    if ignored is not None:
        counted = target != ignored
        prediction, target = prediction * counted, target * counted
    foreground = target > 0
    intersection = ((prediction == target) & foreground).sum()
    return torch.stack((intersection, (prediction > 0).sum() + foreground.sum())).double()


def window_dsc(both: float, either: float) -> float:
    """Return the DSC of the most likely classes over all windows, with all foreground classes counted together.

    This value shows the progress of training only. It is not the validation DSC: many windows are drawn around lesions.

    Args:
        both: Voxels of the intersection, from :func:`window_voxels`.
        either: Voxels of the prediction plus voxels of the label.

    Returns:
        DSC in [0, 1]; NaN if no foreground is predicted or labelled.
    """
    return 2 * both / either if either else math.nan
