"""An estimate with each speaker's pull on it: variances and covariances over speakers, and what is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import stdtrit

from .metrics import Floats


@dataclass(frozen=True)
class Pulled:
    """An estimate and how far each speaker pulls it.

    Attributes
    ----------
    value : float
    pulls : tuple of ndarray
        For each stratum (a class of speakers) one array, shape (speakers of it,): each speaker's share in the
        estimate's deviation. They sum to zero within a stratum.
    """

    value: float
    pulls: tuple[Floats, ...]

    def covariances(self, other: Pulled) -> list[float]:
        """Each stratum's part of the covariance with another estimate on the same speakers; 0 for one speaker."""
        pairs = zip(self.pulls, other.pulls, strict=True)
        return [float(a @ b) * a.size / (a.size - 1) if a.size > 1 else float(a @ b) for a, b in pairs]

    def robust_width(self, confidence: float) -> float:
        """Squared half-width of the interval from the speakers' own spread, with Welch's degrees of freedom."""
        parts = self.covariances(self)
        variance = sum(parts)
        if variance == 0.0:
            return 0.0
        spread = sum(part**2 / max(pulls.size - 1, 1) for part, pulls in zip(parts, self.pulls, strict=True))
        return float(stdtrit(variance**2 / spread, 0.5 + confidence / 2)) ** 2 * variance


def correlation_of(a: Pulled, b: Pulled) -> float:
    """Correlation of two estimates on the same speakers, shrunk towards 0; 0 where either has no spread."""
    variances = sum(a.covariances(a)) * sum(b.covariances(b))
    if variances == 0.0:
        return 0.0
    shrink = 1.0 - 0.5 / math.sqrt(min(pulls.size for pulls in a.pulls))
    return shrink * sum(a.covariances(b)) / math.sqrt(variances)


def mover(
    a: float, ends_a: tuple[float, float], b: float, ends_b: tuple[float, float], correlation: float
) -> tuple[float, float]:
    """Interval of a - b from the intervals of both and their correlation (Zou and Donner, 2008)."""

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0))

    (low_a, high_a), (low_b, high_b) = ends_a, ends_b
    return a - b - reach(a - low_a, high_b - b), a - b + reach(high_a - a, b - low_b)
