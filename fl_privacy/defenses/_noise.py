"""Gaussian noise on a whole update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def noisy(
    update: Mapping[str, NDArray[Any]], scale: float, deviation: float, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return ``scale * u + N(0, deviation^2)``, drawn in single precision, in which updates are sent."""
    made = {}
    for name, array in update.items():
        made[name] = array * array.dtype.type(scale)
        if deviation:
            noise = rng.standard_normal(array.shape, np.float32)
            noise *= np.float32(deviation)
            made[name] += noise
    return made
