"""How the features of a client's inputs go together, as the rows of its update show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, dense, owned
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update

Floats = NDArray[np.float64]


class InputCovariance(Reconstructing):
    """Classify the second moments of the client's inputs, read off the rows of its first dense layer's update.

    Each row of the update is a combination ``sum_i d_i x_i`` of the client's inputs, one a unit; so over units,
    ``G^T G = sum_ij (d_i . d_j) x_i x_j^T``, weighted second moments of the inputs. Normalisation per speaker takes
    each feature's mean and spread away, not how features go together. Rows count alike, each brought to length 1; so
    Adam's steps, of which little more than signs is left, serve as well as gradients. It needs neither the model nor
    its initialisation.

    Parameters
    ----------
    layers : sequence of str
        Layers to read (``"first"`` or a name); only the first goes with the attacker's examples.
    rank : int
        Moments are taken in so many main directions of the attacker's own examples; fewer where they have fewer.
    C, classifier
        See `LinearAttack`. The representation has a common scale (a total variance of 100), not one a coordinate:
        moments between directions of little variance are mostly noise.
    """

    needs = frozenset({"updates", "examples"})

    def __init__(
        self, layers: str | Sequence[str] = ("first",), rank: int = 20, C: float = 1e-2, classifier: str = "ridge"
    ) -> None:
        super().__init__(layers, C, classifier)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise UserError(f"{type(self).__name__}: rank must be a whole number from 1, not {rank!r}")
        self.rank = rank

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take the main directions of the attacker's examples."""
        features = owned(auxiliary, self).features.astype(np.float64)
        self.axes_ = np.linalg.svd(features, full_matrices=False)[2][: self.rank].T
        upper = np.triu_indices(self.axes_.shape[1])
        # Twice what stands off the diagonal: then lengths are those of the whole matrix.
        self._upper, self._weights = upper, np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))

    def rows(self, update: Update, layer: Layer) -> Floats:
        """Return what moments are taken of, (n, inputs): the update's rows, each of length 1."""
        weight = dense(update, layer, self)[0].astype(np.float64)
        largest = np.abs(weight).max(axis=1, keepdims=True)  # late gradients are small: squares would underflow
        rows = weight[largest[:, 0] > 0] / largest[largest[:, 0] > 0]
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def read(self, update: Update, layer: Layer) -> Floats:
        """Return the upper triangle of the moments, their trace 1: (rank (rank + 1) / 2,)."""
        rows = self.rows(update, layer) @ self.axes_
        moments = rows.T @ rows
        total = float(np.trace(moments))
        if total == 0.0:  # a client that learned nothing
            return np.full(len(self._weights), np.nan)
        read: Floats = moments[self._upper] * self._weights / total
        return read

    def _standardise(self, read: Floats) -> Floats:
        standardised: Floats = 10.0 * (read - self.mean_) / np.linalg.norm(self.scale_)
        return standardised
