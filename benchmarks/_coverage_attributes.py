"""Simulated coverage of the intervals for several classes and for numbers; rows of `python -m benchmarks coverage`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import intervals, metrics, numeric_intervals

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]
#: From a generator and the classes (n,) to scores (n, k).
Scores = Callable[[np.random.Generator, Indices], Floats]
#: From a generator and n to predictions and values (n,).
Pair = Callable[[np.random.Generator, int], tuple[Floats, Floats]]

CLASS_SIZES = ((5, 5, 5), (20, 20, 20), (5, 20, 8), (5, 5, 5, 5, 5), (20, 20, 20, 20, 20))
SPEAKERS = (5, 12, 24, 45)
DISTANCES = (0.0, 0.7, 1.5, 2.5, 4.0)
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)

NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1.0,
    "t with 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
}


def independent(k: int, distance: float, noise: Noise) -> Scores:
    """The score of the true class is `distance` higher; all have noise."""
    return lambda rng, codes: noise(rng, (codes.size, k)) + distance * np.eye(k)[codes]


def uneven(k: int, distance: float, noise: Noise) -> Scores:
    """Log-likelihoods of points around means that are from .3 to 2 times as far out, so that classes differ."""
    means = distance * np.diag(np.linspace(0.3, 2.0, k))

    def scores(rng: np.random.Generator, codes: Indices) -> Floats:
        points = means[codes] + noise(rng, (codes.size, k))
        found: Floats = points @ means.T - 0.5 * np.square(means).sum(axis=1)
        return found if distance else noise(rng, (codes.size, k))

    return scores


def lost(k: int, distance: float, noise: Noise) -> Scores:
    """A fifth of the speakers say nothing at all; the others are as in `independent`, three times as far out."""

    def scores(rng: np.random.Generator, codes: Indices) -> Floats:
        heard = 3 * distance * (rng.random(codes.size) > 0.2)
        return noise(rng, (codes.size, k)) + heard[:, None] * np.eye(k)[codes]

    return scores


MODELS = {"independent": independent, "uneven classes": uneven, "a fifth lost": lost}


@cache
def true_hand_till(k: int, distance: float, model: str, noise: str) -> float:
    """The AUC of endless speakers, from 20,000 a class."""
    scores = MODELS[model](k, distance, NOISES[noise])
    codes = np.repeat(np.arange(k), 20_000)
    return metrics.hand_till(scores(np.random.default_rng(0), codes), codes)


def hand_till_coverage(sizes: Sequence[int], distance: float, model: str, noise: str, repeats: int) -> float:
    """Coverage of `hand_till_interval` with as many speakers of each class as `sizes` says."""
    k = len(sizes)
    codes, scores = np.repeat(np.arange(k), sizes), MODELS[model](k, distance, NOISES[noise])
    rng = np.random.default_rng([6, *sizes])
    found = (intervals.hand_till_interval(scores(rng, codes), codes) for _ in range(repeats))
    return _covered(found, true_hand_till(k, distance, model, noise))


def hand_till_difference_coverage(sizes: Sequence[int], a: float, b: float, correlation: float, repeats: int) -> float:
    """Coverage of the difference of two such AUCs whose noise is correlated."""
    k = len(sizes)
    codes, rng = np.repeat(np.arange(k), sizes), np.random.default_rng([7, *sizes])
    truth = true_hand_till(k, a, "independent", "normal") - true_hand_till(k, b, "independent", "normal")

    def interval() -> tuple[float, float]:
        first, second = rng.normal(size=(2, codes.size, k))
        second = correlation * first + math.sqrt(1 - correlation**2) * second
        clear = np.eye(k)[codes]
        return intervals.hand_till_difference_interval(first + a * clear, second + b * clear, codes)

    return _covered((interval() for _ in range(repeats)), truth)


def candidates_coverage(k: int, distance: float, unequal: float, repeats: int) -> float:
    """Coverage of the same AUC with one speaker a class, some far clearer than others."""

    def scores(rng: np.random.Generator, n: int) -> Floats:
        clear = distance * np.exp(unequal * rng.normal(size=n))
        return np.asarray(rng.normal(size=(n, n)) + np.diag(clear))

    large = np.random.default_rng(1)
    truth = float(np.mean([metrics.hand_till(scores(large, 100), np.arange(100)) for _ in range(400)]))
    rng = np.random.default_rng([8, k])
    return _covered((intervals.hand_till_interval(scores(rng, k), np.arange(k)) for _ in range(repeats)), truth)


def mean_recall_coverage(sizes: Sequence[int], recall: float, spread: float, repeats: int) -> float:
    """Coverage of the mean of recalls that lie up to `spread` around `recall`."""
    rng = np.random.default_rng([9, *sizes])
    recalls = np.clip(recall + spread * np.linspace(-1, 1, len(sizes)), 0.0, 1.0)

    def interval() -> tuple[float, float]:
        right = rng.binomial(sizes, recalls)
        return intervals.mean_recall_interval([np.arange(n) < hits for n, hits in zip(sizes, right, strict=True)])

    return _covered((interval() for _ in range(repeats)), float(recalls.mean()))


def linear(correlation: float, values: Noise, error: Noise, growing: bool = False) -> Pair:
    """Predictions are the values, scaled, with errors: where `growing`, larger the further a value is from the mean."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        truth = values(rng, (n,))
        errors = error(rng, (n,)) * (np.abs(truth) if growing else 1.0)
        return correlation * truth + math.sqrt(1 - correlation**2) * errors, truth

    return draw


