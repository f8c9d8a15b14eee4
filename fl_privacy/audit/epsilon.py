"""Epsilon from below: what the scores of canaries, in or out by a fair coin, prove that a mechanism gives away.

Both bounds hold with their confidence whatever the scores are: they are 0 where nothing can be told, and above the true
epsilon at most as often as the confidence allows. How close they come depends on the attack and on how many canaries
there are: with m of them, none can be shown to be much above log(m).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv, gammaln

from ..errors import UserError
from .claims import Privacy, jsonable
from .metrics import Floats

Flags = NDArray[np.bool_]

Method = Literal["clopper-pearson", "one-run"]

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Shares of the canaries that the one-run bound guesses, where it is not told; corrected for jointly."""

_THRESHOLDS = 512
_MOST = 50.0
"""Nothing above it is looked for: no number of canaries shows as much."""


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """A lower bound on the epsilon of a mechanism, with what it rests on.

    Attributes
    ----------
    value : float
        At least 0, which proves nothing.
    confidence : float
        Probability that the true epsilon is not below it, at least.
    delta : float
        At which it holds.
    method : {"clopper-pearson", "one-run"}
    n_in, n_out : int
        Canaries that were in and out.
    guesses, right : int
        Guesses that the value rests on, and how many were right.
    meaning : str
        In words.
    """

    value: float
    confidence: float
    delta: float
    method: Method
    n_in: int
    n_out: int
    guesses: int
    right: int
    meaning: str

    def __str__(self) -> str:
        return f"epsilon >= {self.value:.3f} at delta {self.delta:g} ({100 * self.confidence:g} %, {self.method})"

    def to_dict(self) -> dict[str, Any]:
        """The bound as a JSON-ready mapping."""
        row: dict[str, Any] = jsonable(asdict(self))
        return row


def clopper_pearson_bound(
    scores: ArrayLike, included: ArrayLike, *, delta: float = 0.0, confidence: float = 0.95
) -> EpsilonBound:
    """Bound epsilon by one threshold's error rates.

    An (epsilon, delta)-private mechanism has TPR <= exp(epsilon) FPR + delta and, of those taken for out, TNR <=
    exp(epsilon) FNR + delta. Every second canary of either kind chooses the threshold and one of the two tests; the
    others are counted, with exact one-sided limits of Clopper and Pearson, each at half the error. So the choice costs
    canaries and no confidence.

    Parameters
    ----------
    scores : array_like, shape (m,)
        High: in. Independent of one another, as those of canaries that went into runs of their own are; the order of
        canaries must not depend on them.
    included : array_like of bool, shape (m,)
        Which canaries were in.
    delta : float
        Of the mechanism.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    EpsilonBound

    Raises
    ------
    UserError
        For scores that are not numbers, lengths that differ, or a number out of range.

    Notes
    -----
    The tests are those of Nasr et al. (2021, arXiv 2101.04535), section 3.
    """
    values, inside = _checked(scores, included, delta, confidence)
    ins, outs = values[inside], values[~inside]
    error = (1.0 - confidence) / 2.0
    told: dict[str, Any] = {"confidence": confidence, "delta": delta, "method": "clopper-pearson"}
    told |= {"n_in": len(ins), "n_out": len(outs)}
    if len(ins) < 2 or len(outs) < 2:
        few = "There are too few canaries of one kind to choose a threshold and to count apart from it."
        return EpsilonBound(value=0.0, guesses=0, right=0, meaning=few, **told)
    thresholds = _candidates(np.concatenate([ins[::2], outs[::2]]))
    # Chosen by limits that all hold at once: else the best of many is one of a few lucky canaries.
    strict = error / len(thresholds)
    by_test = [_by_threshold(a[::2], b[::2], t, delta, strict) for a, b, t in _tests(ins, outs, thresholds)]
    test = int(np.argmax([found.max() for found in by_test]))
    hits, misses, at = _tests(ins, outs, thresholds[[np.argmax(by_test[test])]])[test]
    hits, misses = hits[1::2], misses[1::2]
    value = max(float(_by_threshold(hits, misses, at, delta, error)[0]), 0.0)
    right, wrong = int(np.sum(hits >= at)), int(np.sum(misses >= at))
    kind, other = (("in", "out"), ("out", "in"))[test]
    meaning = (
        f"At a threshold that other canaries chose, {right} of {len(hits)} canaries that were {kind} are taken to be "
        f"{kind}, and {wrong} of {len(misses)} that were {other}."
    )
    return EpsilonBound(value=value, guesses=right + wrong, right=right, meaning=meaning, **told)


