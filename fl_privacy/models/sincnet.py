"""SincNet: a speaker classifier that listens to the wave itself (Ravanelli and Bengio 2018, SLT, arXiv 1808.00158).

The published network, and two narrower ones that train in seconds and in minutes on one core.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models import _frozen

LEAST_HZ = 50.0
"""Lowest lower edge, and least width, of a band."""

_SLOPE = 0.2  # of the leaky rectifiers
_CACHED = 2**21
"""Numbers of the first layer that are at work together where nothing is trained: more would leave the cache."""


@dataclass(frozen=True, slots=True)
class SincNetSize:
    """How large a SincNet is.

    Attributes
    ----------
    window : int
        Samples that it listens to.
    sinc_filters, sinc_length, sinc_stride : int
        Band-passes of the first layer, the odd number of samples of each, and the step between its outputs.
    convolutions : tuple of (int, int)
        Filters and length of each further convolution.
    pool : int
        Neighbours of which the largest stays, behind each convolution.
    dense : tuple of int
        Units of the hidden layers; the last are the d-vector.
    normalisation : {"batch", "group"}
        Of the hidden layers: batch normalisation as published, or group normalisation, under which examples do not meet
        (differential privacy needs that).
    norm_over : {"time", "all"}
        What the convolutions' outputs are normalised over: the frames of each filter, as published, or all filters and
        frames together. The first takes away how loud a filter is beside the others, so that a network learns slowly.
    dropout : float
        Share of the hidden units that are dropped in training; none as published.
    sample_rate : int
        In Hz.

    Raises
    ------
    UserError
        For sizes that are impossible: not positive, an even `sinc_length`, or a window too short for the layers.
    """

    window: int = 3200
    sinc_filters: int = 80
    sinc_length: int = 251
    sinc_stride: int = 1
    convolutions: tuple[tuple[int, int], ...] = ((60, 5), (60, 5))
    pool: int = 3
    dense: tuple[int, ...] = (2048, 2048, 2048)
    normalisation: Literal["batch", "group"] = "batch"
    norm_over: Literal["time", "all"] = "time"
    dropout: float = 0.0
    sample_rate: int = 16_000

    def __post_init__(self) -> None:
        numbers = [self.window, self.sinc_filters, self.sinc_length, self.sinc_stride, self.pool, self.sample_rate]
        if min([*numbers, *self.dense, *(n for pair in self.convolutions for n in pair)]) < 1 or not self.dense:
            raise UserError(f"SincNet: sizes must be positive, with one hidden layer at least: {self}")
        if self.sinc_length % 2 == 0:
            raise UserError(f"SincNet: sinc_length must be odd, not {self.sinc_length}")
        if self.normalisation not in ("batch", "group"):
            raise UserError(f"SincNet: normalisation is {self.normalisation!r}. Known: batch, group")
        if self.norm_over not in ("time", "all"):
            raise UserError(f"SincNet: norm_over is {self.norm_over!r}. Known: time, all")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"SincNet: dropout is {self.dropout}: it must be at least 0 and below 1")
        if self.frames[-1] < 2:
            raise UserError(f"SincNet: a window of {self.window} samples is too short: it leaves {self.frames} frames")

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames behind each convolution and its pooling."""
        found = [((self.window - self.sinc_length) // self.sinc_stride + 1) // self.pool]
        for _, length in self.convolutions:
            found.append((found[-1] - length + 1) // self.pool)
        return tuple(found)

    @property
    def channels(self) -> tuple[int, ...]:
        """Filters of each convolution."""
        return (self.sinc_filters, *(filters for filters, _ in self.convolutions))

    @property
    def dimension(self) -> int:
        """Length of a d-vector."""
        return self.dense[-1]


PUBLISHED = SincNetSize()
"""As published: 200 ms at 16 kHz, 22.77 million parameters for 462 speakers."""

MIDDLE = SincNetSize(
    sinc_filters=40,
    sinc_stride=4,
    convolutions=((32, 5), (32, 5)),
    dense=(256, 256, 256),
    norm_over="all",
)
"""Trains on some tens of speakers in minutes on one core."""

SMALL = SincNetSize(
    sinc_filters=20,
    sinc_length=101,
    sinc_stride=4,
    convolutions=((16, 5), (16, 5)),
    dense=(64, 64, 64),
    norm_over="all",
)
"""Trains on a few speakers in seconds: for tests and trials."""

SIZES = {"published": PUBLISHED, "middle": MIDDLE, "small": SMALL}


class AxisNorm(nn.Module):
    """Normalisation over the last axis alone, as SincNet's code has it: ``gamma (x - mean) / (std + 1e-6) + beta``.

    The standard deviation is the unbiased one and epsilon is added to it, not to the variance; gamma and beta have the
    full shape.

    Parameters
    ----------
    *shape : int
        Of an example.
    over : {"time", "all"}
        The last axis, or all axes of an example.
    """

    def __init__(self, *shape: int, over: str = "time") -> None:
        super().__init__()
        self._whole = over == "all"
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, ..., last)."""
        if self._whole:
            return self._normalised(x.flatten(1), self.gamma.flatten(), self.beta.flatten()).view_as(x)
        return self._normalised(x, self.gamma, self.beta)

    def _normalised(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        if not self.gamma.requires_grad:
            return _frozen.normalised(x, gamma, beta)
        centred = x - x.mean(dim=-1, keepdim=True)
        std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1] - 1)
        return torch.addcmul(beta, gamma, centred / (std + _frozen.EPSILON))


class SincConv(nn.Module):
    """Convolution with band-passes whose two edges are all that is learnt.

    Parameters
    ----------
    filters, length, stride : int
    sample_rate : int
        In Hz.

    Notes
    -----
    A filter's lower edge is ``50 + |low|`` Hz and its width ``50 + |band|`` Hz, cut at half the sampling rate; its
    middle is 1. The edges begin equally spaced on the mel scale.
    """

    def __init__(self, filters: int, length: int, stride: int, sample_rate: int) -> None:
        super().__init__()
        self.length, self.stride, self.sample_rate = length, stride, sample_rate
        self._kept: tuple[Any, Tensor] | None = None
        mel = np.linspace(_mel(30.0), _mel(sample_rate / 2 - 2 * LEAST_HZ), filters + 1)
        edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
        self.low = nn.Parameter(torch.from_numpy(edges[:-1, None]).float())
        self.band = nn.Parameter(torch.from_numpy(np.diff(edges)[:, None]).float())

    def filters(self) -> Tensor:
        """Return the impulse responses (filters, length)."""
        lower = LEAST_HZ + self.low.abs()
        upper = torch.clamp(lower + LEAST_HZ + self.band.abs(), LEAST_HZ, self.sample_rate / 2)
        # No buffers: layers that have some are refused by differentially private training.
        half = self.length // 2
        like: dict[str, Any] = {"device": self.low.device, "dtype": self.low.dtype}
        past = torch.arange(-half, 0, **like) / self.sample_rate
        # The published code spaces its half window by a little more than one sample.
        places = torch.linspace(0, self.length / 2 - 1, half, **like)
        window = 0.54 - 0.46 * torch.cos(2 * math.pi * places / self.length)
        waves = torch.sin(2 * math.pi * upper * past) - torch.sin(2 * math.pi * lower * past)
        middle = 2 * (upper - lower)
        left = waves / (math.pi * past) * window / middle
        return torch.cat([left, torch.ones_like(middle), left.flip(1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Filter (n, samples); return (n, filters, frames)."""
        if self.stride > 1:
            return _strided(x, self.filters(), self.stride)
        # The valid part does not see the circle's seam, so that no padding is needed.
        samples, half = x.shape[1], self.length // 2
        if not self.low.requires_grad:
            return _frozen.filtered(x, self._frozen_gains(samples), half)
        found: Tensor = torch.fft.irfft(torch.fft.rfft(x)[:, None] * self._gains(samples), samples)
        return found[..., half : samples - half]

    def _gains(self, samples: int) -> Tensor:
        """Return the gains (filters, samples // 2 + 1) at all frequencies; real, since filters are symmetric."""
        centred = functional.pad(self.filters(), (0, samples - self.length)).roll(-(self.length // 2), dims=1)
        gains: Tensor = torch.fft.rfft(centred).real
        return gains

    def _frozen_gains(self, samples: int) -> Tensor:
        """Return the gains, kept from one call to the next."""
        key = (samples, self.low.device, self.low.dtype, self.low._version, self.band._version)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._gains(samples)
        return self._kept[1]


class SincNet(nn.Module):
    """The network: windows of a wave in, scores of speakers out, the d-vector on the way.

    Parameters
    ----------
    size : SincNetSize
    classes : int
        Speakers.

    Notes
    -----
    Initial weights come from torch's global generator.
    """

    def __init__(self, size: SincNetSize, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UserError(f"SincNet: a classifier needs two speakers at least, not {classes}")
        self.size, self.classes = size, classes
        self.norm_in = AxisNorm(size.window)
        self.sinc = SincConv(size.sinc_filters, size.sinc_length, size.sinc_stride, size.sample_rate)
        lengths = (length for _, length in size.convolutions)
        pairs = zip(size.channels, size.channels[1:], lengths, strict=False)
        self.convolutions = nn.ModuleList([nn.Conv1d(*pair) for pair in pairs])
        self.norms = nn.ModuleList(
            [AxisNorm(*shape, over=size.norm_over) for shape in zip(size.channels, size.frames, strict=True)]
        )
        flat = size.channels[-1] * size.frames[-1]
        self.norm_dense = AxisNorm(flat)
        widths = (flat, *size.dense)
        self.dense = nn.ModuleList([_linear(*pair) for pair in itertools.pairwise(widths)])
        self.dense_norms = nn.ModuleList([_hidden_norm(size.normalisation, width) for width in size.dense])
        self.last = _linear(size.dimension, classes)

    def dvector(self, frames: Tensor) -> Tensor:
        """Return the last hidden layer (n, dimension) of windows (n, window)."""
        parts = torch.split(frames, self._at_once) if self._is_frozen and frames.device.type == "cpu" else (frames,)
        x: Tensor = self.norm_dense(torch.cat([self._convolved(part) for part in parts]))
        for dense, norm in zip(self.dense, self.dense_norms, strict=True):
            x = functional.leaky_relu(norm(dense(x)), _SLOPE)
            if self.size.dropout:
                x = functional.dropout(x, self.size.dropout, self.training)
        return x

    def _convolved(self, frames: Tensor) -> Tensor:
        """Return what the convolutions make of windows (n, window), one row each."""
        x = functional.leaky_relu(self.norms[0](self._pooled(self.sinc(self.norm_in(frames)), folded=True)), _SLOPE)
        for convolve, norm in zip(self.convolutions, list(self.norms)[1:], strict=True):
            x = functional.leaky_relu(norm(self._pooled(convolve(x))), _SLOPE)
        found: Tensor = x.flatten(1)
        return found

    def _pooled(self, x: Tensor, folded: bool = False) -> Tensor:
        if self._is_frozen:
            return _frozen.peaks(x, self.size.pool, folded=folded)
        largest: Tensor = functional.max_pool1d(x.abs() if folded else x, self.size.pool)
        return largest

    @property
    def _is_frozen(self) -> bool:
        return not self.norm_in.gamma.requires_grad

    @property
    def _at_once(self) -> int:
        """Windows that convolutions hear together: 8 of the published network's."""
        size = self.size
        return max(1, _CACHED * size.sinc_stride // (size.sinc_filters * size.window))

    def classify(self, dvectors: Tensor) -> Tensor:
        """Return the scores (n, classes), before the softmax, of d-vectors (n, dimension)."""
        scores: Tensor = self.last(dvectors)
        return scores

    def logits(self, frames: Tensor) -> Tensor:
        """Return the scores (n, classes), before the softmax, of windows (n, window)."""
        return self.classify(self.dvector(frames))

    def forward(self, frames: Tensor) -> Tensor:
        """The same as `logits`."""
        return self.logits(frames)


def _strided(x: Tensor, filters: Tensor, stride: int) -> Tensor:
    """Correlate (n, samples) with filters (k, length) at every `stride`-th sample.

    Samples that are `stride` apart become the time of one of `stride` channels: convolutions of one channel are slow,
    most of all their gradients.
    """
    count, length = filters.shape
    frames, taps = (x.shape[1] - length) // stride + 1, -(-length // stride)
    needed = (frames + taps - 1) * stride
    x = functional.pad(x, (0, max(0, needed - x.shape[1])))[:, :needed]
    phases = functional.pad(filters, (0, taps * stride - length)).view(count, taps, stride).transpose(1, 2)
    return functional.conv1d(x.reshape(len(x), -1, stride).transpose(1, 2).contiguous(), phases.contiguous())


def _mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    bound = math.sqrt(0.01 / (inputs + outputs))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


def _hidden_norm(normalisation: str, width: int) -> nn.Module:
    if normalisation == "batch":
        return nn.BatchNorm1d(width, momentum=0.05)
    # As many groups as fit, 32 at most: what Opacus puts in the place of batch normalisation.
    return nn.GroupNorm(math.gcd(32, width), width)
