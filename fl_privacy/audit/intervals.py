"""Intervals over speakers: each function gives (low, high), never of zero width, covering at least 93 % of the time.

All are closed forms or solved equations: no random numbers. The percentile bootstrap over speakers within class is not
used, since it covers too little: an AUC of .9 to .99 between 25 % and 93 % of the time at 15 to 45 speakers a class
(`python -m benchmarks coverage` has both side by side). What it rests on is used: the variance over resampled speakers
enters `auc_interval` through the speakers' placement values, its limit for many resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrik, betaincinv

from ..errors import UserError
from ._placement import Clusters, Placed, place, place_classes, placed_interval
from ._pulls import correlation_of, mover
from .metrics import Floats, as_scores, eer, tpr_at_fpr

Interval = tuple[float, float]


def auc_interval(
    positive_scores: ArrayLike,
    negative_scores: ArrayLike,
    positive_groups: ArrayLike | None = None,
    negative_groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of an AUC with speakers as the independent unit.

    The score interval of Newcombe (2006, method 5) solves (A - theta)^2 = z^2 V(theta) with the Hanley-McNeil variance
    V at m* = n* = (m + n) / 2 - 1. V holds for one shape of scores; where the speakers' own spread at A is wider
    (DeLong's variance, or Obuchowski's over several rows a speaker, with a t quantile at Welch's degrees of freedom),
    V is scaled up by the ratio. m and n count speakers whatever the number of rows: conservative where the rows of a
    speaker disagree.

    Parameters
    ----------
    positive_scores, negative_scores : array_like, shapes (m,) and (n,)
        One score a row, higher meaning more positive.
    positive_groups, negative_groups : array_like, shapes (m,) and (n,), optional
        The speaker of each row; by default each row is a speaker.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    (float, float)
        Low and high, in [0, 1], around the AUC.

    Raises
    ------
    UserError
        With fewer than 2 speakers in a class.
    """
    return placed_interval(place(positive_scores, negative_scores, positive_groups, negative_groups), confidence)


