"""TERA (Liu, Li, Lee 2021, arXiv 2007.06028): a transformer that reconstructs log-mel frames that were altered."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models.log_mel import HOP, MELS, WINDOW, normalised_log_mel


@dataclass(frozen=True, slots=True)
class TERASize:
    """How large a TERA is.

    Attributes
    ----------
    width : int
        Of every frame inside.
    layers : int
        Of the transformer.
    heads : int
        Of an attention; they divide `width`.
    feed_forward : int
        Width between the two linear layers of a transformer layer.
    dropout : float
        In training, of attention weights and of what each part of a layer adds.

    Raises
    ------
    UserError
        For numbers that are impossible.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise UserError(f"TERA: {name} must be positive, not {getattr(self, name)}")
        if self.width % self.heads or self.width % 2:
            raise UserError(f"TERA: width must be even and a multiple of heads; got {self.width} and {self.heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"TERA: dropout must be from 0 to below 1, not {self.dropout}")


PUBLISHED = TERASize(768, 3, 12, 3072)
"""The size of the published checkpoints: 22 million parameters."""

SMALL = TERASize(128, 3, 4, 512, dropout=0.0)
"""0.6 million parameters, no dropout: trains on one core, half as long again with dropout."""


class TERA(nn.Module):
    """Three transformer layers over log-mel frames, and a head that predicts the frames themselves.

    Parameters
    ----------
    size : TERASize
        Initial weights come from torch's global generator.
    """

    kind = "tera"
    heads = ("head.",)
    """What its arrays are called that pre-training needs and frames do not."""
    hop, shortest = HOP, WINDOW

    def __init__(self, size: TERASize = PUBLISHED) -> None:
        super().__init__()
        self.size = size
        self.record: dict[str, Any] = {}
        self.project = nn.Linear(MELS, size.width)
        self.norm = nn.LayerNorm(size.width, eps=1e-12)
        self.dropout = nn.Dropout(size.dropout)
        self.layers = nn.ModuleList([TERALayer(size) for _ in range(size.layers)])
        self.head = nn.Sequential(
            nn.Linear(size.width, size.width),
            nn.GELU(),
            nn.LayerNorm(size.width, eps=1e-12),
            nn.Linear(size.width, MELS),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def dim(self) -> int:
        """Width of a frame that it puts out."""
        return self.size.width

    @property
    def depth(self) -> int:
        """Number of layers that can be read."""
        return self.size.layers

    @property
    def sizes(self) -> dict[str, Any]:
        """The size as plain numbers, for files."""
        return asdict(self.size)

    def forward(self, frames: Tensor) -> Tensor:
        """Return reconstructed frames (n, frames, 80) of altered ones (n, frames, 80)."""
        rebuilt: Tensor = self.head(self.hidden(frames)[-1])
        return rebuilt

    def hidden(self, frames: Tensor, count: int | None = None) -> list[Tensor]:
        """Return what the first `count` layers put out, by default all: each (n, frames, width)."""
        x = self.dropout(self.norm(self.project(frames) + _positions(frames.shape[1], self.size.width).to(frames)))
        outputs = []
        for layer in self.layers[:count]:
            x = layer(x)
            outputs.append(x)
        return outputs

    def read(self, wave: Tensor, count: int) -> list[Tensor]:
        """Return what the first `count` layers make of one wave (samples,): each (frames, width)."""
        return [layer[0] for layer in self.hidden(normalised_log_mel(wave[None]), count)]


class TERALayer(nn.Module):
    """Attention and two linear layers, each added to its input and normalised after, as in BERT."""

    def __init__(self, size: TERASize) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)
        self.attention_norm = nn.LayerNorm(size.width, eps=1e-12)
        self.wide = nn.Linear(size.width, size.feed_forward)
        self.narrow = nn.Linear(size.feed_forward, size.width)
        self.norm = nn.LayerNorm(size.width, eps=1e-12)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return frames (n, frames, width)."""
        query, key, value = torch.unflatten(self.attention(x), 2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.dropout.p if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        x = self.attention_norm(x + self.dropout(self.out(seen.transpose(1, 2).flatten(2))))
        changed: Tensor = self.norm(x + self.dropout(self.narrow(functional.gelu(self.wide(x)))))
        return changed


@functools.lru_cache(maxsize=64)
def _positions(frames: int, width: int) -> Tensor:
    """Return sinusoids (frames, width), sines and cosines in turn (Vaswani et al. 2017, arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000) / width))
    angles = torch.arange(frames, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
