"""The basic attacks: how far the frames of an utterance lie apart, and how close the utterances of a speaker.

Tseng, Kao and Lee 2022 (arXiv 2111.05113, sections 3.1 and 3.2). Both are means over all pairs, in closed form: the sum
over pairs of inner products is half of what the squared norm of the sum has beside the squared norms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

_TINY = 1e-12


def utterance_score(frames: ArrayLike) -> float:
    """Mean cosine distance of two frames of an utterance; the attack takes high scores for members'.

    1 - (|sum_i u_i|^2 - sum_i |u_i|^2) / (m (m - 1)) with u_i the frame h_i over its norm: linear in the number of
    frames. A frame of zeros is at right angles to all.

    Parameters
    ----------
    frames : array_like, shape (m, q)
        Two at least.

    Raises
    ------
    UserError
        For fewer than two frames, or values that are not finite.
    """
    return 1.0 - pair_mean(_unit(_rows(frames, "frames")))


def speaker_score(means: ArrayLike) -> float:
    """Mean cosine similarity of two utterances of a speaker; the attack takes high scores for members'.

    Parameters
    ----------
    means : array_like, shape (n, q)
        The mean frame of each utterance; two at least.
    """
    return pair_mean(_unit(_rows(means, "utterances")))


def pair_mean(vectors: ArrayLike) -> float:
    """Mean inner product of two of n vectors.

    Parameters
    ----------
    vectors : array_like, shape (n, q)
        Two at least.
    """
    rows = _rows(vectors, "vectors")
    total = rows.sum(axis=0)
    return float((total @ total - np.square(rows).sum()) / (len(rows) * (len(rows) - 1)))


def _rows(values: ArrayLike, what: str) -> Floats:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise UserError(f"a mean over pairs takes two {what} at least, as an array of two axes; got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise UserError(f"{what} hold values that are not finite")
    return rows


def _unit(rows: Floats) -> Floats:
    # Far from 1 a norm's square would over- or underflow: the largest entry goes first.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), _TINY))
