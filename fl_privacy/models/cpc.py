"""CPC, modified (Rivière et al. 2020, arXiv 2002.02848; van den Oord et al. 2018, arXiv 1807.03748).

Convolutions turn a wave into frames z, an LSTM turns those into contexts c, and predictors guess the next twelve z from
each c. Contexts are the features.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.errors import UserError

STEPS = 12
"""How many frames ahead are predicted."""

CONVOLUTIONS = ((10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1))
"""Kernel, stride and padding of each."""

CONTEXTS = 116
"""Contexts that a transformer predictor sees at a time: those of the published crops, 128 frames less 12."""


@dataclass(frozen=True, slots=True)
class CPCSize:
    """How large a CPC is.

    Attributes
    ----------
    channels : int
        Of every frame and context.
    predictors : {"linear", "transformer"}
        Matrices, or transformer layers of 8 heads.
    feed_forward : int
        Of a transformer predictor.

    Raises
    ------
    UserError
        For numbers that are impossible.
    """

    channels: int
    predictors: Literal["linear", "transformer"] = "linear"
    feed_forward: int = 2048

    def __post_init__(self) -> None:
        if self.predictors not in ("linear", "transformer"):
            raise UserError(f"CPC: predictors is {self.predictors!r}. Known: linear, transformer")
        if self.channels < 2 or self.feed_forward < 1:
            raise UserError(
                f"CPC: channels must be at least 2 and feed_forward positive; got {self.channels}, {self.feed_forward}"
            )
        if self.predictors == "transformer" and self.channels % 8:
            raise UserError(f"CPC: transformer predictors have 8 heads, which do not divide {self.channels} channels")


PUBLISHED = CPCSize(256, "transformer")
"""As published: 1.8 million parameters, and 15.8 million in the predictors."""

SMALL = CPCSize(64)
"""0.17 million parameters: trains on one core."""


class CPC(nn.Module):
    """Five convolutions, an LSTM, and predictors of the next frames.

    Parameters
    ----------
    size : CPCSize
        Initial weights come from torch's global generator.
    """

    kind = "cpc"
    heads = ("predictors.",)
    """What its arrays are called that pre-training needs and frames do not."""
    depth = 2
    hop = math.prod(stride for _, stride, _ in CONVOLUTIONS)

    def __init__(self, size: CPCSize = PUBLISHED) -> None:
        super().__init__()
        self.size = size
        self.record: dict[str, Any] = {}
        inputs = [1, *[size.channels] * (len(CONVOLUTIONS) - 1)]
        self.encoder = nn.Sequential()
        for wide, (kernel, stride, padding) in zip(inputs, CONVOLUTIONS, strict=True):
            # In two dimensions, one of them 1: for these, torch can keep the channels of a moment side by side.
            convolution = nn.Conv2d(wide, size.channels, (1, kernel), (1, stride), (0, padding))
            self.encoder.extend([convolution, ChannelNorm(size.channels), nn.ReLU()])
        self.recurrent = nn.LSTM(size.channels, size.channels, batch_first=True)
        self.predictors: nn.Module
        if size.predictors == "linear":
            self.predictors = nn.Linear(size.channels, STEPS * size.channels, bias=False)
        else:
            self.predictors = nn.ModuleList([Predictor(size.channels, size.feed_forward) for _ in range(STEPS)])

    @property
    def dim(self) -> int:
        """Width of a context."""
        return self.size.channels

    @property
    def shortest(self) -> int:
        """Samples that one frame sees."""
        field = 1
        for kernel, stride, _ in reversed(CONVOLUTIONS):
            field = (field - 1) * stride + kernel
        return field

    @property
    def sizes(self) -> dict[str, Any]:
        """The size as plain numbers, for files."""
        return asdict(self.size)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is predicted and what was there.

        Parameters
        ----------
        waves : Tensor, (n, samples)
            Of more than 12 frames.

        Returns
        -------
        predictions : Tensor, (n, frames - 12, 12, channels)
            Of the 12 frames behind each.
        frames : Tensor, (n, frames, channels)
        """
        frames, contexts = self.encode(waves)
        contexts = contexts[:, :-STEPS]
        if isinstance(self.predictors, nn.ModuleList):
            blocks = torch.split(contexts, CONTEXTS, dim=1)
            guessed = [torch.stack([one(block) for one in self.predictors], dim=2) for block in blocks]
            return torch.cat(guessed, dim=1), frames
        return torch.unflatten(self.predictors(contexts), 2, (STEPS, -1)), frames

    def encode(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames z and contexts c, (n, frames, channels) each, of waves (n, samples)."""
        frames = self.encoder(waves[:, None, None])[:, :, 0].transpose(1, 2)
        contexts, _ = self.recurrent(frames)
        return frames, contexts

    def read(self, wave: Tensor, count: int) -> list[Tensor]:
        """Return frames z, and contexts c where `count` is 2, of one wave (samples,): each (frames, channels)."""
        return [layer[0] for layer in self.encode(wave[None])[:count]]


class ChannelNorm(nn.Module):
    """Bring the channels of each moment to mean 0 and (unbiased) variance 1; then a scale and a shift for each channel.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the same shape (n, channels, 1, moments)."""
        channels = x.shape[1]
        # torch's layer normalisation divides by the biased variance: (c - 1) / c of the unbiased one.
        biased = (channels - 1) / channels
        moments = x.permute(0, 2, 3, 1).contiguous()
        scale = self.weight * math.sqrt(biased)
        return functional.layer_norm(moments, (channels,), scale, self.bias, 1e-5 * biased).permute(0, 3, 1, 2)


class Predictor(nn.Module):
    """A transformer layer that looks back from each context, with learnt relative positions.

    Parameters
    ----------
    width : int
        A multiple of 8.
    feed_forward : int
    """

    heads = 8

    def __init__(self, width: int, feed_forward: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.distance = Distances(width // self.heads)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return guesses (n, contexts, width) from contexts (n, contexts, width), at most 116 of them."""
        query, key, value = (
            torch.unflatten(layer(x), 2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = (query @ key.mT + self.distance(query)) / math.sqrt(query.shape[-1])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weights = self.dropout(torch.softmax(scores.masked_fill(later, -math.inf), dim=-1))
        x = self.attention_norm(x + self.out((weights @ value).transpose(1, 2).flatten(2)))
        guessed: Tensor = self.norm(x + self.narrow(self.dropout(functional.relu(self.wide(x)))))
        return guessed


class Distances(nn.Module):
    """What a query makes of how far back a context is (Shaw et al. 2018, arXiv 1803.02155).

    Parameters
    ----------
    width : int
        Of a head.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, CONTEXTS).uniform_(-1, 1) / math.sqrt(width))

    def forward(self, query: Tensor) -> Tensor:
        """Return scores (n, heads, t, t) of queries (n, heads, t, width); those of later contexts mean nothing."""
        t = query.shape[2]
        by_distance = query @ self.weight[:, :t]
        moments = torch.arange(t, device=query.device)
        back = (moments[:, None] - moments).clamp_min(0)
        return by_distance.gather(3, back.expand(*query.shape[:2], t, t))
