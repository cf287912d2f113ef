"""Self-attention with PyTorch's scaled-dot-product kernels and the parameter names of MONAI's block."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Multi-head self-attention. Memory is linear in the tokens, not quadratic; results are equal up to rounding.

    MONAI's ``SABlock(use_flash_attention=True)`` is not used: it applies attention dropout in evaluation, too.

    Args:
        qkv: Linear layer from h to 3h, in the order queries, keys, values.
        out_proj: Linear layer from h to h.
        num_heads: Number of heads; must divide h.
        dropout: Dropout rate of attention weights and outputs in training.
    """

    def __init__(self, qkv: nn.Linear, out_proj: nn.Linear, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.out_proj = out_proj
        self.qkv = qkv
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Apply self-attention to tokens.

        Args:
            x: (B, T, h) tokens.
            attn_mask: Mask as in ``F.scaled_dot_product_attention``.

        Returns:
            (B, T, h).
        """
        b, t, h = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, h // self.num_heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        x = self.out_proj(x.transpose(1, 2).reshape(b, t, h))
        return F.dropout(x, self.dropout, self.training)
