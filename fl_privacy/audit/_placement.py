"""AUC with its variance from speakers' placement values: what the intervals of an AUC and of a difference stand on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from ..errors import UserError
from .metrics import Floats, as_scores, auc

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """The rows of one class gathered by speaker.

    Attributes
    ----------
    codes : ndarray of int, shape (rows,)
        Index of each row's speaker.
    sizes : ndarray of float, shape (speakers,)
        Rows of each speaker.
    """

    codes: Indices
    sizes: Floats

    @property
    def count(self) -> int:
        """Number of speakers."""
        return int(self.sizes.size)

    @property
    def effective(self) -> float:
        """Kish's effective number of speakers: fewer than their count where rows are spread unevenly."""
        return float(self.sizes.sum() ** 2 / np.square(self.sizes).sum())

    @classmethod
    def of(cls, groups: ArrayLike | None, n_rows: int, what: str) -> Clusters:
        """Gather `n_rows` rows by their speakers; None makes each row a speaker of its own."""
        if groups is None:
            codes = np.arange(n_rows, dtype=np.int64)
        else:
            names = np.asarray(groups)
            if names.shape != (n_rows,):
                raise UserError(f"{what}: {n_rows} scores, but groups of shape {names.shape}.")
            codes = np.unique(names, return_inverse=True)[1].astype(np.int64)
        sizes = np.bincount(codes).astype(np.float64)
        if sizes.size < 2:
            raise UserError(f"{what}: an interval needs at least 2 speakers a class; got {sizes.size}.")
        return cls(codes, sizes)


@dataclass(frozen=True)
class Placed:
    """An AUC and how far each speaker pulls it.

    Attributes
    ----------
    value : float
        The AUC over rows.
    positive_pull, negative_pull : ndarray, shapes (positive speakers,) and (negative speakers,)
        Each speaker's summed placement values less their expectation, over the number of rows of the class.
    positive_effective, negative_effective : float
        Kish's effective numbers of speakers.
    """

    value: float
    positive_pull: Floats
    negative_pull: Floats
    positive_effective: float
    negative_effective: float

    def covariance(self, other: Placed) -> tuple[float, float]:
        """Covariance with another AUC on the same speakers: the positives' part and the negatives' part.

        DeLong et al. (1988), in the form of Obuchowski (1997) where speakers have several rows.
        """
        parts = [(self.positive_pull, other.positive_pull), (self.negative_pull, other.negative_pull)]
        positive, negative = (float(a @ b) * a.size / (a.size - 1) for a, b in parts)
        return positive, negative

    def robust_width(self, confidence: float) -> float:
        """Squared half-width of the interval from the speakers' own spread, with Welch's degrees of freedom."""
        positive, negative = self.covariance(self)
        variance = positive + negative
        if variance == 0.0:
            return 0.0
        degrees = variance**2 / (
            positive**2 / (self.positive_pull.size - 1) + negative**2 / (self.negative_pull.size - 1)
        )
        return float(stdtrit(degrees, 0.5 + confidence / 2)) ** 2 * variance


def place(
    positive_scores: ArrayLike,
    negative_scores: ArrayLike,
    positive_groups: ArrayLike | None = None,
    negative_groups: ArrayLike | None = None,
) -> Placed:
    """AUC over rows with each speaker's pull on it.

    Parameters
    ----------
    positive_scores, negative_scores : array_like, shapes (m,) and (n,)
    positive_groups, negative_groups : array_like, optional
        The speaker of each row.
    """
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    value = auc(positive, negative)

    def pull(scores: Floats, others: Floats, expected: float, clusters: Clusters) -> Floats:
        ordered = np.sort(others)
        below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        deviation = below / (2.0 * others.size) - expected
        return np.bincount(clusters.codes, weights=deviation) / scores.size

    first = Clusters.of(positive_groups, positive.size, "positive scores")
    second = Clusters.of(negative_groups, negative.size, "negative scores")
    return Placed(
        value,
        pull(positive, negative, value, first),
        -pull(negative, positive, 1.0 - value, second),
        first.effective,
        second.effective,
    )


def _hanley_mcneil(theta: float, m: float, n: float) -> float:
    balanced = (m + n) / 2 - 1
    return theta * (1 - theta) * (1 + balanced * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)


def placed_interval(placed: Placed, confidence: float) -> tuple[float, float]:
    """The score interval that `fl_privacy.audit.intervals.auc_interval` describes."""
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence must lie strictly between 0 and 1; got {confidence}.")
    value, m, n = placed.value, placed.positive_effective, placed.negative_effective
    scale = float(ndtri(0.5 + confidence / 2)) ** 2
    model = scale * _hanley_mcneil(value, m, n)
    if 0.0 < value < 1.0:
        scale *= max(1.0, placed.robust_width(confidence) / model)

    def inside(theta: float) -> bool:
        return (value - theta) ** 2 <= scale * _hanley_mcneil(theta, m, n)

    return _edge(inside, value, 0.0), _edge(inside, value, 1.0)


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """Where `inside` stops holding on the way from `start`, where it holds, to `end`."""
    if start == end:
        return end
    for _ in range(50):
        middle = (start + end) / 2
        if inside(middle):
            start = middle
        else:
            end = middle
    return start


def correlation_of(a: Placed, b: Placed) -> float:
    """Correlation of two AUCs on the same speakers, shrunk towards 0; 0 where either has no spread."""
    variances = sum(a.covariance(a)) * sum(b.covariance(b))
    if variances == 0.0:
        return 0.0
    shrink = 1.0 - 0.5 / math.sqrt(min(a.positive_pull.size, a.negative_pull.size))
    return shrink * sum(a.covariance(b)) / math.sqrt(variances)
