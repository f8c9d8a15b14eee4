"""How well a speaker encoder does its task: verification of every pair of voices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fl_privacy.audit.metrics import eer
from fl_privacy.errors import UserError


def verification_eer(embeddings: ArrayLike, speakers: Sequence[str]) -> float:
    """Return the equal error rate of "the same speaker?" by cosine, over all pairs of voices.

    Parameters
    ----------
    embeddings : array_like, shape (n, d)
    speakers : sequence of str
        Of each voice.

    Raises
    ------
    UserError
        Where no two voices are of one speaker, or all are.
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    first, second = np.triu_indices(len(unit), k=1)
    codes = np.unique(np.asarray(speakers), return_inverse=True)[1]
    same = codes[first] == codes[second]
    if same.all() or not same.any():
        raise UserError("An equal error rate of verification needs two voices of a speaker and two speakers.")
    similar = (unit @ unit.T)[first, second]
    return eer(similar[same], similar[~same])