def one_run_bound(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    guesses: tuple[int, int] | None = None,
) -> EpsilonBound:
    """Bound epsilon by the number of right guesses about canaries that may all have been in one run.

    The canaries of the highest scores are guessed to be in, those of the lowest out, on the rest there is no guess.
    Where the mechanism is (epsilon, delta)-private in each canary, the number of right guesses among r is at most
    Binomial(r, e^epsilon / (1 + e^epsilon)) and a correction for delta (Steinke, Nasr and Jagielski, 2023, arXiv
    2305.08846, theorem 5.2), which takes that each canary was in or out by a fair coin of its own, and no independence
    of the scores. The bound is the least epsilon that the count does not reject.

    Parameters
    ----------
    scores : array_like, shape (m,)
        High: in. Equal scores are ordered against the attacker.
    included : array_like of bool, shape (m,)
        Which canaries were in.
    delta, confidence : float
        See `clopper_pearson_bound`.
    guesses : (int, int), optional
        How many are guessed in and out, fixed before the scores were seen. By default several numbers are tried, half
        of each to either side (`SHARES` of the canaries), each at an equal part of the error, and the best is given:
        with Bonferroni's correction all of them hold at once.

    Returns
    -------
    EpsilonBound

    Raises
    ------
    UserError
        As `clopper_pearson_bound`, and for more guesses than canaries.
    """
    values, inside = _checked(scores, included, delta, confidence)
    m = len(values)
    if guesses is not None and (min(guesses) < 0 or sum(guesses) > m):
        raise UserError(f"{guesses[0]} + {guesses[1]} guesses on {m} canaries: they may not be negative or more.")
    tried = (
        sorted({(k := round(m * share / 2), k) for share in SHARES if m * share >= 2}) if guesses is None else [guesses]
    )
    # A tie is ordered so that guesses come out wrong: then no order of the canaries can help.
    order = inside[np.lexsort((~inside, values))]
    error = (1.0 - confidence) / max(len(tried), 1)
    best = (0.0, 0, 0)
    for most, least in tried:
        right = int(order[m - most :].sum()) + int((~order[:least]).sum())
        best = max(best, (_least_epsilon(m, most + least, right, delta, error), most + least, right))
    value, made, right = best
    if value == 0.0 and tried:
        most, least = tried[-1]
        made, right = most + least, int(order[m - most :].sum()) + int((~order[:least]).sum())
    among = f" (best of {len(tried)} numbers of guesses, corrected jointly)" if len(tried) > 1 else ""
    meaning = f"Of {made} guesses about {m} canaries, {right} were right{among}."
    return EpsilonBound(
        value=value,
        confidence=confidence,
        delta=delta,
        method="one-run",
        n_in=int(inside.sum()),
        n_out=int((~inside).sum()),
        guesses=made,
        right=right,
        meaning=meaning,
    )


def epsilon_bounds(
    scores: ArrayLike, included: ArrayLike, *, delta: float = 0.0, confidence: float = 0.95
) -> tuple[EpsilonBound, EpsilonBound]:
    """Return both bounds so that they hold at once with the confidence: the higher one may be quoted.

    Each is made at half the error, and says the confidence that it has alone.
    """
    alone = 1.0 - (1.0 - confidence) / 2.0
    return (
        clopper_pearson_bound(scores, included, delta=delta, confidence=alone),
        one_run_bound(scores, included, delta=delta, confidence=alone),
    )


