"""How often the audit's intervals contain the truth, from 5 + 5 to 45 + 45 speakers and AUC .5 to 1, classes, numbers.

A row's ratio is the least coverage over the shapes of score distribution that were simulated. Proportions and recalls
are enumerated exactly. The rival, where one is shown, is the percentile bootstrap over speakers within class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom, norm

from benchmarks import _coverage_attributes as attributes
from benchmarks._result import Result, Row
from fl_privacy.audit import intervals

Floats = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], Floats]

AIM = 0.93
SIZES = ((5, 5), (10, 9), (12, 12), (15, 15), (20, 20), (45, 45), (5, 20), (20, 5))
VALUES = (0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
PAIRS = ((0.5, 0.5), (0.7, 0.5), (0.7, 0.7), (0.9, 0.7), (0.95, 0.95), (0.99, 0.9), (1.0, 0.9))
TPR_SIZES = ((20, 100), (45, 200), (100, 100))
SEPARATED = 1e3


def binormal(auc: float, spread: float = 1.0) -> tuple[Sampler, Sampler]:
    """Normal scores, the positives' standard deviation `spread` times the negatives'."""
    shift = SEPARATED if auc == 1 else float(ndtri(auc)) * math.hypot(1.0, spread)
    return lambda rng, n: rng.normal(shift, spread, n), lambda rng, n: rng.normal(size=n)


def scaled_exponential(auc: float) -> tuple[Sampler, Sampler]:
    """Exponential scores with different means."""
    scale = 1e12 if auc == 1 else auc / (1 - auc)
    return lambda rng, n: scale * rng.exponential(size=n), lambda rng, n: rng.exponential(size=n)


def shifted_exponential(auc: float) -> tuple[Sampler, Sampler]:
    """Exponential scores with a shift: skewed, with a sharp lower end."""
    shift = SEPARATED if auc == 1 else -math.log(2 * (1 - auc))
    return lambda rng, n: shift + rng.exponential(size=n), lambda rng, n: rng.exponential(size=n)


def mirrored_exponential(auc: float) -> tuple[Sampler, Sampler]:
    """The same with a sharp upper end."""
    shift = SEPARATED if auc == 1 else -math.log(2 * (1 - auc))
    return lambda rng, n: shift - rng.exponential(size=n), lambda rng, n: -rng.exponential(size=n)


SHAPES: dict[str, Callable[[float], tuple[Sampler, Sampler]]] = {
    "normal": binormal,
    "normal, spreads 2 to 1": lambda auc: binormal(auc, 2.0),
    "exponential, scaled": scaled_exponential,
    "exponential, shifted": shifted_exponential,
    "exponential, mirrored": mirrored_exponential,
}


def covered(found: Iterable[tuple[float, float]], truth: float) -> float:
    """Share of intervals that contain the truth, up to rounding."""
    return float(np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in found]))


def auc_coverage(m: int, n: int, auc: float, shape: str, repeats: int, seed: int = 0) -> float:
    """Coverage of `auc_interval` for m + n speakers with one score each."""
    rng = np.random.default_rng([seed, m, n])
    positive, negative = SHAPES[shape](auc)
    return covered((intervals.auc_interval(positive(rng, m), negative(rng, n)) for _ in range(repeats)), auc)


def bootstrap_coverage(m: int, n: int, auc: float, shape: str, repeats: int, resamples: int = 500) -> float:
    """Coverage of the percentile bootstrap in the same setting."""
    rng = np.random.default_rng([1, m, n])
    positive, negative = SHAPES[shape](auc)
    first = rng.multinomial(m, np.full(m, 1 / m), resamples) / m
    second = rng.multinomial(n, np.full(n, 1 / n), resamples) / n

    def interval() -> tuple[float, float]:
        wins = (positive(rng, m)[:, None] > negative(rng, n)).astype(np.float64)
        low, high = np.quantile(((first @ wins) * second).sum(axis=1), [0.025, 0.975])
        return float(low), float(high)

    return covered((interval() for _ in range(repeats)), auc)


def update_coverage(speakers: int, rows: int, share: float, auc: float, repeats: int) -> float:
    """Coverage of the AUC over rows, with `share` of the variance between speakers."""
    rng = np.random.default_rng([2, speakers, rows])
    shift = float(ndtri(auc)) * math.sqrt(2)
    groups = np.repeat(np.arange(speakers), rows)

    def scores() -> Floats:
        return math.sqrt(share) * rng.normal(size=speakers)[groups] + math.sqrt(1 - share) * rng.normal(
            size=groups.size
        )

    return covered((intervals.auc_interval(scores() + shift, scores(), groups, groups) for _ in range(repeats)), auc)


def difference_coverage(m: int, n: int, a: float, b: float, correlation: float, repeats: int) -> float:
    """Coverage of the paired difference of two AUCs, normal scores correlated within class."""
    rng = np.random.default_rng([3, m, n])

    def pair(count: int) -> tuple[Floats, Floats]:
        first = rng.normal(size=count)
        return first, correlation * first + math.sqrt(1 - correlation**2) * rng.normal(size=count)

    shifts = [SEPARATED if auc == 1 else float(ndtri(auc)) * math.sqrt(2) for auc in (a, b)]

    def interval() -> tuple[float, float]:
        (a_positive, b_positive), (a_negative, b_negative) = pair(m), pair(n)
        return intervals.difference_interval(a_positive + shifts[0], a_negative, b_positive + shifts[1], b_negative)

    return covered((interval() for _ in range(repeats)), a - b)


def uar_coverage(m: int, n: int, recall: float, gap: float) -> float:
    """Exact coverage of the mean of two recalls that are `gap` apart."""
    recalls = np.clip([recall + gap / 2, recall - gap / 2], 0.0, 1.0)
    truth = float(recalls.mean())
    chance = [binom.pmf(np.arange(size + 1), size, rate) for size, rate in zip((m, n), recalls, strict=True)]
    total = 0.0
    for x in range(m + 1):
        for y in range(n + 1):
            low, high = intervals.uar_interval(np.arange(m) < x, np.arange(n) < y)
            total += float(chance[0][x] * chance[1][y]) * (low - 1e-12 <= truth <= high + 1e-12)
    return total


def proportion_coverage(n: int, rate: float) -> float:
    """Exact coverage of a proportion of n speakers."""
    inside = [low - 1e-12 <= rate <= high + 1e-12 for low, high in map(intervals.proportion_interval, _outcomes(n))]
    return float(binom.pmf(np.arange(n + 1), n, rate) @ np.array(inside))


def _outcomes(n: int) -> Iterator[NDArray[np.bool_]]:
    return (np.arange(n) < hits for hits in range(n + 1))


def tpr_coverage(m: int, n: int, auc: float, repeats: int, fpr: float = 0.01) -> float:
    """Coverage of the true positive rate at the population's threshold, normal scores."""
    rng = np.random.default_rng([4, m, n])
    shift = float(ndtri(auc)) * math.sqrt(2)
    found = (intervals.tpr_interval(rng.normal(shift, 1, m), rng.normal(size=n), fpr) for _ in range(repeats))
    return covered(found, float(norm.sf(norm.isf(fpr) - shift)))


