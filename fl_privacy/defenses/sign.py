"""Signed updates: one bit a coordinate, and one number an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.defenses.base import Defense

if TYPE_CHECKING:
    from fl_privacy.training.participation import Participation


class Sign(Defense):
    """Send the sign of each coordinate times the mean magnitude of its array: ``mean |u| * sign(u)``.

    The scaled sign of Karimireddy et al. (2019), without their feedback of the error; Bernstein et al. (2018) send the
    sign alone. A coordinate of zero stays zero; the sum of magnitudes of an array is the same as before.

    Takes hold on the client's update. Meant to keep the magnitudes from the server; guarantees nothing: signs keep most
    of an update's direction. Costs: a biased step.
    """

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Replace every array."""
        with np.errstate(invalid="ignore"):  # an infinite mean times zero: a broken update, which is not sent
            return {
                name: (np.sign(u) * np.abs(u).mean(dtype=np.float64)).astype(u.dtype) if u.size else u
                for name, u in update.items()
            }
