"""Attention whose parameters all belong to linear layers, examples first, so that each example's gradient can be had.

Opacus has such a layer too; with ``batch_first=True`` that of version 1.6.0 confuses heads with frames and computes
something else than torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearAttention(nn.Module):
    """What `torch.nn.MultiheadAttention` computes, by four linear layers.

    Parameters
    ----------
    attention : MultiheadAttention
        Whose parameters are copied; see `takes`.
    """

    in_proj_bias = None
    """Tells torch's transformer layers to keep to this module's `forward`."""
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first = attention.num_heads, attention.batch_first
        self.dropout = attention.dropout
        wide, biased = attention.embed_dim, attention.in_proj_bias is not None
        self.query, self.key, self.value, self.out_proj = (nn.Linear(wide, wide, bias=biased) for _ in range(4))
        with torch.no_grad():
            for layer, weight in zip(
                (self.query, self.key, self.value), attention.in_proj_weight.chunk(3), strict=True
            ):
                layer.weight.copy_(weight)
            if attention.in_proj_bias is not None:
                for layer, bias in zip(
                    (self.query, self.key, self.value), attention.in_proj_bias.chunk(3), strict=True
                ):
                    layer.bias.copy_(bias)
            self.out_proj.load_state_dict(attention.out_proj.state_dict())
        for ours, theirs in ((self.query, attention.in_proj_weight), (self.out_proj, attention.out_proj.weight)):
            ours.requires_grad_(theirs.requires_grad)
        self.key.requires_grad_(attention.in_proj_weight.requires_grad)
        self.value.requires_grad_(attention.in_proj_weight.requires_grad)

    @staticmethod
    def takes(attention: nn.MultiheadAttention) -> bool:
        """Whether it is of the common kind: one width for all, and nothing added to the keys."""
        return attention._qkv_same_embed_dim and attention.bias_k is None and not attention.add_zero_attn

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """Return what is attended to, and no weights; masks as in torch, True or -inf for what is not seen."""
        given = (query, key, value) if self.batch_first else (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            torch.unflatten(layer(x), -1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in zip((self.query, self.key, self.value), given, strict=True)
        )
        mask = _added(attn_mask, q.dtype)
        if mask is not None and mask.ndim == 3:
            mask = torch.unflatten(mask, 0, (-1, self.num_heads))
        if (hidden := _added(key_padding_mask, q.dtype)) is not None:
            hidden = hidden[:, None, None, :]
            mask = hidden if mask is None else mask + hidden
        drop = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        out = self.out_proj(seen.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _added(mask: Tensor | None, kind: torch.dtype) -> Tensor | None:
    """Return a mask as what is added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill_(mask, float("-inf"))
