"""Gradients that are private example by example: DP-SGD for any module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DPSGD:
    """What is done to each example's gradient.

    Attributes
    ----------
    clipping_norm : float
        Largest L2 norm of an example's gradient, over all parameters.
    noise_multiplier : float
        Standard deviation of the noise on the sum of the clipped gradients, in units of `clipping_norm`.
    engine : {"auto", "hooks", "ghost"}
        How the clipped sum is computed.
    """

    clipping_norm: float
    noise_multiplier: float
    engine: Literal["auto", "hooks", "ghost"] = "auto"
