"""Point values of an attack's success: exact, with ties counted as they should be, and without intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

Floats = NDArray[np.float64]

FPRS = (0.01, 0.001)
"""False positive rates at which a claim gives the true positive rate."""

# Rows that are all compared with all at once, which is the quickest where it fits.
_FEW = 400


@dataclass(frozen=True)
class TprAtFpr:
    """A true positive rate at a bounded false positive rate.

    Attributes
    ----------
    value : float or None
        Fraction of positives above the threshold; None where the negatives are too few to resolve the rate.
    threshold : float or None
        An observation is accepted when its score is *greater* than this.
    reason : str or None
        Why there is no value.
    """

    value: float | None
    threshold: float | None
    reason: str | None = None


def as_scores(scores: ArrayLike, what: str) -> Floats:
    """Scores as a flat float64 array, refused when empty or not finite.

    Parameters
    ----------
    scores : array_like, shape (n,)
    what : str
        What the scores are, for the message.

    Raises
    ------
    UserError
        When there are none, they are not one-dimensional, or one is NaN or infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise UserError(f"{what} must be a non-empty list of numbers; got an array of shape {values.shape}.")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise UserError(f"{what}: {bad.size} of {values.size} are NaN or infinite, the first at index {bad[0]}.")
    return values


def as_table(scores: ArrayLike, what: str) -> Floats:
    """Scores as a float64 array of rows and columns, refused when empty or not finite.

    Parameters
    ----------
    scores : array_like, shape (n, k)
    what : str
        What the scores are, for the message.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise UserError(f"{what} must be rows of numbers, a column for each class; got shape {values.shape}.")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise UserError(f"{what}: {bad.size} of {len(values)} rows are NaN or infinite, the first at index {bad[0]}.")
    return values


def auc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """Probability that a positive scores above a negative, a tie counting one half (Mann-Whitney).

    Parameters
    ----------
    positive_scores, negative_scores : array_like, shapes (m,) and (n,)
        Higher means more positive.

    Returns
    -------
    float
        In [0, 1].
    """
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    ordered = np.sort(negative)
    # Twice the count is a whole number, so that auc(p, n) and 1 - auc(n, p) agree to the last bit.
    twice = int(np.searchsorted(ordered, positive, "left").sum() + np.searchsorted(ordered, positive, "right").sum())
    return twice / (2 * positive.size * negative.size)


def share_below(scores: Floats, others: Floats) -> Floats:
    """Share of the others that lie below each score, one at the same place counting one half; unchecked.

    Of a positive's score among the negatives' it is the positive's placement value: their mean is `auc`.

    Parameters
    ----------
    scores, others : ndarray, shapes (m,) and (n,)

    Returns
    -------
    ndarray, shape (m,)
    """
    ordered = np.sort(others)
    twice = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(twice / (2.0 * others.size))


def hand_till(scores: ArrayLike, codes: ArrayLike) -> float:
    """AUC of k classes: how well a speaker of one class is told from one of another, over all pairs of classes.

    The mean, over the pairs of classes that occur, of the AUC of score[i] - score[j] between rows of class i and rows
    of class j: the M of Hand and Till (2001) with the evidence for one class *against* the other in the place of their
    probability of one, so that what is added to all scores of a row does not matter. Chance is .5; the shares of the
    classes do not matter; two classes give `auc`; classes may have one row each.

    Parameters
    ----------
    scores : array_like, shape (n, k)
        Evidence for each class, as log-probabilities.
    codes : array_like of int, shape (n,)
        The column of each row's class.

    Raises
    ------
    UserError
        When shapes do not fit, a score is not finite, or fewer than two classes occur.
    """
    table, truth = as_table(scores, "scores"), np.asarray(codes)
    if truth.shape != table.shape[:1] or truth.min() < 0 or truth.max() >= table.shape[1]:
        raise UserError(f"codes must be {len(table)} columns of scores, from 0 to {table.shape[1] - 1}.")
    if np.all(truth == truth[0]):
        raise UserError("An AUC needs at least two classes that occur.")
    placements = hand_till_placements(table, truth)
    sizes = np.bincount(truth)
    means = np.bincount(truth, weights=placements)[sizes > 0] / sizes[sizes > 0]
    # Equal counts of pairs won are equal AUCs, in whichever order they were added.
    return round(float(means.mean()), 12)


def hand_till_placements(scores: Floats, codes: NDArray[np.int64]) -> Floats:
    """For each row the share of rows of the other classes that it is told from, a mean over those classes; unchecked.

    Parameters
    ----------
    scores : ndarray, shape (n, k)
    codes : ndarray of int, shape (n,)
    """
    classes, ranks, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    if codes.size <= _FEW:
        margins = scores[np.arange(codes.size), codes][:, None] - scores[:, codes]
        won = (margins > -margins.T) + 0.5 * (margins == -margins.T)
        weights = (ranks[:, None] != ranks) / sizes[ranks]
        return np.asarray((won * weights).sum(axis=1) / (classes.size - 1))
    rows = [np.flatnonzero(codes == c) for c in classes]
    total = np.zeros(codes.size)
    for i, mine in enumerate(rows):
        for j, theirs in enumerate(rows):
            if i != j:
                margin, others = (scores[w, classes[i]] - scores[w, classes[j]] for w in (mine, theirs))
                total[mine] += share_below(margin, others)
    return total / (classes.size - 1)


def ranks_of_truth(scores: Floats, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many classes score above each row's true one, and how many as high (itself among them).

    Parameters
    ----------
    scores : ndarray, shape (n, k)
    codes : ndarray of int, shape (n,)
    """
    own = scores[np.arange(codes.size), codes][:, None]
    return (scores > own).sum(axis=1), (scores == own).sum(axis=1)