def _years(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.asarray((rng.integers(20, 75, size=shape) - 47.0) / 15.9)


def _groups(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.asarray((rng.integers(0, 3, size=shape) - 1) * math.sqrt(1.5))


NUMBERS: dict[str, Callable[[float], Pair]] = {
    "normal": lambda r: linear(r, NOISES["normal"], NOISES["normal"]),
    "years": lambda r: linear(r, _years, NOISES["normal"]),
    "three groups": lambda r: linear(r, _groups, NOISES["normal"]),
    "skewed values": lambda r: linear(r, NOISES["exponential"], NOISES["normal"]),
    "skewed errors": lambda r: linear(r, NOISES["normal"], NOISES["exponential"]),
    "growing errors": lambda r: linear(r, _years, NOISES["normal"], growing=True),
}
#: Errors whose fourth moment is infinite, which no interval from few speakers covers: shown without an aim.
HEAVY = {"t with 3 degrees": lambda r: linear(r, NOISES["normal"], NOISES["t with 3 degrees"])}


def number_coverage(metric: str, n: int, correlation: float, shape: str, repeats: int) -> float:
    """Coverage of the interval of a metric of `fl_privacy.audit.NumericAudit` for n speakers."""
    draw = (NUMBERS | HEAVY)[shape](correlation)
    truth = _true_number("correlation" if metric == "fisher" else metric, correlation, shape)
    rng = np.random.default_rng([10, n])

    def found() -> Iterable[tuple[float, float]]:
        for _ in range(repeats):
            predictions, values = draw(rng, n)
            ends = INTERVALS[metric](predictions, values) if np.ptp(values) else None
            if ends is not None:
                yield ends

    return _covered(found(), truth)


@cache
def _true_number(metric: str, correlation: float, shape: str) -> float:
    predictions, values = (NUMBERS | HEAVY)[shape](correlation)(np.random.default_rng(0), 300_000)
    return float(getattr(metrics, "pearson" if metric == "correlation" else metric)(predictions, values))


def _fisher(predictions: Floats, values: Floats) -> tuple[float, float]:
    """The rival: Fisher's z with the variance of normal numbers."""
    z = math.atanh(metrics.pearson(predictions, values) * (1 - 1e-12))
    half = 1.959964 / math.sqrt(values.size - 3)
    return math.tanh(z - half), math.tanh(z + half)


INTERVALS: dict[str, Callable[[Floats, Floats], tuple[float, float] | None]] = {
    "correlation": numeric_intervals.correlation_interval,
    "spearman": lambda x, y: numeric_intervals.correlation_interval(x, y, by_rank=True),
    "mean_absolute_error": numeric_intervals.absolute_error_interval,
    "r_squared": numeric_intervals.r_squared_interval,
    "fisher": _fisher,
}


def number_difference_coverage(n: int, a: float, b: float, shared: float, repeats: int) -> float:
    """Coverage of the difference of two correlations with normal values; errors are correlated by `shared`."""
    rng = np.random.default_rng([11, n])

    def interval() -> tuple[float, float]:
        values, first, second = rng.normal(size=(3, n))
        second = shared * first + math.sqrt(1 - shared**2) * second
        mine, theirs = (r * values + math.sqrt(1 - r**2) * error for r, error in ((a, first), (b, second)))
        return numeric_intervals.correlation_difference_interval(mine, theirs, values)

    return _covered((interval() for _ in range(repeats)), a - b)


def _covered(found: Iterable[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in found]))
