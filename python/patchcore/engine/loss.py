"""The training loss, soft Dice plus cross-entropy, and the DSC of training windows.

Shape legend: B samples, C classes (channel 0 is background), … the window's axes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from patchcore.errors import DataError, ShapeMismatchError

__all__ = ["DiceCrossEntropyLoss", "window_dsc"]


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

    For sample b with probabilities p and one-hot target y, sums running over voxels and C − 1 foreground
    channels::

        dice_b = 1 − mean_c (2·Σ p_c·y_c + ε) / (Σ p_c + Σ y_c + ε)        cross_entropy_b = −mean_voxels log
        p_y

    No term mixes samples, so the mean over ranks of their losses is the loss of the global batch. A channel
    without a voxel in the target is still trained: every probability there costs.

    Equal to MONAI's ``DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=ε,
    smooth_dr=ε)``, except that it always computes in float32, takes the target without a channel axis, and is
    deterministic on CUDA, where PyTorch's spatial cross-entropy is not.

    Source: soft Dice, Milletari et al., "V-Net", 3DV 2016 (arXiv 1606.04797), here with the sum of
        probabilities
    instead of their squares; the combination as in UNETR, arXiv 2103.10504, equation 6.

    Args:
        epsilon: Added to numerator and denominator of Dice.

    Example:
        >>> background = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
        >>> loss = DiceCrossEntropyLoss()(torch.zeros(1, 2, 4, 4, 4), background)
        >>> round(float(loss), 4)
        1.6931
    """

    def __init__(self, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C, …) any floating dtype.
            target: (B, …) class indexes, any integer dtype.

        Returns:
            Scalar, float32.

        Raises:
            ShapeMismatchError: The shapes do not belong together, or there are fewer than two channels.
            DataError: A class index has no channel. Looked for on the CPU only: a GPU would have to be waited
                for.
        """
        _check(logits, target)
        channels = logits.shape[1]
        if target.device.type == "cpu" and int(target.max()) >= channels:
            raise DataError(
                f"target holds class {int(target.max())}, but the network has {channels} output channels",
                found=int(target.max()),
                expected=f"0 to {channels - 1}",
                remedy="give the network one channel for each class of the plan and one for background",
            )
        # Sums over a window need more than the 8 bits of bfloat16's mantissa: autocast is kept out.
        with torch.autocast(logits.device.type, enabled=False):
            log_p = F.log_softmax(logits.float(), dim=1).flatten(2)
            labels = target.flatten(1)
            voxels = labels.shape[1]
            cross_entropy = log_p.new_zeros(logits.shape[0])
            dice = log_p.new_zeros(logits.shape[0])
            for channel in range(channels):
                y = (labels == channel).to(log_p.dtype)
                cross_entropy = cross_entropy - (log_p[:, channel] * y).sum(1) / voxels
                if channel:
                    p = log_p[:, channel].exp()
                    overlap = 2 * (p * y).sum(1) + self.epsilon
                    dice = dice + 1 - overlap / (p.sum(1) + y.sum(1) + self.epsilon)
            loss: Tensor = (dice / (channels - 1) + cross_entropy).mean()
        return loss


@torch.no_grad()
def window_dsc(logits: Tensor, target: Tensor) -> float:
    """Return the DSC of the most likely classes over all windows of a batch, foreground classes as one.

    A glance at how training goes, kept apart from validation DSC: its windows are drawn around lesions.

    Args:
        logits: (B, C, …) any floating dtype.
        target: (B, …) class indexes.

    Returns:
        DSC in [0, 1]; NaN where no foreground is predicted or labelled.

    Raises:
        ShapeMismatchError: The shapes do not belong together.
    """
    _check(logits, target)
    prediction = logits.argmax(1)
    foreground = target > 0
    intersection = ((prediction == target) & foreground).sum()
    total = (prediction > 0).sum() + foreground.sum()
    counts = torch.stack((intersection, total)).tolist()
    return 2 * counts[0] / counts[1] if counts[1] else math.nan