def among_best(scores: Floats, codes: NDArray[np.int64], best: int = 1) -> Floats:
    """Whether each row's true class is among the `best` highest scores; a tie shares the places there are.

    Parameters
    ----------
    scores : ndarray, shape (n, k)
    codes : ndarray of int, shape (n,)
    best : int

    Returns
    -------
    ndarray of float, shape (n,)
        From 0 to 1.
    """
    above, equal = ranks_of_truth(scores, codes)
    return np.clip((best - above) / equal, 0.0, 1.0)


def roc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> tuple[Floats, Floats]:
    """ROC curve with one point for each distinct score, from (0, 0) to (1, 1).

    Returns
    -------
    fpr, tpr : ndarray, shape (distinct scores + 1,)
        Not decreasing. Tied scores of both classes give a slanted segment.
    """
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    above = [
        1.0 - np.searchsorted(np.sort(scores), thresholds, "left") / scores.size for scores in (negative, positive)
    ]
    fpr, tpr = (np.concatenate([[0.0], rates]) for rates in above)
    return fpr, tpr


def tpr_at_fpr(positive_scores: ArrayLike, negative_scores: ArrayLike, fpr: float) -> TprAtFpr:
    """Largest true positive rate among thresholds whose empirical false positive rate is at most `fpr`.

    The threshold comes from the negatives alone; no interpolation. With fewer than 1 / `fpr` negatives the rate
    cannot be told from zero, and the value is None with a reason (Carlini et al., 2022, section III).

    Raises
    ------
    UserError
        When `fpr` is not strictly between 0 and 1.
    """
    if not 0.0 < fpr < 1.0:
        raise UserError(f"fpr must lie strictly between 0 and 1; got {fpr}.")
    positive, negative = as_scores(positive_scores, "positive scores"), as_scores(negative_scores, "negative scores")
    # The slack keeps products such as 0.01 * 300 from falling just under the whole number they stand for.
    allowed = math.floor(fpr * negative.size + 1e-9)
    if allowed < 1:
        needed = math.ceil(1.0 / fpr - 1e-9)
        return TprAtFpr(None, None, f"{negative.size} negatives cannot resolve it: at least {needed} are needed")
    threshold = float(np.sort(negative)[::-1][allowed])
    return TprAtFpr(float(np.mean(positive > threshold)), threshold)


def eer(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """Equal error rate: where false positive and false negative rates meet on the ROC, linear between its points."""
    fpr, tpr = roc(positive_scores, negative_scores)
    excess = fpr - (1.0 - tpr)
    after = int(np.argmax(excess >= 0.0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def _paired(predicted: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    given, truth = np.asarray(predicted), np.asarray(labels)
    if given.shape != truth.shape or truth.ndim != 1 or truth.size == 0:
        raise UserError(f"predicted and labels must be equally long lists; got shapes {given.shape} and {truth.shape}.")
    return given, truth


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of predictions that equal their label."""
    given, truth = _paired(predicted, labels)
    return float(np.mean(given == truth))


def uar(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Unweighted average recall: the mean, over the labels that occur, of the fraction predicted rightly."""
    given, truth = _paired(predicted, labels)
    return float(np.mean([np.mean(given[truth == label] == label) for label in np.unique(truth)]))


def pearson(predictions: ArrayLike, values: ArrayLike) -> float:
    """Pearson's correlation; 0 where either does not vary, since what is the same for all tells nothing.

    Parameters
    ----------
    predictions, values : array_like, shape (n,)
    """
    x, y = _numbers(predictions, values)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    # Scaled first, so that no product under- or overflows.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    found = float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
    return min(max(round(found, 12), -1.0), 1.0)


def spearman(predictions: ArrayLike, values: ArrayLike) -> float:
    """Spearman's correlation: Pearson's of the ranks."""
    x, y = _numbers(predictions, values)
    return pearson(ranks(x), ranks(y))


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[codes])


def mean_absolute_error(predictions: ArrayLike, values: ArrayLike) -> float:
    """Mean distance of the predictions from the values, in their unit."""
    x, y = _numbers(predictions, values)
    return float(np.abs(x - y).mean())


def r_squared(predictions: ArrayLike, values: ArrayLike) -> float:
    """Share of the values' variance that predictions tell: 0 for always guessing the mean, below for worse, 1 at most.

    Raises
    ------
    UserError
        Where all values are the same.
    """
    x, y = _numbers(predictions, values)
    if np.ptp(y) == 0:
        raise UserError("All values are the same: there is nothing to predict.")
    return 1.0 - float(np.square(x - y).sum() / np.square(y - y.mean()).sum())


def _numbers(predictions: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    x, y = as_scores(predictions, "predictions"), as_scores(values, "values")
    if x.shape != y.shape:
        raise UserError(f"{x.size} predictions, but {y.size} values: give one for each.")
    return x, y


def majority(labels: ArrayLike) -> float:
    """Accuracy of always guessing the commonest label.

    Parameters
    ----------
    labels : array_like, shape (n,)
        One for each unit.
    """
    names = np.asarray(labels)
    if names.ndim != 1 or names.size == 0:
        raise UserError(f"labels must be a non-empty list; got an array of shape {names.shape}.")
    return float(np.unique(names, return_counts=True)[1].max() / names.size)
