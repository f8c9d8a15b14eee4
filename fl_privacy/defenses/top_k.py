"""Gradient pruning: only the largest coordinates of an update are sent."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.defenses.base import Defense
from fl_privacy.errors import UserError

if TYPE_CHECKING:
    from fl_privacy.training.participation import Participation


class TopK(Defense):
    """Keep the coordinates of a whole update that are largest in magnitude; the rest is zero, and lost.

    Exactly ``ceil(fraction * m)`` of m coordinates stay; among equals, those that come first. (Aji and Heafield 2017;
    as a defense Zhu et al. 2019. The former keep what is cut off and send it in later rounds; this does not.)

    Takes hold on the client's update, behind all training. Meant to keep what the small coordinates tell from the
    server; guarantees nothing, and *which* coordinates are sent tells something too. Costs: a slower start of the
    training, the more the smaller the fraction.

    Parameters
    ----------
    fraction : float
        Above 0, up to 1.
    """

    def __init__(self, fraction: float) -> None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise UserError(f"top-k: fraction must be above 0 and at most 1, not {fraction!r}")
        self.fraction = fraction

    def kept(self, coordinates: int) -> int:
        """Return how many of so many coordinates are sent."""
        # As it is written in decimals: 0.07 * 100 is a little more than 7 in floating point.
        return math.ceil(Fraction(str(self.fraction)) * coordinates)

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Set the small coordinates to zero."""
        sizes = np.concatenate([np.abs(array).ravel() for array in update.values()])
        sizes[np.isnan(sizes)] = np.inf  # a broken update stays broken
        number = self.kept(len(sizes))
        least = np.partition(sizes, len(sizes) - number)[len(sizes) - number]
        mask = sizes > least
        mask[np.flatnonzero(sizes == least)[: number - int(mask.sum())]] = True
        pruned, at = {}, 0
        for name, array in update.items():
            here = mask[at : at + array.size].reshape(array.shape)
            pruned[name], at = np.where(here, array, array.dtype.type(0)), at + array.size
        return pruned
