"""One-to-one matching of members and non-members by duration, so that duration tells nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError


def match_durations(
    members: ArrayLike, nonmembers: ArrayLike, tolerance: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair as many members as can be with a non-member of nearly the same duration.

    Both sides are walked through from the shortest on, which pairs as many as any pairing does: the shortest one that
    is left can only be paired with the shortest ones of the other side. Which of several utterances of one duration are
    taken is drawn.

    Parameters
    ----------
    members, nonmembers : array_like, shapes (m,) and (n,)
        Durations in seconds.
    tolerance : float
        Most that two of a pair differ by, in seconds.
    seed : int

    Returns
    -------
    (ndarray of int, ndarray of int)
        Numbers of the members and of the non-members that are paired, in the order of the pairs.

    Raises
    ------
    UserError
        If there is no pair.
    """
    rng = np.random.default_rng(seed)
    sides = [np.asarray(values, dtype=np.float64) for values in (members, nonmembers)]
    first, second = (
        shuffled[np.argsort(values[shuffled], kind="stable")]
        for values, shuffled in ((values, rng.permutation(len(values))) for values in sides)
    )
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(first) and j < len(second):
        gap = sides[0][first[i]] - sides[1][second[j]]
        if abs(gap) <= tolerance:
            pairs.append((int(first[i]), int(second[j])))
            i, j = i + 1, j + 1
        elif gap < 0:
            i += 1
        else:
            j += 1
    if not pairs:
        raise UserError(f"no member and non-member last equally long, to {tolerance:g} s")
    chosen = np.array(pairs, dtype=np.int64)
    return chosen[:, 0], chosen[:, 1]
