"""The improved attacks' networks: frames of any number are pooled by attention.

Tseng, Kao and Lee 2022 (arXiv 2111.05113, sections 3.1 and 3.2). Frames that pad a short utterance get no attention
here. The public code adds its mask, 1 for padding, to the logits instead, so that padding gets e times the attention of
a frame with logit 0, and a score tells how short an utterance is beside the longest one of its batch; `compat` does the
same, for comparison alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """A mean over frames, weighted by the softmax of a linear function of each.

    Parameters
    ----------
    dim : int
        Of a frame.
    compat : bool
        Weigh padding as the public code does.
    """

    def __init__(self, dim: int, *, compat: bool = False) -> None:
        super().__init__()
        self.logit = nn.Linear(dim, 1)
        self.compat = compat

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool (n, m, q) frames, of which `lengths` (n,) are no padding, to (n, q)."""
        logits = self.logit(frames).squeeze(2)
        padding = torch.arange(frames.shape[1])[None] >= lengths[:, None]
        logits = logits + padding.to(logits) if self.compat else logits.masked_fill(padding, -torch.inf)
        return torch.as_tensor((logits.softmax(dim=1)[:, :, None] * frames).sum(dim=1))


class _Pooled(nn.Module):
    """What both networks begin with: standardised frames, pooled, and a linear layer with dropout."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, dropout: float, *, compat: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.pooling = AttentionPooling(dim, compat=compat)
        self.layer = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def standardise(self, frames: Sequence[Tensor]) -> None:
        """Take mean and spread of each dimension from frames of the attacker's own."""
        stacked = torch.cat(list(frames)).double()
        self.mean.copy_(stacked.mean(dim=0))
        self.scale.copy_(stacked.std(dim=0).clamp_min(1e-6))

    def project(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Take padded frames (n, m, q) to vectors (n, q)."""
        inside = (torch.arange(frames.shape[1])[None] < lengths[:, None])[:, :, None]
        standard = (frames - self.mean) / self.scale
        return torch.as_tensor(self.layer(self.pooling(torch.where(inside, standard, 0.0), lengths)))

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        """Take utterances' frames, each (m, q), to vectors (n, q)."""
        return self.project(*padded(frames))


class UtteranceNet(_Pooled):
    """Log-odds that an utterance is a member's."""

    def __init__(self, dim: int, dropout: float = 0.2, *, compat: bool = False) -> None:
        super().__init__(dim, dropout, compat=compat)
        self.head = nn.Linear(dim, 1)

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        """Take utterances' frames, each (m, q), to log-odds (n,)."""
        return torch.as_tensor(self.head(super().forward(frames).relu()).squeeze(1))


class SpeakerNet(_Pooled):
    """Vectors of utterances, whose inner product is the log-odds that the speaker of two utterances is a member."""

    def __init__(self, dim: int, dropout: float = 0.2, *, compat: bool = False) -> None:
        super().__init__(dim, dropout, compat=compat)


def padded(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack utterances' frames, each (m, q), as (n, longest, q) with zeros behind, and their lengths (n,)."""
    lengths = torch.tensor([len(rows) for rows in frames])
    return nn.utils.rnn.pad_sequence(list(frames), batch_first=True), lengths
