"""Classifiers at the end of an attack: from rows that represent updates to scores of classes, or to a number.

A head is fitted to several columns of labels at once, because the permutation control asks for the same rows under
many labels: ridge regression then factorises the rows once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

Floats = NDArray[np.float64]


class Fitted(Protocol):
    """What a head has learnt from p columns of labels."""

    def scores(self, rows: Floats) -> Floats:
        """Score rows (m, d): shape (p, m) for two classes (above 0 means the second) and numbers, else (p, m, k)."""
        ...


class Head(Protocol):
    """A classifier or regression, made with its settings."""

    def fit(self, rows: Floats, labels: NDArray[np.generic], classes: int) -> Fitted:
        """Learn from rows (n, d) and labels (p, n), class numbers below `classes`; numbers where `classes` is 0."""
        ...


def make_head(name: str, C: float) -> Head:
    """Make a head by name.

    Parameters
    ----------
    name : {"ridge", "lda", "logistic", "nearest-centroid"}
    C : float
        Inverse strength of the L2 penalty, positive; LDA shrinks its covariance by Ledoit and Wolf's rule instead, and
        the nearest centroid has nothing to penalise.

    Raises
    ------
    UserError
        For another name or a `C` that is not positive.
    """
    if not C > 0:
        raise UserError(f"C must be positive, not {C}")
    match name:
        case "ridge":
            return Ridge(C)
        case "lda":
            return Separate(lambda: _lda())
        case "logistic":
            return Separate(lambda: _logistic(C))
        case "nearest-centroid":
            return NearestCentroid()
    raise UserError(f"unknown classifier {name!r}; there are: ridge, lda, logistic, nearest-centroid")


class Ridge:
    """Regression of class indicators (or of a number) with an L2 penalty.

    For two classes its direction is that of linear discriminant analysis with a shrunken covariance, exactly: the
    covariance about the common mean differs from that about the class means by a multiple of the difference's outer
    product (Sherman and Morrison). More classes are told apart by the distance to the class means of the regression.

    Parameters
    ----------
    C : float
        Inverse penalty, on the scale of logistic regression's: at 0 the logistic loss has a quarter of the squared
        loss's curvature, so the penalty is ``4 / C``.
    """

    def __init__(self, C: float) -> None:
        self.C = C

    def fit(self, rows: Floats, labels: NDArray[np.generic], classes: int) -> Fitted:
        """Solve for all columns of labels with one factorisation."""
        from scipy.linalg import cho_factor, cho_solve

        rows = np.asarray(rows, dtype=np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        penalty = 4.0 / self.C
        targets = _targets(labels, classes)  # (n, p * columns), centred
        n, d = centred.shape
        if d <= n:
            factor = cho_factor(centred.T @ centred + penalty * np.eye(d), lower=True, overwrite_a=True)
            weights = cho_solve(factor, centred.T @ targets)
        else:
            factor = cho_factor(centred @ centred.T + penalty * np.eye(n), lower=True, overwrite_a=True)
            weights = centred.T @ cho_solve(factor, targets)
        if not classes:
            return _Regression(weights, mean, labels.mean(axis=1, dtype=np.float64))
        fitted = centred @ weights
        if classes == 2:
            means = _class_means(fitted[:, :, None], labels, 2)  # (p, 2, 1)
            return _Regression(weights, mean, -means.mean(axis=(1, 2)))
        shaped = fitted.reshape(n, len(labels), classes)
        return _Centroids(weights, mean, _class_means(shaped, labels, classes))


class NearestCentroid:
    """The class whose mean is nearest, in Euclidean distance; numbers are a matter of ridge regression."""

    def fit(self, rows: Floats, labels: NDArray[np.generic], classes: int) -> Fitted:
        """Take the classes' means."""
        if not classes:
            raise UserError("a numeric attribute is told by regression: use the classifier 'ridge'")
        mean = rows.mean(axis=0)
        member = (labels[:, None, :] == np.arange(classes)[:, None]).astype(np.float64)  # (p, classes, n)
        centres = member @ (rows - mean) / np.maximum(member.sum(axis=2, keepdims=True), 1.0)
        if classes > 2:
            return _Centroids(np.tile(np.eye(rows.shape[1]), len(labels)), mean, centres)
        weights = (centres[:, 1] - centres[:, 0]).T
        offsets = (np.square(centres[:, 0]) - np.square(centres[:, 1])).sum(axis=1) / 2
        return _Regression(weights, mean, offsets)


