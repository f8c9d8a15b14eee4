"""Calibration by reference recognisers that a speaker did not train: how would these voices look to a stranger?

Some people speak steadily into good microphones, and look like members to any recogniser. References trained on others
say how much of a statistic is the speaker's own. The idea is Carlini et al.'s for examples (LiRA, 2022, arXiv
2112.03570; its offline form), and Kandpal et al.'s for users (2023, arXiv 2310.09266).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

_ROUNDS = 20

_PRIOR = 4.0
"""Degrees of freedom that all speakers' spread together has in one speaker's."""


@dataclass(frozen=True)
class Calibrated:
    """What is left of statistics once references have spoken.

    Attributes
    ----------
    residual : ndarray, shape (n, ...)
        The statistic less what is expected of a stranger to the recogniser.
    score : ndarray, shape (n, ...)
        The residual over its standard deviation for strangers: its square is minus twice the log-likelihood of a
        stranger, so that it ranks by the likelihood ratio against any shift that is the same for all members.
    slope : ndarray, shape (n, ...)
        How much of the references' deviation is believed.
    """

    residual: Floats
    score: Floats
    slope: Floats


def calibrate(observed: ArrayLike, references: ArrayLike) -> Calibrated:
    """Take from a statistic what references explain of it.

    Under a recogniser that a speaker did not train, the statistic is taken as the recogniser's level, plus the
    speaker's own part, plus an error. The variances of the last two are learned from the references alone, which know
    nothing of the target's members. The best linear guess from the mean of k references then has the slope
    k c / (v + (k - 1) c), with v the variance of a reference over speakers and c the covariance of two; a slope of 1,
    the plain difference, adds the references' errors to the target's.

    Parameters
    ----------
    observed : array_like, shape (n,) or (n, f)
        One or several statistics of each speaker's voices before the recogniser in question, each calibrated by itself.
    references : array_like, shape (n, k) or (n, k, f)
        The same of the same voices before references; NaN where a reference was trained on the speaker.

    Returns
    -------
    Calibrated

    Raises
    ------
    UserError
        With fewer than three speakers or two references, or a speaker whom all references know.
    """
    seen, others = np.asarray(observed, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if others.ndim != seen.ndim + 1 or (len(others), *others.shape[2:]) != seen.shape:
        raise UserError(
            f"references of shape {others.shape} for {len(seen)} speakers; expected (speakers, references), and of "
            f"several statistics (speakers, references, statistics)"
        )
    n, k = others.shape[:2]
    if n < 3 or k < 2:
        raise UserError(f"calibration needs three speakers and two references at least; got {n} and {k}")
    flat = others.reshape(n, k, -1)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(flat).all(axis=2))
    if not known.any(axis=1).all():
        raise UserError(
            f"calibration: speaker {int(np.argmin(known.any(axis=1)))} has no reference that it did not train"
        )
    if not np.isfinite(seen).all():
        raise UserError("calibration: a statistic before the recogniser is NaN or infinite")
    kept = known.any(axis=0)
    residual, score, slope = _calibrated(seen.reshape(n, -1), flat[:, kept], known[:, kept])
    return Calibrated(residual.reshape(seen.shape), score.reshape(seen.shape), slope.reshape(seen.shape))


def _calibrated(seen: Floats, others: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Residual, score and slope (n, f) of statistics (n, f) with references (n, k, f), known where (n, k)."""
    values = np.where(known[:, :, None], others, 0.0)
    level = _levels(values, known)
    centred = np.where(known[:, :, None], values - level, 0.0)
    count = known.sum(axis=1)[:, None]
    squares, sums = np.square(centred).sum(axis=1), centred.sum(axis=1)
    own = np.maximum(squares - np.square(sums) / count, 0.0)
    cells, (n, k) = known.sum(), known.shape
    tiny = np.finfo(np.float64).tiny
    # Analysis of variance, speakers by references: what is left of a cell, and all of it.
    error = own.sum(axis=0) / max(cells - n - k + 1, 1) + tiny
    variance = np.maximum(squares.sum(axis=0) / max(cells - k, 1), error)
    covariance = variance - error
    slope = count * covariance / (variance + (count - 1) * covariance)
    residual = seen - (level.mean(axis=0) + slope * sums / count)
    # A speaker's own spread over references, drawn to that of all.
    each = (_PRIOR * error + own) / (_PRIOR + count - 1)
    return residual, residual / np.sqrt(each + (1.0 - slope) * covariance), slope


def _levels(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Each reference's level (k, f), with speakers' own parts beside it: references know different speakers."""
    there = known[:, :, None]
    own = np.zeros((len(values), 1, values.shape[2]))
    level = np.zeros((1, *values.shape[1:]))
    for _ in range(_ROUNDS if not known.all() else 1):
        level = np.where(there, values - own, 0.0).sum(axis=0, keepdims=True) / there.sum(axis=0, keepdims=True)
        own = np.where(there, values - level, 0.0).sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
    return np.asarray(level[0])
