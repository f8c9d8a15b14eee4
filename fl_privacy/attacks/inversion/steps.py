"""How a gradient becomes a step; each row has its own step size and its own unit.

A unit is what a step size is relative to. SincNet normalises its input, so that a wave and its multiples are the same
to it: a gradient is inversely proportional to the wave's scale, and a step of plain gradient descent, relative to the
wave, to the scale's square. With the start's standard deviation as the unit, one step size means the same for all
starts: plain steps are ``size * Var(start) * gradient``. With unit 1 they are the published ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from fl_privacy.errors import UserError


class StepRule(Protocol):
    """Makes steps in some slots; may remember what it did in each.

    Attributes
    ----------
    memory : tuple of Tensor, each (slots, ...)
        All that it remembers.
    """

    memory: tuple[Tensor, ...]

    def __call__(self, slots: Tensor, gradient: Tensor, unit: Tensor, size: Tensor) -> Tensor:
        """Return what is to be taken away from the points.

        Parameters
        ----------
        slots : Tensor, (n,)
            Numbers of the slots.
        gradient : Tensor, (n, length)
        unit, size : Tensor, (n, 1)
        """

    def clear(self, slot: int) -> None:
        """Forget what was in a slot."""


class Plain:
    """Gradient descent."""

    memory: tuple[Tensor, ...] = ()

    def __init__(self, slots: int, length: int, device: torch.device) -> None:
        pass

    def __call__(self, slots: Tensor, gradient: Tensor, unit: Tensor, size: Tensor) -> Tensor:
        """Return ``size * unit^2 * gradient``."""
        return gradient * (size * unit * unit)

    def clear(self, slot: int) -> None:
        """There is nothing to forget."""


class Normalised(Plain):
    """Steps along the gradient of one length: ``size * unit`` for each number of a point, root mean square."""

    def __call__(self, slots: Tensor, gradient: Tensor, unit: Tensor, size: Tensor) -> Tensor:
        """Return ``size * unit * sqrt(length) * gradient / |gradient|``; nothing where the gradient is zero."""
        # In double: a gradient of 1e-30 has a square that is no number of single precision.
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64)
        factor = torch.where(norm > 0, math.sqrt(gradient.shape[1]) / norm, 0.0) * (size * unit)
        return (gradient.double() * factor).to(gradient.dtype)


class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) on points in their units; first steps are ``size * unit``."""

    def __init__(self, slots: int, length: int, device: torch.device) -> None:
        self._first = torch.zeros(slots, length, device=device)
        self._second = torch.zeros(slots, length, device=device)
        self._steps = torch.zeros(slots, 1, device=device)
        self.memory: tuple[Tensor, ...] = (self._first, self._second, self._steps)

    def __call__(self, slots: Tensor, gradient: Tensor, unit: Tensor, size: Tensor) -> Tensor:
        """Return the step with betas .9 and .999 and an epsilon of 1e-12, which is small beside any gradient."""
        slope = gradient * unit
        first = self._first[slots].lerp_(slope, 0.1)
        second = self._second[slots].mul_(0.999).addcmul_(slope, slope, value=0.001)
        steps = self._steps[slots] + 1
        self._first[slots], self._second[slots], self._steps[slots] = first, second, steps
        mean, square = first / (1 - 0.9**steps), second / (1 - 0.999**steps)
        return size * unit * mean / (square.sqrt() + 1e-12)

    def clear(self, slot: int) -> None:
        """Forget the moments of a slot."""
        for held in self.memory:
            held[slot] = 0.0


STEPS: Mapping[str, Callable[[int, int, torch.device], StepRule]] = MappingProxyType(
    {"plain": Plain, "normalised": Normalised, "adam": Adam}
)
"""The rules by name; "plain" is the published one."""


def check_step(name: str) -> None:
    """Refuse a rule that there is not.

    Raises
    ------
    UserError
        With those that there are.
    """
    if name not in STEPS:
        raise UserError(f"unknown step {name!r}. Known: {', '.join(STEPS)}")