def eer_coverage(m: int, n: int, auc: float, spread: float, repeats: int) -> float:
    """Coverage of the equal error rate, normal scores."""
    rng = np.random.default_rng([5, m, n])
    positive, negative = binormal(auc, spread)
    shift = SEPARATED if auc == 1 else float(ndtri(auc)) * math.hypot(1.0, spread)
    found = (intervals.eer_interval(positive(rng, m), negative(rng, n)) for _ in range(repeats))
    return covered(found, float(norm.sf(shift / (1 + spread))))


def _row(
    case: str, by_shape: dict[str, float], rival: float | None = None, named: str = "percentile bootstrap over speakers"
) -> Row:
    worst = min(by_shape, key=lambda shape: by_shape[shape])
    least = by_shape[worst]
    name = None if rival is None else named
    extra = {"worst_case": worst, "coverage": by_shape}
    return Row(case, least, rival, name, "fraction", least, AIM, "at_least", extra)


def run(full: bool) -> Result:
    """Simulate all cells; `full` repeats each five times as often."""
    repeats = 10_000 if full else 2_000
    rows = []
    for m, n in SIZES:
        for auc in VALUES:
            found = {shape: auc_coverage(m, n, auc, shape, repeats) for shape in SHAPES}
            rival = None
            if min(m, n) >= 15 and auc < 1:
                rival = min(bootstrap_coverage(m, n, auc, shape, repeats // 10) for shape in SHAPES)
            rows.append(_row(f"auc, {m} + {n} speakers, at {auc:g}", found, rival))
    for speakers in (5, 12, 20):
        for auc in VALUES[:-1]:
            found = {
                f"{share:g} of the variance between speakers": update_coverage(speakers, 10, share, auc, repeats // 4)
                for share in (0.1, 0.5, 0.9)
            }
            rows.append(_row(f"auc over 10 updates a speaker, {speakers} + {speakers} speakers, at {auc:g}", found))
    for m, n in SIZES:
        for a, b in PAIRS:
            found = {
                f"correlation {correlation:g}": difference_coverage(m, n, a, b, correlation, repeats // 2)
                for correlation in (0.0, 0.5, 0.9)
            }
            rows.append(_row(f"difference of auc, {m} + {n} speakers, {a:g} against {b:g}", found))
    for m, n in SIZES:
        for value in VALUES:
            gaps = (0.0, min(0.1, 2 * (1 - value)))
            found = {f"recalls {gap:.2g} apart": uar_coverage(m, n, value, gap) for gap in gaps}
            rows.append(_row(f"uar, {m} + {n} speakers, at {value:g}", found))
    for size in sorted({m + n for m, n in SIZES}):
        for value in VALUES:
            rows.append(_row(f"accuracy, {size} speakers, at {value:g}", {"exact": proportion_coverage(size, value)}))
    for m, n in TPR_SIZES:
        for auc in VALUES[1:-1]:
            found = {"normal": tpr_coverage(m, n, auc, repeats // 2)}
            rows.append(_row(f"tpr at fpr 0.01, {m} + {n} speakers, at auc {auc:g}", found))
    for m, n in SIZES:
        for auc in VALUES:
            found = {f"spread {spread:g}": eer_coverage(m, n, auc, spread, repeats // 4) for spread in (1.0, 2.0)}
            rows.append(_row(f"eer, {m} + {n} speakers, at auc {auc:g}", found))
    rows += _of_several_classes(repeats // 4)
    rows += _of_numbers(repeats // 2)
    return Result("coverage", tuple(rows))


def _of_several_classes(repeats: int) -> Iterator[Row]:
    for sizes in attributes.CLASS_SIZES:
        named = " + ".join(map(str, sizes))
        for distance in attributes.DISTANCES:
            by_shape = {
                f"{model}, {noise}": attributes.hand_till_coverage(sizes, distance, model, noise, repeats)
                for model in attributes.MODELS
                for noise in attributes.NOISES
            }
            yield _row(f"auc of classes, {named} speakers, at distance {distance:g}", by_shape)
        for a, b in itertools.pairwise(attributes.DISTANCES):
            by_shape = {
                f"correlation {c:g}": attributes.hand_till_difference_coverage(sizes, b, a, c, repeats)
                for c in (0.0, 0.5, 0.9)
            }
            yield _row(f"difference of auc of classes, {named} speakers, at distances {b:g} and {a:g}", by_shape)
        for recall in VALUES[:-1]:
            by_shape = {
                f"recalls up to {spread:.2g} off": attributes.mean_recall_coverage(sizes, recall, spread, repeats)
                for spread in (0.0, min(0.2, 1 - recall))
            }
            yield _row(f"uar of classes, {named} speakers, at {recall:g}", by_shape)
    for k in (5, 12, 24):
        for distance in attributes.DISTANCES:
            by_shape = {
                f"clearness spread {u:g}": attributes.candidates_coverage(k, distance, u, repeats) for u in (0.0, 1.0)
            }
            yield _row(f"auc of candidates, {k} speakers, at distance {distance:g}", by_shape)


def _of_numbers(repeats: int) -> Iterator[Row]:
    for metric in ("correlation", "spearman", "mean_absolute_error", "r_squared"):
        for n in attributes.SPEAKERS:
            for r in attributes.CORRELATIONS:
                case = f"{metric}, {n} speakers, predictions correlated {r:g}"
                found = {s: attributes.number_coverage(metric, n, r, s, repeats) for s in attributes.NUMBERS}
                rival = None
                if metric == "correlation":
                    rival = min(attributes.number_coverage("fisher", n, r, s, repeats) for s in attributes.NUMBERS)
                yield _row(case, found, rival, "Fisher's z with the variance of normal numbers")
                for shape in attributes.HEAVY:
                    covers = attributes.number_coverage(metric, n, r, shape, repeats)
                    yield Row(f"{case}, {shape}", covers, None, None, "fraction", covers, None, "at_least")
    for n in attributes.SPEAKERS:
        for a, b in ((0.0, 0.0), (0.6, 0.3), (0.9, 0.6), (0.9, 0.9)):
            found = {
                f"errors correlated {c:g}": attributes.number_difference_coverage(n, a, b, c, repeats)
                for c in (0.0, 0.5, 0.9)
            }
            yield _row(f"difference of correlations, {n} speakers, {a:g} against {b:g}", found)
