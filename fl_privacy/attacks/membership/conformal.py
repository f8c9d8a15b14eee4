"""P-values of membership from people who are known not to be members; no shadow is trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError

Floats = NDArray[np.float64]


def conformal_p_values(scores: ArrayLike, known: ArrayLike) -> Floats:
    """Return how rare scores this high are among people who are known not to be members.

    Where somebody is no member, and differs from the known ones in nothing else that matters, the score's place among
    theirs is as likely to be one as another: a p-value of at most a comes with a chance of at most a, however few the
    known ones are (Vovk, Gammerman and Shafer 2005). So members called at ``p <= a`` have a false positive rate of at
    most a, on average over who the known ones are.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Higher for members.
    known : array_like, shape (k,)
        Scores of people who are no members, had in the same way.

    Returns
    -------
    ndarray, shape (n,)
        (1 + known scores at least as high) / (1 + k): never below 1 / (1 + k).

    Raises
    ------
    UserError
        Without known scores, or where a score is not finite.
    """
    values, null = np.asarray(scores, dtype=np.float64).ravel(), np.sort(np.asarray(known, dtype=np.float64).ravel())
    if not null.size:
        raise UserError("a conformal p-value needs somebody who is known not to be a member")
    if not (np.isfinite(values).all() and np.isfinite(null).all()):
        raise UserError("a conformal p-value needs finite scores")
    as_high = null.size - np.searchsorted(null, values, side="left")
    return np.asarray((1 + as_high) / (1 + null.size), dtype=np.float64)


def closeness(voices: ArrayLike) -> float:
    """Return how close a speaker's voices lie: the mean cosine of two of them, the feature ``pair.mean``.

    Parameters
    ----------
    voices : array_like, shape (n, d)
        Embeddings; two at least.

    Raises
    ------
    UserError
        With fewer than two voices.
    """
    table = np.asarray(voices, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise UserError(f"embeddings of shape {table.shape}: how close voices lie takes two at least")
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-8)
    return float((unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean())


def beyond_the_input(scores: ArrayLike, inputs: ArrayLike) -> Floats:
    """Return what of scores the voices' likeness at the input does not explain, by a line through all of them.

    The line is fitted to everybody alike, the person in question too: who that is makes no difference to it, so that
    p-values of the residuals hold as those of the scores do.

    Parameters
    ----------
    scores, inputs : array_like, shape (n,)
        Of everybody; three at least.
    """
    y, x = np.asarray(scores, dtype=np.float64), np.asarray(inputs, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1 or len(y) < 3:
        raise UserError(
            f"scores of shape {y.shape} and inputs of shape {x.shape}: one of each for three people at least"
        )
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = 0.0 if spread <= 1e-12 * len(x) else float(centred @ y) / spread
    return np.asarray(y - y.mean() - slope * centred)