class Separate:
    """A scikit-learn classifier, fitted to each column of labels by itself; numbers are a matter of ridge regression.

    Parameters
    ----------
    make : callable
        Returns an unfitted classifier.
    """

    def __init__(self, make: object) -> None:
        self._make = make

    def fit(self, rows: Floats, labels: NDArray[np.generic], classes: int) -> Fitted:
        """Fit one classifier a column."""
        if not classes:
            raise UserError("a numeric attribute is told by regression: use the classifier 'ridge'")
        assert callable(self._make)
        return _Each([self._make().fit(rows, column) for column in labels], classes)


class _Regression:
    def __init__(self, weights: Floats, mean: Floats, offsets: Floats) -> None:
        self._weights, self._mean, self._offsets = weights, mean, offsets

    def scores(self, rows: Floats) -> Floats:
        found: Floats = ((rows - self._mean) @ self._weights + self._offsets).T
        return found


class _Centroids:
    def __init__(self, weights: Floats, mean: Floats, centres: Floats) -> None:
        self._weights, self._mean, self._centres = weights, mean, centres

    def scores(self, rows: Floats) -> Floats:
        p, _, columns = self._centres.shape
        fitted = ((rows - self._mean) @ self._weights).reshape(len(rows), p, columns)
        near = np.einsum("mpk,pck->pmc", fitted, self._centres)
        found: Floats = near - np.square(self._centres).sum(axis=2)[:, None, :] / 2
        return found


class _Each:
    def __init__(self, models: Sequence[object], classes: int) -> None:
        self._models, self._classes = models, classes

    def scores(self, rows: Floats) -> Floats:
        return np.stack([self._score(model, rows) for model in self._models])

    def _score(self, model: object, rows: Floats) -> Floats:
        found = np.asarray(model.decision_function(rows), dtype=np.float64)  # type: ignore[attr-defined]
        if self._classes == 2:
            return found
        # A class that no row of the training has scores lowest, wherever that is.
        whole = np.full((len(rows), self._classes), found.min() - 1.0)
        seen = model.classes_  # type: ignore[attr-defined]
        whole[:, seen] = np.stack([-found, found], axis=1) if found.ndim == 1 else found
        return whole


def _targets(labels: NDArray[np.generic], classes: int) -> Floats:
    if classes == 0:
        columns = labels.astype(np.float64).T
    elif classes == 2:
        columns = np.where(labels == 1, 1.0, -1.0).T
    else:
        columns = (labels[:, :, None] == np.arange(classes)).astype(np.float64).transpose(1, 0, 2)
        columns = columns.reshape(labels.shape[1], -1)
    centred: Floats = columns - columns.mean(axis=0)
    return centred


def _class_means(fitted: Floats, labels: NDArray[np.generic], classes: int) -> Floats:
    """Return the mean of each class, shape (p, classes, columns), from fitted values (n, p, columns)."""
    member = (labels[:, None, :] == np.arange(classes)[:, None]).astype(np.float64)  # (p, classes, n)
    counts = np.maximum(member.sum(axis=2), 1.0)
    means: Floats = np.einsum("pcn,npk->pck", member, fitted) / counts[:, :, None]
    return means


def _lda() -> object:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _EqualPriors(LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))


def _logistic(C: float) -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, class_weight="balanced", max_iter=2000)


class _EqualPriors:
    """Linear discriminant analysis that holds every class for equally likely."""

    def __init__(self, model: object) -> None:
        self._model = model

    def fit(self, rows: Floats, labels: NDArray[np.generic]) -> _EqualPriors:
        self.classes_ = np.unique(labels)
        self._model.set_params(priors=np.full(len(self.classes_), 1 / len(self.classes_)))  # type: ignore[attr-defined]
        self._model.fit(rows, labels)  # type: ignore[attr-defined]
        return self

    def decision_function(self, rows: Floats) -> Floats:
        found: Floats = self._model.decision_function(rows)  # type: ignore[attr-defined]
        return found
