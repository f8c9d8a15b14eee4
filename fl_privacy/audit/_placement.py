"""AUC with its variance from speakers' placement values: what the intervals of an AUC and of a difference stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from ..errors import UserError
from ._pulls import Pulled
from .metrics import Floats, as_scores, auc, hand_till_placements, share_below

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
    def of(cls, groups: ArrayLike | None, n_rows: int, what: str, least: int = 2) -> Clusters:
        """Gather `n_rows` rows by their speakers; None makes each row a speaker of its own."""
        if groups is None:
            codes = np.arange(n_rows, dtype=np.int64)
        else:
            names = np.asarray(groups)
            if names.shape != (n_rows,):
                raise UserError(f"{what}: {n_rows} scores, but groups of shape {names.shape}.")
            codes = np.unique(names, return_inverse=True)[1].astype(np.int64)
        sizes = np.bincount(codes).astype(np.float64)
        if sizes.size < least:
            raise UserError(f"{what}: an interval needs at least {least} speakers a class; got {sizes.size}.")
        return cls(codes, sizes)


@dataclass(frozen=True)
class Placed(Pulled):
    """An AUC and how far each speaker pulls it (its placement values less their mean).

    The covariances are DeLong's (1988), in the form of Obuchowski (1997) where speakers have several rows.

    Attributes
    ----------
    effective : tuple of float
        Kish's effective number of speakers of each class.
    """

    effective: tuple[float, ...]


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
    first = Clusters.of(positive_groups, positive.size, "positive scores")
    second = Clusters.of(negative_groups, negative.size, "negative scores")
    placements = share_below(positive, negative), 1.0 - share_below(negative, positive)
    pulls = tuple(_pull(p, value, c) for p, c in zip(placements, (first, second), strict=True))
    return Placed(value, pulls, (first.effective, second.effective))


def place_classes(scores: Floats, codes: Indices, groups: ArrayLike | None = None) -> Placed:
    """Hand and Till's AUC of k classes over rows with each speaker's pull on it.

    Speakers who are the only one of their class form one stratum together, so that they have a spread (collapsed
    strata; Cochran, 1977, section 5A.12).

    Parameters
    ----------
    scores : ndarray, shape (n, k)
    codes : ndarray of int, shape (n,)
        The class of each row.
    groups : array_like, shape (n,), optional
        The speaker of each row.
    """
    placements = hand_till_placements(scores, codes)
    names = np.arange(codes.size) if groups is None else np.asarray(groups)
    parts = [(placements[codes == c], names[codes == c]) for c in np.unique(codes)]
    clusters = [Clusters.of(who, rows.size, "scores", least=1) for rows, who in parts]
    means = [float(rows.mean()) for rows, _ in parts]
    value, k = round(float(np.mean(means)), 12), len(parts)
    pulls: list[Floats] = []
    alone: list[float] = []
    for (rows, _), mean, cluster in zip(parts, means, clusters, strict=True):
        if cluster.count == 1:
            alone.append(mean)
        else:
            pulls.append(_pull(rows, mean, cluster) * 2 / k)
    if alone:
        pulls.append((np.array(alone) - (np.mean(alone) if len(alone) > 1 else value)) * 2 / k)
    return Placed(value, tuple(pulls), tuple(cluster.effective for cluster in clusters))


def _pull(placements: Floats, expected: float, clusters: Clusters) -> Floats:
    return np.bincount(clusters.codes, weights=placements - expected) / placements.size


def _hanley_mcneil(theta: float, effective: Sequence[float]) -> float:
    """Variance of an AUC of `theta`; of two classes, m and n, exactly Newcombe's (2006, method 5).

    Of k classes it is that of two equal classes with as many speakers in all, times the effect of unequal sizes: the
    variance where the placements of a speaker against all other classes agree, which is the most it can be.
    """
    total = sum(effective)
    harmonic = len(effective) ** 2 / sum(1.0 / n for n in effective)
    balanced = total / 2 - 1
    spread = 1 + balanced * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * spread / (harmonic * total / 4)


def placed_interval(placed: Placed, confidence: float, least: float = 1.0) -> tuple[float, float]:
    """The score interval that `fl_privacy.audit.intervals.auc_interval` describes.

    Parameters
    ----------
    placed : Placed
    confidence : float
    least : float
        The smallest share of the Hanley-McNeil variance that the speakers' own spread may bring it down to.
    """
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence must lie strictly between 0 and 1; got {confidence}.")
    value = placed.value
    scale = float(ndtri(0.5 + confidence / 2)) ** 2
    if 0.0 < value < 1.0:
        scale *= max(least, placed.robust_width(confidence) / (scale * _hanley_mcneil(value, placed.effective)))

    def inside(theta: float) -> bool:
        return (value - theta) ** 2 <= scale * _hanley_mcneil(theta, placed.effective)

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
