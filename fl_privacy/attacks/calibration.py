"""From an attack's scores to log-likelihood ratios: how scores of people it did not learn from are spread.

An attack is fitted several times, each time without some of the attacker's own speakers, and scores those. A model of
these held-out scores, of how they differ from speaker to speaker and from update to update, then says what the score
of a stranger is worth as evidence, and how much the further updates of the same stranger add to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST = 1e-12
"""Of the scores' own mean square: below it is rounding."""
_SHRINKAGE = 0.1


@dataclass(frozen=True)
class Calibration:
    """Gaussian class-conditional model of scores with a speaker effect.

    A score of speaker i is ``class mean + speaker effect + noise``, the same spread in every class. The variance of a
    stranger's effect also holds how little the class means are known from the few speakers they rest on.

    Attributes
    ----------
    means : ndarray, (k, c)
        Mean score of each class; c is 1 for two classes, else k.
    precision : ndarray, (c, c)
        Inverse covariance of a single update's score about its class mean.
    correlation : float
        Share of the variance that the speaker accounts for, 0 to 1: n updates of one speaker are worth
        ``n / (1 + (n - 1) correlation)`` independent ones.
    n_speakers : int
        Held-out speakers behind it.
    """

    means: Floats
    precision: Floats
    correlation: float
    n_speakers: int

    @classmethod
    def learn(cls, scores: Floats, labels: NDArray[np.int64], speakers: Sequence[str], classes: int) -> Calibration:
        """Learn from held-out scores.

        Parameters
        ----------
        scores : ndarray, (n,) or (n, k)
        labels : ndarray, (n,)
            Class numbers.
        speakers : sequence of str, length n
        classes : int
            k; every class needs two speakers.
        """
        columns = scores.reshape(len(scores), -1)
        least = _LEAST * float(np.mean(np.square(columns))) or 1.0
        names, codes = np.unique(np.asarray(speakers), return_inverse=True)
        counts = np.bincount(codes).astype(np.float64)
        own = np.stack([np.bincount(codes, weights=column) for column in columns.T], axis=1) / counts[:, None]
        of = np.zeros(len(names), dtype=np.int64)
        of[codes] = labels
        sizes = np.bincount(of, minlength=classes).astype(np.float64)
        means = np.stack([own[of == c].mean(axis=0) for c in range(classes)])
        # Variance between updates of a speaker, and between the means of speakers of a class (method of moments).
        inner, outer = columns - own[codes], own - means[of]
        within = inner.T @ inner / max(len(columns) - len(names), 1)
        between = outer.T @ outer / (len(names) - classes)
        noise_in_means = within * float(np.mean(1 / counts))
        effect = between * (1 + float(np.mean(1 / sizes))) - noise_in_means
        share = float(np.trace(effect)) / max(float(np.trace(effect + within)), least)
        if len(columns) == len(names):  # one update a speaker: nothing says how far two of one speaker agree
            share = 1.0
        return cls(means, _inverse(within + effect, least), float(np.clip(share, 0.0, 1.0)), len(names))

    def __call__(self, scores: Floats) -> Floats:
        """Return each update's evidence in nats: (n,) log-likelihood ratios of class 1 to 0, or (n, k) log-likelihoods.

        The latter are centred on the classes' mean. Calibration does not turn two classes round: where the held-out
        speakers speak against the attack, its scores keep their order and weigh next to nothing.
        """
        if len(self.means) == 2 and self.means.shape[1] == 1:
            slope = max(float((self.means[1] - self.means[0])[0] * self.precision[0, 0]), 0.0)
            slope = max(slope, 1e-6 * float(np.sqrt(self.precision[0, 0])))
            return slope * (scores - float(self.means.mean()))
        away = scores[:, None, :] - self.means[None, :, :]
        found = -np.einsum("nci,ij,ncj->nc", away, self.precision, away) / 2
        centred: Floats = found - found.mean(axis=1, keepdims=True)
        return centred


def speaker_folds(
    speakers: Sequence[str], labels: NDArray[np.int64], folds: int, seed: int
) -> Iterator[NDArray[np.bool_]]:
    """Yield, for each fold, which rows are of the speakers that it holds out; each class is dealt out evenly."""
    names, first, codes = np.unique(np.asarray(speakers), return_index=True, return_inverse=True)
    shuffled, of = np.random.default_rng([seed, 7]).permutation(len(names)), labels[first]
    fold_of = np.empty(len(names), dtype=np.int64)
    for value in np.unique(of):
        mine = shuffled[of[shuffled] == value]
        fold_of[mine] = np.arange(len(mine)) % folds
    for fold in range(int(fold_of.max()) + 1):
        yield (fold_of == fold)[codes]


def _inverse(covariance: Floats, least: float) -> Floats:
    """Invert, shrunk towards a multiple of the identity where there are several columns."""
    size = len(covariance)
    scale = max(float(np.trace(covariance)) / size, least)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * scale * np.eye(size) if size > 1 else np.array([[scale]])
    return np.asarray(np.linalg.inv(shrunk), dtype=np.float64)