def difference_interval(
    a_positive: ArrayLike,
    a_negative: ArrayLike,
    b_positive: ArrayLike,
    b_negative: ArrayLike,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of AUC(a) - AUC(b), both scored on the same speakers in the same order.

    MOVER (Zou and Donner, 2008) on the two `auc_interval`s with the correlation that DeLong's covariance gives, times
    1 - 1 / (2 sqrt k) for k speakers in the smaller class: the estimate is too noisy near an AUC of 1 to be used whole
    (coverage .917 at .99 against .9), and identical scores keep some width. A `b` that gives
    everyone the same score is chance itself: its AUC is .5 without error.

    Parameters
    ----------
    a_positive, a_negative, b_positive, b_negative : array_like
        Scores of the two attacks, one a speaker; `a_positive` and `b_positive` are aligned, and so are the negatives.

    Returns
    -------
    (float, float)
        In [-1, 1].

    Raises
    ------
    UserError
        When lengths differ, or a class has fewer than 2 speakers.
    """
    a, b = place(a_positive, a_negative), place(b_positive, b_negative)
    if np.shape(a_positive) != np.shape(b_positive) or np.shape(a_negative) != np.shape(b_negative):
        raise UserError("A paired difference needs both attacks' scores of the same speakers; their numbers differ.")
    constant = np.ptp(np.concatenate([np.asarray(b_positive), np.asarray(b_negative)])) == 0
    return _difference(a, b, constant, confidence)


def hand_till_interval(
    scores: Floats, codes: NDArray[np.int64], groups: ArrayLike | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of Hand and Till's AUC of k classes (`metrics.hand_till`) with speakers as the independent unit.

    That of `auc_interval`, carried over: the Hanley-McNeil variance of two classes with as many speakers in all, scaled
    up where the speakers' own spread is wider. Classes of one speaker each are allowed; the speakers' spread is then
    that among all of them.

    Parameters
    ----------
    scores : ndarray, shape (n, k)
        Evidence for each class.
    codes : ndarray of int, shape (n,)
        The column of each row's class; at least two occur.
    groups : array_like, shape (n,), optional
        The speaker of each row.
    """
    return placed_interval(place_classes(scores, codes, groups), confidence)


def hand_till_difference_interval(
    a: Floats, b: Floats, codes: NDArray[np.int64], groups: ArrayLike | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of the difference of two such AUCs on the same rows, as `difference_interval` for two classes.

    Parameters
    ----------
    a, b : ndarray, shape (n, k)
        Scores of the two attacks.
    codes, groups
        As for `hand_till_interval`.
    """
    constant = bool(np.all(b == b[0]))
    return _difference(place_classes(a, codes, groups), place_classes(b, codes, groups), constant, confidence)


def _difference(a: Placed, b: Placed, b_is_constant: bool, confidence: float) -> Interval:
    ends = placed_interval(a, confidence)
    if b_is_constant:
        return ends[0] - 0.5, ends[1] - 0.5
    low, high = mover(a.value, ends, b.value, placed_interval(b, confidence), correlation_of(a, b))
    return max(low, -1.0), min(high, 1.0)


def proportion_interval(rates: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95) -> Interval:
    """Interval of a proportion, such as an accuracy, with speakers as the unit.

    Clopper and Pearson's exact interval; where speakers have several rows, at the effective number of speakers (the
    form of Korn and Graubard, 1998, never above the number of speakers).

    Parameters
    ----------
    rates : array_like, shape (speakers,)
        Fraction of each speaker's rows that count as a success; 0 or 1 where a speaker is one row.
    weights : array_like, shape (speakers,), optional
        Rows of each speaker.

    Raises
    ------
    UserError
        With fewer than 2 speakers, or a rate outside [0, 1].
    """
    value, effective = _share(rates, weights)
    return _clopper_pearson(value, effective, 1.0 - confidence)


def uar_interval(
    positive_rates: ArrayLike,
    negative_rates: ArrayLike,
    positive_weights: ArrayLike | None = None,
    negative_weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of two recalls, with speakers as the unit.

    The hull of two intervals. MOVER on the two `proportion_interval`s (Zou and Donner, 2008; Newcombe, 1998, method 10)
    alone covers as little as .923 where both recalls are near 1 (enumerated exactly, 2 to 30 speakers a class). The
    exact interval of one proportion among 4 m n / (m + n) speakers, which is m + n where the classes are equal, alone
    does as badly where the classes are unequal.

    Parameters
    ----------
    positive_rates, negative_rates : array_like, shapes (positive speakers,) and (negative speakers,)
        Fraction of each speaker's rows that are recognised.
    positive_weights, negative_weights : array_like, optional
        Rows of each speaker.

    Raises
    ------
    UserError
        With fewer than 2 speakers in a class, or a rate outside [0, 1].
    """
    return _mean_recall(
        [_share(positive_rates, positive_weights), _share(negative_rates, negative_weights)], confidence
    )


def mean_recall_interval(
    rates: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of the mean of k recalls, `uar_interval` for any number of classes.

    The one proportion is among k^2 / (1 / n_1 + ... + 1 / n_k) speakers, which is their number where the classes are
    equal. Classes of one speaker are allowed; where all are, the exact interval of a proportion of the speakers and
    MOVER's hardly differ.

    Parameters
    ----------
    rates : sequence of array_like
        For each class the fraction of each speaker's rows that are recognised.
    weights : sequence of array_like, optional
        Rows of each speaker.
    """
    sizes = [None] * len(rates) if weights is None else weights
    return _mean_recall([_share(r, w, least=1) for r, w in zip(rates, sizes, strict=True)], confidence)


def tpr_interval(
    positive_scores: ArrayLike,
    negative_scores: ArrayLike,
    fpr: float,
    positive_groups: ArrayLike | None = None,
    negative_groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the true positive rate at a false positive rate, for the population's threshold.

    Two errors are joined by MOVER: the exact interval of the rate at the threshold found, and where the population's
    threshold may lie, since the negatives above it number Binomial(n, fpr). Where that may be none, the rate at the
    population's threshold is bounded by the ROC's concavity (which a randomised decision always attains): not less than
    `fpr` / f times the rate found, f being the upper limit of the false positive rate at the threshold found. With few
    negatives the interval is wide; it has to be.

    Parameters
    ----------
    positive_scores, negative_scores : array_like, shapes (m,) and (n,)
    fpr : float
    positive_groups, negative_groups : array_like, optional
        The speaker of each row.

    Raises
    ------
    UserError
        Where `fpr` is not resolved by the negatives, or a class has fewer than 2 speakers.
    """
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    found = tpr_at_fpr(positive, negative, fpr)
    if found.value is None or found.threshold is None:
        raise UserError(f"No interval at a false positive rate of {fpr}: {found.reason}.")
    clusters = Clusters.of(positive_groups, positive.size, "positive scores")
    hits = np.bincount(clusters.codes, weights=positive > found.threshold) / clusters.sizes
    low, high = proportion_interval(hits, clusters.sizes, confidence=confidence)
    effective = Clusters.of(negative_groups, negative.size, "negative scores").effective
    worst = _clopper_pearson(float(np.mean(negative > found.threshold)), effective, 1.0 - confidence)[1]
    # The population's threshold lets through between these shares of the negatives seen.
    trials = int(effective + 1e-9)
    least, most = (math.ceil(bdtrik(0.5 + side * confidence / 2, trials, fpr)) / trials for side in (-1, 1))
    bound = _rate_above(positive, negative, math.floor(least * negative.size) - 1)
    strict = max(found.value * min(1.0, fpr / worst), bound)
    loose = _rate_above(positive, negative, math.ceil(most * negative.size))
    return (
        max(found.value - math.hypot(found.value - low, found.value - strict), 0.0),
        min(found.value + math.hypot(high - found.value, loose - found.value), 1.0),
    )


def eer_interval(
    positive_scores: ArrayLike,
    negative_scores: ArrayLike,
    positive_groups: ArrayLike | None = None,
    negative_groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the equal error rate: the exact interval of a proportion of the speakers in the smaller class.

    The rate's variance is a weighted mean of a proportion's variance in either class, with weights that depend on the
    unknown slope of the ROC; the smaller class bounds it.

    Raises
    ------
    UserError
        With fewer than 2 speakers in a class.
    """
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    first = Clusters.of(positive_groups, positive.size, "positive scores")
    second = Clusters.of(negative_groups, negative.size, "negative scores")
    return _clopper_pearson(eer(positive, negative), min(first.effective, second.effective), 1.0 - confidence)


def _share(rates: ArrayLike, weights: ArrayLike | None, least: int = 2) -> tuple[float, float]:
    """Weighted proportion and the effective number of speakers behind it."""
    values = as_scores(rates, "rates")
    if values.size < least or values.min() < 0 or values.max() > 1:
        raise UserError(f"rates must be at least {least} fractions between 0 and 1, one a speaker; got {values.size}.")
    size = np.ones_like(values) if weights is None else as_scores(weights, "weights")
    if size.shape != values.shape or size.min() <= 0:
        raise UserError("weights must be positive, one for each rate.")
    share = size / size.sum()
    value = min(max(float(share @ values), 0.0), 1.0)
    effective = 1.0 / float(share @ share)
    spread = float(np.square(share * (values - value)).sum())
    if spread > 0:
        effective = min(effective, value * (1 - value) / spread)
    return value, effective


def _clopper_pearson(value: float, n: float, error: float) -> Interval:
    hits = value * n
    # A hair below one success is a rounding error of none.
    low = 0.0 if hits < 1e-9 else float(betaincinv(hits, n - hits + 1, error / 2))
    high = 1.0 if n - hits < 1e-9 else float(betaincinv(hits + 1, n - hits, 1 - error / 2))
    return min(low, value), max(high, value)


def _mean_recall(shares: Sequence[tuple[float, float]], confidence: float) -> Interval:
    error, k = 1.0 - confidence, len(shares)
    mean = sum(value for value, _ in shares) / k
    low, high = _clopper_pearson(mean, k**2 / sum(1 / n for _, n in shares), error)
    ends = [(value, *_clopper_pearson(value, n, error)) for value, n in shares]
    low = min(low, mean - math.hypot(*(value - end for value, end, _ in ends)) / k)
    high = max(high, mean + math.hypot(*(end - value for value, _, end in ends)) / k)
    return max(low, 0.0), min(high, 1.0)


def _rate_above(positive: Floats, negative: Floats, allowed: int) -> float:
    """True positive rate at the threshold that lets `allowed` negatives through; the trivial bound off either end."""
    if allowed < 0:
        return 0.0
    return 1.0 if allowed >= negative.size else float(np.mean(positive > np.sort(negative)[::-1][allowed]))
