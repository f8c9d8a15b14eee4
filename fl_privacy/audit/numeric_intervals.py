"""Intervals over speakers for predicted numbers: a correlation, an error in the attribute's unit, a share of variance.

Speakers are left out one at a time, with all their rows; what moves gives the variance. Its t quantile has the degrees
of freedom that the fourth moment of the moves gives (Satterthwaite), because a few speakers carry most of a correlation
where errors have long tails: with n - 1 degrees, or with Fisher's z alone, an interval covers too little there
(`python -m benchmarks coverage`). No random numbers are used, and no interval has zero width.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from ..errors import UserError
from ._placement import Clusters
from ._pulls import Pulled, correlation_of, mover
from .intervals import Interval
from .metrics import Floats, as_scores, pearson, ranks, spearman

#: Fewer speakers than this have no interval: Fisher's z has a variance of 1 / (n - 3).
FEWEST = 5


def correlation_interval(
    predictions: ArrayLike,
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    by_rank: bool = False,
    confidence: float = 0.95,
) -> Interval:
    """Interval of Pearson's correlation, or Spearman's, with speakers as the independent unit.

    On the scale of Fisher's z, the wider of two: the variance for normal numbers, 1 / (n - 3) (times 1 + r^2 / 2 by
    rank; Bonett and Wright, 2000), and that from leaving speakers out. A correlation near 1 counts as that of numbers
    rounded to n levels, sqrt(1 - 1 / n^2); one of 1, as though some speakers who were not seen were guessed, as many as
    an exact interval of a proportion allows where all were right. n is the effective number of speakers.

    Parameters
    ----------
    predictions, values : array_like, shape (n,)
    groups : array_like, shape (n,), optional
        The speaker of each row; by default each row is a speaker.
    by_rank : bool
        Whether of ranks.

    Raises
    ------
    UserError
        With fewer than 5 speakers, or where all values are the same.
    """
    found, half = _fisher(predictions, values, groups, by_rank, confidence)
    r = (spearman if by_rank else pearson)(predictions, values)
    low, high = min(math.tanh(found.value - half), r), max(math.tanh(found.value + half), r)
    if abs(r) == 1.0:
        least = 1.0 - _unseen(_checked(predictions, values, groups)[2], confidence)
        low, high = (min(low, least), 1.0) if r > 0 else (-1.0, max(high, -least))
    return low, high


def correlation_difference_interval(
    a: ArrayLike, b: ArrayLike, values: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of the difference of two correlations with the same values.

    MOVER on the two `correlation_interval`s (Zou, 2007), with the correlation of what leaving speakers out does to
    both, shrunk as for `fl_privacy.audit.intervals.difference_interval`. A `b` that predicts the same for everyone is
    chance itself: its correlation is 0 without error.

    Parameters
    ----------
    a, b : array_like, shape (n,)
        Predictions of the two attacks.
    values, groups
        As for `correlation_interval`.

    Returns
    -------
    (float, float)
        In [-2, 2].
    """
    first = correlation_interval(a, values, groups, confidence=confidence)
    if np.ptp(np.asarray(b, dtype=np.float64)) == 0:
        return first
    second = correlation_interval(b, values, groups, confidence=confidence)
    shared = correlation_of(*(_fisher(p, values, groups, False, confidence)[0] for p in (a, b)))
    return mover(pearson(a, values), first, pearson(b, values), second, shared)


