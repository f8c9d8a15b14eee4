"""Two rates of the same speakers: how far one lies above the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ._pulls import Pulled, correlation_of, mover
from .claims import Estimate
from .intervals import proportion_interval
from .metrics import Floats, as_scores


def proportion(rates: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Return a proportion of speakers with its exact interval.

    Parameters
    ----------
    rates : array_like, shape (speakers,)
        0 or 1, or the share of a speaker's trials.

    Raises
    ------
    UserError
        With fewer than two speakers, or a rate outside [0, 1].
    """
    values = as_scores(rates, "rates")
    ends = proportion_interval(values, confidence=confidence)
    return Estimate(float(values.mean()), *ends, confidence, None, None, values.size)


def proportion_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Return how far one proportion lies above another of the same speakers.

    MOVER (Zou and Donner 2008; for single trials Newcombe's method 10 of 1998) on the two exact intervals, with the
    correlation of the speakers' rates.

    Parameters
    ----------
    a, b : array_like, shape (speakers,)
        Rates of the same speakers in the same order. A `b` of one number is known, and has no error.

    Raises
    ------
    UserError
        Where the numbers of speakers differ, or as for `proportion`.
    """
    first = as_scores(a, "rates")
    ends = proportion_interval(first, confidence=confidence)
    value = float(first.mean())
    if np.ndim(b) == 0:
        known = float(np.asarray(b))
        low, high = ends[0] - known, ends[1] - known
        return Estimate(value - known, low, high, confidence, None, None, first.size)
    second = as_scores(b, "rates")
    if first.size != second.size:
        raise UserError(f"A paired difference needs the same speakers; got {first.size} and {second.size}.")
    other = proportion_interval(second, confidence=confidence)
    correlation = correlation_of(_pulled(first), _pulled(second))
    low, high = mover(value, ends, float(second.mean()), other, correlation)
    return Estimate(value - float(second.mean()), max(low, -1.0), min(high, 1.0), confidence, None, None, first.size)


def mean_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Return the mean difference between two rates of the same speakers, each of many trials.

    Student's interval on the speakers' differences. It is far narrower than `proportion_difference`, which allows for
    rates of single trials, and wants differences that are not far from normal.

    Parameters
    ----------
    a, b : array_like, shape (speakers,)
        Rates of the same speakers in the same order.

    Returns
    -------
    Estimate
        Of `a` less `b`; without an interval, and with the reason, where all speakers have the same difference.

    Raises
    ------
    UserError
        Where the numbers of speakers differ, or with fewer than two.
    """
    from scipy.stats import ttest_rel

    first, second = as_scores(a, "rates"), as_scores(b, "rates")
    if first.size != second.size or first.size < 2:
        raise UserError(f"A mean difference needs the same speakers, two at least; got {first.size} and {second.size}.")
    differences = first - second
    value = float(differences.mean())
    if np.ptp(differences) < 1e-12:
        same = "all speakers have the same difference: nothing to judge another speaker's by"
        return Estimate(value, None, None, confidence, None, None, first.size, same)
    ends = ttest_rel(first, second).confidence_interval(confidence)
    low, high = max(float(ends.low), -1.0), min(float(ends.high), 1.0)
    return Estimate(value, low, high, confidence, None, None, first.size)


def _pulled(rates: Floats) -> Pulled:
    mean = float(rates.mean())
    return Pulled(mean, ((rates - mean) / rates.size,))