def one_run_p_value(m: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the probability, at most, of as many right guesses under (epsilon, delta)-privacy.

    Parameters
    ----------
    m : int
        Canaries, each in or out by a fair coin.
    guesses, right : int
        Guesses on some of them, and how many were right.
    epsilon, delta : float
    """
    q = 1.0 / (1.0 + math.exp(-epsilon))
    if right == 0:
        return 1.0
    beta = float(betainc(right, guesses - right + 1, q))
    if delta == 0.0:
        return beta
    k = np.arange(right - 1, -1, -1)
    choices = gammaln(guesses + 1) - gammaln(k + 1) - gammaln(guesses - k + 1)
    below = np.cumsum(np.exp(choices + guesses * math.log(q) - (guesses - k) * epsilon))  # P[right > W >= right - i]
    alpha = float(np.max(below / np.arange(1, right + 1)))
    return min(beta + 2.0 * m * delta * alpha, 1.0)


def largest(bounds: Sequence[EpsilonBound]) -> EpsilonBound:
    """Return the highest of several bounds, which is valid where they hold at once."""
    return max(bounds, key=lambda bound: bound.value)


def with_lower_bound(
    promise: Privacy, bounds: Sequence[EpsilonBound], *, confidence: float, conditions: Mapping[str, Any] | None = None
) -> Privacy:
    """Return a promise with the highest of several bounds beside it.

    Parameters
    ----------
    promise : Privacy
        Of the same unit.
    bounds : sequence of EpsilonBound
        That hold at once, as those of `epsilon_bounds` do.
    confidence : float
        With which they do.
    conditions : mapping, optional
        What else was audited how; joined to the promise's own.

    Raises
    ------
    UserError
        Where the bound is for another delta: a bound at one delta says nothing of another.
    """
    best = largest(bounds)
    if promise.delta is not None and not math.isclose(promise.delta, best.delta):
        raise UserError(
            f"The promise of {promise.mechanism} is for delta {promise.delta:g}, the bound for {best.delta:g}: "
            "audit at the delta of the promise."
        )
    return replace(
        promise,
        epsilon_lower_bound=best.value,
        delta=best.delta,
        method=best.method,
        confidence=confidence,
        canaries=best.n_in + best.n_out,
        conditions={**promise.conditions, **(conditions or {})},
    )


# ------------------------------------------------------------------ parts


def _checked(scores: ArrayLike, included: ArrayLike, delta: float, confidence: float) -> tuple[Floats, Flags]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(included)
    if values.ndim != 1 or values.shape != flags.shape:
        raise UserError(f"Canaries: {values.shape} scores and {flags.shape} flags; each has one of both.")
    if flags.dtype != np.bool_:
        raise UserError(f"Canaries: whether each was in is told by booleans, not {flags.dtype}.")
    if np.isnan(values).any():
        raise UserError(f"Canaries: {int(np.isnan(values).sum())} of {len(values)} scores are no numbers.")
    if not 0.0 <= delta < 1.0:
        raise UserError(f"delta must be from 0 to below 1, not {delta}.")
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence must lie between 0 and 1, not {confidence}.")
    return values, flags


def _tests(ins: Floats, outs: Floats, thresholds: Floats) -> list[tuple[Floats, Floats, Floats]]:
    """Return what should lie at or above a threshold, what should not, and the thresholds, for both tests."""
    # Just below, mirrored: what the second test takes to be out is what the first does not take to be in.
    return [(ins, outs, thresholds), (-outs, -ins, -np.nextafter(thresholds, -np.inf))]


def _candidates(scores: Floats) -> Floats:
    """Return some of the scores: all where they are few, dense towards both ends where they are many."""
    found = np.unique(scores)
    if len(found) > _THRESHOLDS:
        ranks = np.unique(np.geomspace(1, len(found), _THRESHOLDS // 2).astype(np.int64)) - 1
        found = found[np.union1d(ranks, len(found) - 1 - ranks)]
    return found


def _by_threshold(hits: Floats, misses: Floats, thresholds: Floats, delta: float, error: float) -> Floats:
    """Return the bound that each threshold gives, below 0 where it proves nothing."""
    n, k = len(hits), len(misses)
    right = n - np.searchsorted(np.sort(hits), thresholds, side="left")
    wrong = k - np.searchsorted(np.sort(misses), thresholds, side="left")
    low = np.where(right == 0, 0.0, betaincinv(np.maximum(right, 1), n - right + 1, error))
    high = np.where(wrong == k, 1.0, betaincinv(wrong + 1, np.maximum(k - wrong, 1), 1.0 - error))
    return np.log(np.maximum(low - delta, 1e-300) / high)


def _least_epsilon(m: int, guesses: int, right: int, delta: float, error: float) -> float:
    """Return the least epsilon whose p-value exceeds the error, 0 where that is 0."""

    def rejected(epsilon: float) -> bool:
        return one_run_p_value(m, guesses, right, epsilon, delta) <= error

    if guesses == 0 or not rejected(0.0):
        return 0.0
    # From below, so that it is the first crossing: were there a second, the bound at that would not be valid.
    low, step = 0.0, 0.5
    while low + step <= _MOST and rejected(low + step):
        low += step
    high = low + step
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
