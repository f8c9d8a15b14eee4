"""Shift-robust inversion: a whole wave is inverted at once, through windows at random places.

A window that is inverted by itself may be accepted at its own place alone (see `...sliding`). Expectation over
transformations (Athalye et al. 2018, arXiv 1707.07397; for inversion Struppek et al. 2022, arXiv 2201.12179) asks for a
wave that is accepted wherever it is listened to, louder or softer, and through noise.

Over free samples this did not make an independent recogniser accept more (eight invented voices, 32 inversions each: 12
against 10 of plain sliding inversion), so that it is no attack by itself here: it is the judge inside
`...source_filter`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy.attacks.inversion.gradients import Gradients, Slopes
from fl_privacy.errors import UserError

_AT_ONCE = 64


class ShiftRobust:
    """The mean of gradients over windows at random places of a wave, each with a gain and noise of its own.

    Parameters
    ----------
    inner : Gradients
        Of one window.
    length : int
        Of the wave: at least a window.
    copies : int
        Windows a step; their places are spread: one is drawn from each of as many equal parts.
    gain : tuple of float
        Windows are multiplied with a number between these.
    snr : tuple of float
        White noise is so many decibels below the window, drawn between these.

    Attributes
    ----------
    length, classes, device
        As for any `Gradients`.

    Raises
    ------
    UserError
        For numbers that are impossible.
    """

    def __init__(
        self,
        inner: Gradients,
        length: int,
        *,
        copies: int = 4,
        gain: tuple[float, float] = (0.8, 1.2),
        snr: tuple[float, float] = (20.0, 30.0),
    ) -> None:
        if length < inner.length:
            raise UserError(f"shift-robust inversion: {length} samples are fewer than a window's {inner.length}")
        if copies < 1 or not 0 < gain[0] <= gain[1] or not snr[0] <= snr[1]:
            raise UserError(f"shift-robust inversion: copies={copies}, gain={gain} or snr={snr} is impossible")
        self._inner, self._copies, self._gain, self._snr = inner, copies, gain, snr
        self.length, self.classes, self.device = length, inner.classes, inner.device

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Return mean costs, gradients and misses over the windows that were drawn."""
        n, copies, window = len(points), self._copies, self._inner.length
        places = np.stack([self._places(rng) for rng in rngs])
        gains = np.stack([rng.uniform(*self._gain, size=copies) for rng in rngs]).astype(np.float32)
        levels = np.stack([10 ** (-rng.uniform(*self._snr, size=copies) / 20) for rng in rngs]).astype(np.float32)
        noise = np.stack([rng.standard_normal((copies, window), dtype=np.float32) for rng in rngs])
        rows = torch.from_numpy(places[:, :, None] + np.arange(window)).to(self.device)
        cut = points[:, None].expand(n, copies, -1).gather(2, rows)
        loud = cut.square().mean(dim=2, keepdim=True).sqrt()
        # The noise belongs to the surroundings: its level follows the wave, but is not something to be optimised.
        cut = (cut + loud * self._tensor(levels)[..., None] * self._tensor(noise)) * self._tensor(gains)[..., None]

        flat, owners = cut.view(-1, window), identities.repeat_interleave(copies)
        chances = [rng for rng in rngs for _ in range(copies)]
        parts = [
            self._inner(flat[at : at + _AT_ONCE], owners[at : at + _AT_ONCE], chances[at : at + _AT_ONCE])
            for at in range(0, len(flat), _AT_ONCE)
        ]
        by_window = torch.cat([part.gradient for part in parts]).view(n, copies, window)
        by_window = by_window * self._tensor(gains)[..., None]
        gradient = torch.zeros_like(points)
        for copy in range(copies):
            gradient.scatter_add_(1, rows[:, copy], by_window[:, copy])
        cost, miss = (
            torch.cat([getattr(part, name) for part in parts]).view(n, copies).mean(dim=1) for name in ("cost", "miss")
        )
        return Slopes(cost, gradient / copies, miss)

    def _places(self, rng: np.random.Generator) -> NDArray[np.int64]:
        edges = np.linspace(0, self.length - self._inner.length + 1, self._copies + 1)
        places: NDArray[np.int64] = np.floor(rng.uniform(edges[:-1], edges[1:])).astype(np.int64)
        return np.minimum(places, self.length - self._inner.length)

    def _tensor(self, numbers: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(numbers).to(self.device)
