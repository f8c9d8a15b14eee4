"""How far the d-vector of an inversion lies from its speaker's, beside the distances that say what that means.

Pizzi et al. (2023) report the Euclidean distance of inverted d-vectors to those of the same speaker, .75 to .80, beside
that of the speaker's own recordings, .19. Neither says whether .75 is near: that takes the distance to *other* speakers
and that of an inversion made for somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.attacks.inversion.judges import unit
from fl_privacy.audit.metrics import Floats
from fl_privacy.errors import UserError


@dataclass(frozen=True)
class Distances:
    """Euclidean distances of d-vectors of length 1; one number a speaker, shape (n,) each.

    Attributes
    ----------
    own : ndarray
        Of the inversion to the speaker's mean.
    others : ndarray
        Of the inversion to other speakers' means, on average.
    wrong : ndarray
        Of the inversions for other speakers to this speaker's mean, on average.
    within : ndarray
        Of the speaker's own, unused recordings to the speaker's mean, on average.
    between : ndarray
        Of the speaker's mean to other speakers' means, on average.
    nearest : ndarray
        1 where no other mean is nearer to the inversion.
    """

    own: Floats
    others: Floats
    wrong: Floats
    within: Floats
    between: Floats
    nearest: Floats

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation over speakers, by name."""
        return {
            name: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if values.size > 1 else 0.0}
            for name, values in vars(self).items()
        }


def distances(inverted: ArrayLike, means: ArrayLike, unused: ArrayLike, owners: ArrayLike) -> Distances:
    """Measure the distances of one inversion a speaker.

    Parameters
    ----------
    inverted : array_like, shape (n, d)
        D-vector of the inversion for each speaker.
    means : array_like, shape (n, d)
        Mean d-vector of each speaker's recordings.
    unused : array_like, shape (m, d)
        D-vectors of recordings that are not in `means`.
    owners : array_like of int, shape (m,)
        Whose these are: a row of `means`; everybody has one at least.

    Raises
    ------
    UserError
        With fewer than two speakers, or a speaker without an unused recording.
    """
    made, centres, rest = unit(inverted), unit(means), unit(unused)
    whose = np.asarray(owners, dtype=np.int64)
    n = len(centres)
    if n < 2 or made.shape != centres.shape:
        raise UserError(f"distances need an inversion for each of two speakers at least; got {made.shape}")
    if set(whose.tolist()) != set(range(n)):
        raise UserError("distances: every speaker needs a recording that is not in the mean")
    table = np.linalg.norm(made[:, None] - centres[None], axis=2)
    centre = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    own, off = np.diag(table).copy(), ~np.eye(n, dtype=bool)
    within = np.linalg.norm(rest - centres[whose], axis=1)
    return Distances(
        own,
        _mean_of_rows(table, off),
        _mean_of_rows(table.T, off),
        np.array([within[whose == speaker].mean() for speaker in range(n)]),
        _mean_of_rows(centre, off),
        (np.argmin(table, axis=1) == np.arange(n)).astype(np.float64),
    )


def _mean_of_rows(table: Floats, off: NDArray[np.bool_]) -> Floats:
    n = len(table)
    found: Floats = table[off].reshape(n, n - 1).mean(axis=1)
    return found
