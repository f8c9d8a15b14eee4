"""Quantised updates: a few levels an array, rounded at random without bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.defenses._settings import whole
from fl_privacy.defenses.base import Defense

if TYPE_CHECKING:
    from fl_privacy.training.participation import Participation


class Quantise(Defense):
    """Round each coordinate to one of the levels ``-M .. M`` of its array, at random and without bias (QSGD).

    M is the largest magnitude in the array, s = 2^(bits - 1) - 1 the number of levels on each side of zero; ``u s / M``
    is rounded up with the probability of its fraction, so that the mean of many roundings is u (Alistarh et al. 2017,
    section 3, with the largest magnitude for the norm, as in their experiments).

    Takes hold on the client's update. Meant to blur it for the server; the rounding is random, but no differential
    privacy: M is sent as it is, and zero stays zero. Costs: a variance of up to (M / s)^2 / 4 a coordinate.

    Parameters
    ----------
    bits : int
        Of each coordinate, its sign among them: 2 to 16 (2: the three values -M, 0 and M).
    """

    def __init__(self, bits: int) -> None:
        whole("quantise", 2, 16, bits=bits)
        self.bits = bits

    @property
    def levels(self) -> int:
        """On each side of zero."""
        return int(2 ** (self.bits - 1) - 1)

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Round every array."""
        return {name: self._round(array, client.rng) for name, array in update.items()}

    def _round(self, array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        largest = float(np.abs(array).max(initial=0.0))
        if not 0 < largest < float("inf"):
            return array  # nothing to round, or a broken update, which is not sent
        scaled = array.astype(np.float64) / largest * self.levels
        rounded = np.floor(scaled + rng.random(array.shape))
        return np.asarray(rounded * (largest / self.levels), dtype=array.dtype)
