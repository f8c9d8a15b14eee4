"""How much an update has to shrink so that its norm is bounded."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def clipping_scale(arrays: Iterable[NDArray[np.floating]], clipping_norm: float) -> float:
    """Return ``min(1, clipping_norm / |g|_2)`` of all arrays together; 1 for a zero update, and for one of NaN.

    Parameters
    ----------
    arrays : iterable of ndarray
    clipping_norm : float
        Largest L2 norm.
    """
    arrays = list(arrays)
    largest = max((float(np.abs(g).max(initial=0.0)) for g in arrays), default=0.0)
    # Scaled first: the squares of doubles may overflow.
    unit = largest if 0 < largest < float("inf") else 1.0
    norm = unit * float(np.sqrt(sum(np.sum(np.square(g / unit, dtype=np.float64)) for g in arrays)))
    return min(1.0, clipping_norm / norm) if norm > 0 else 1.0