def absolute_error_interval(
    predictions: ArrayLike, values: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of the mean absolute error, in the attribute's unit, from its logarithm.

    Parameters and errors are as for `correlation_interval`. Where nobody is predicted wrongly, the upper end is what
    guessing the median errs by, times the upper end of a share of none among so many speakers.
    """
    x, y, speakers = _checked(predictions, values, groups)
    errors = np.abs(x - y)
    value = float(errors.mean())
    if value == 0.0:
        return 0.0, _unseen(speakers, confidence) * float(np.abs(y - np.median(y)).mean())
    left = _without_each(errors, speakers) / (x.size - speakers.sizes)
    half = _half_width(np.log(np.maximum(left, value / speakers.count)), confidence)
    return value * math.exp(-half), value * math.exp(half)


def r_squared_interval(
    predictions: ArrayLike, values: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = 0.95
) -> Interval | None:
    """Interval of the share of variance told (`metrics.r_squared`), from the logarithm of the share left.

    The logarithm of a sum of squares of n normal numbers has a variance of about 2 / (n - 2) where leaving out sees
    2 / n; the width makes up for it, and the upper end for the n - 1 degrees of freedom of the values' own variance.
    Parameters and errors are as for `correlation_interval`. None where the values of all but one speaker are the same.
    """
    x, y, speakers = _checked(predictions, values, groups)
    y, x = y - y.mean(), x - y.mean()
    squares = np.square(x - y)
    share = float(squares.sum() / np.square(y).sum())
    rest = x.size - speakers.sizes
    spread = _without_each(np.square(y), speakers) - np.square(_without_each(y, speakers)) / rest
    if spread.min() <= 1e-12 * np.square(y).sum():
        return None
    if share == 0.0:
        return 1.0 - _unseen(speakers, confidence), 1.0
    left = _without_each(squares, speakers)
    n = speakers.count
    half = _half_width(np.log(np.maximum(left, squares.sum() / n**2) / spread), confidence) * math.sqrt(n / (n - 2))
    return 1.0 - share * math.exp(half), 1.0 - share * (n - 1) / n * math.exp(-half)


def _fisher(
    predictions: ArrayLike, values: ArrayLike, groups: ArrayLike | None, by_rank: bool, confidence: float
) -> tuple[Pulled, float]:
    """Fisher's z with what each speaker does to it, and the half-width of its interval."""
    x, y, speakers = _checked(predictions, values, groups)
    if by_rank:
        x, y = ranks(x), ranks(y)
    x, y = x - x.mean(), y - y.mean()
    n = speakers.effective
    most = math.sqrt(1.0 - 1.0 / n**2)
    r = min(max(pearson(x, y), -most), most)
    left = np.arctanh(np.clip(_correlation_without_each(x, y, speakers), -most, most))
    normal = (1 + r**2 / 2 if by_rank else 1.0) / max(n - 3, 0.1)
    half = max(float(ndtri(0.5 + confidence / 2)) * math.sqrt(normal), _spread(left, confidence))
    return Pulled(math.atanh(r), (left - left.mean(),)), half


def _correlation_without_each(x: Floats, y: Floats, speakers: Clusters) -> Floats:
    """The correlation with each speaker left out; 0 where that leaves no variance."""
    n = x.size - speakers.sizes
    mean_x, mean_y = (_without_each(a, speakers) / n for a in (x, y))
    xx, yy, xy = (
        _without_each(a * b, speakers) / n - u * v
        for a, b, u, v in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))
    )
    # What is left of a variance of nothing is rounding.
    flat = (xx <= 1e-12 * np.mean(x * x)) | (yy <= 1e-12 * np.mean(y * y))
    return np.where(flat, 0.0, xy / np.sqrt(np.where(flat, 1.0, xx * yy)))


def _without_each(terms: Floats, speakers: Clusters) -> Floats:
    """The sum over rows, without each speaker's."""
    return np.asarray(terms.sum() - np.bincount(speakers.codes, weights=terms))


def _spread(left: Floats, confidence: float) -> float:
    """Half-width of the interval of an estimate from its values with each speaker left out (the jackknife)."""
    n, moves = left.size, left - left.mean()
    squares = float(moves @ moves)
    if squares == 0.0:
        return 0.0
    kurtosis = n * float(np.sum(np.square(moves) ** 2)) / squares**2
    degrees = min(max(2 * n / (kurtosis - (n - 3) / (n - 1)), 1.0), n - 1.0)
    return float(stdtrit(degrees, 0.5 + confidence / 2)) * math.sqrt((n - 1) / n * squares)


def _half_width(logarithms: Floats, confidence: float) -> float:
    """The same for a logarithm, at least what one speaker in n would do: equal errors keep a width."""
    n = logarithms.size
    return max(_spread(logarithms, confidence), float(stdtrit(n - 1, 0.5 + confidence / 2)) / n)


def _unseen(speakers: Clusters, confidence: float) -> float:
    """The share of speakers that may be otherwise where all that were seen are alike: Clopper and Pearson's limit."""
    return 1.0 - float(((1.0 - confidence) / 2) ** (1.0 / speakers.effective))


def _checked(predictions: ArrayLike, values: ArrayLike, groups: ArrayLike | None) -> tuple[Floats, Floats, Clusters]:
    x, y = as_scores(predictions, "predictions"), as_scores(values, "values")
    if x.shape != y.shape:
        raise UserError(f"{x.size} predictions, but {y.size} values: give one for each.")
    if np.ptp(y) == 0:
        raise UserError("All values are the same: there is nothing to predict.")
    speakers = Clusters.of(groups, x.size, "predictions", least=1)
    if speakers.count < FEWEST:
        raise UserError(f"An interval needs at least {FEWEST} speakers; got {speakers.count}.")
    return x, y, speakers
