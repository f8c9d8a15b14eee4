"""Layers of a network that is not trained, with the gradient by their input alone, written out.

Automatic differentiation keeps what gradients by weights would need, and looks for the largest of neighbours one by
one; inversion takes thousands of gradients by the input alone, for which these take a third to a half of the time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-6
"""Added to the standard deviation that a normalisation divides by."""


def normalised(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Return ``gamma (x - mean) / (std + EPSILON) + beta`` over the last axis of (..., n)."""
    found: Tensor = _Norm.apply(x, gamma, beta)  # type: ignore[no-untyped-call]
    return found


def filtered(x: Tensor, gains: Tensor, edge: int) -> Tensor:
    """Filter (n, samples) with symmetric filters; return (n, filters, samples - 2 edge), without what wraps around.

    Parameters
    ----------
    x : Tensor, (n, samples)
    gains : Tensor, (filters, samples // 2 + 1)
        At the frequencies of a real Fourier transform.
    edge : int
        Samples on each side of a filter's middle.
    """
    found: Tensor = _Filters.apply(x, gains, edge)  # type: ignore[no-untyped-call]
    return found


def peaks(x: Tensor, pool: int, *, folded: bool = False) -> Tensor:
    """Return the largest of each `pool` neighbours along the last axis, of the magnitudes if `folded`."""
    found: Tensor = _Peaks.apply(x, pool, folded)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        unit = x - x.mean(dim=-1, keepdim=True)
        std = torch.linalg.vector_norm(unit, dim=-1, keepdim=True).div_(math.sqrt(x.shape[-1] - 1))
        scale = (std + EPSILON).reciprocal_()
        unit.mul_(scale)
        ctx.save_for_backward(unit, std, scale, gamma)
        return torch.addcmul(beta, gamma, unit)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        unit, std, scale, gamma = ctx.saved_tensors
        by_unit = slopes[0] * gamma
        # The slope of the standard deviation is that of a norm, which counts as zero where all values are the same.
        along = torch.linalg.vecdot(by_unit, unit).unsqueeze(-1) / ((unit.shape[-1] - 1) * std * scale)
        along = torch.where(std > 0, along, 0.0)
        by_unit -= by_unit.mean(dim=-1, keepdim=True)
        return by_unit.addcmul_(unit, along, value=-1.0).mul_(scale), None, None


class _Filters(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gains: Tensor, edge: int) -> Tensor:
        # A gain is real: it multiplies the real and the imaginary part, which costs half of a complex product.
        pairs = gains.repeat_interleave(2, dim=1)
        ctx.save_for_backward(pairs)
        ctx.edge, samples = edge, x.shape[1]
        parts = torch.view_as_real(torch.fft.rfft(x)).flatten(1)[:, None] * pairs
        found: Tensor = torch.fft.irfft(_complex(parts), samples)
        return found[..., edge : samples - edge]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (pairs,) = ctx.saved_tensors
        # Filtering around a circle with a symmetric filter is its own transpose.
        slope = functional.pad(slopes[0], (ctx.edge, ctx.edge))
        parts = torch.view_as_real(torch.fft.rfft(slope)).flatten(2).mul_(pairs).sum(dim=1)
        return torch.fft.irfft(_complex(parts), slope.shape[-1]), None, None


def _complex(pairs: Tensor) -> Tensor:
    """Return (..., n) complex numbers of (..., 2 n) real and imaginary parts."""
    return torch.view_as_complex(pairs.view(*pairs.shape[:-1], -1, 2))


class _Peaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: int, folded: bool) -> Tensor:
        frames = x.shape[-1] // pool
        whole = x[..., : frames * pool].view(*x.shape[:-1], frames, pool)
        neighbours = [whole[..., place].contiguous() for place in range(pool)]
        sizes = [n.abs() for n in neighbours] if folded else neighbours
        largest: Tensor = sizes[0]
        for size in sizes[1:]:
            largest = torch.maximum(largest, size)
        # Of equal ones the first gets the slope, as in max_pool1d; the slope of a magnitude is its sign.
        signs: list[Tensor] = []
        free = torch.ones_like(largest, dtype=torch.int8)
        for neighbour, size in zip(neighbours, sizes, strict=True):
            here = (size == largest).view(torch.int8) * free
            free = free - here
            signs.append(here * neighbour.sgn().to(torch.int8) if folded else here)
        ctx.save_for_backward(*signs)
        ctx.length = x.shape[-1]
        return largest

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        signs, slope = ctx.saved_tensors, slopes[0]
        frames, pool = slope.shape[-1], len(signs)
        found = slope.new_zeros(*slope.shape[:-1], ctx.length)
        whole = found[..., : frames * pool].view(*slope.shape, pool)
        for place, sign in enumerate(signs):
            torch.mul(slope, sign, out=whole[..., place])
        return found, None, None
