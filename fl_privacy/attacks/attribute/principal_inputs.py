"""The directions in which a client's inputs vary most, as its update shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, class_means, dense, owned
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update


class PrincipalInputs(Reconstructing):
    """Project what the attacker knows of each class onto the main directions of the client's inputs, and classify that.

    The rows of a dense layer's update are combinations of the client's inputs, also of a weight difference, of which
    Adam has left little more than signs. Its first right singular vectors are the directions in which the inputs vary
    most together. How much of each class's mean (an emotion, from the attacker's own people) lies in them depends on
    how the features of this voice go together, which normalisation per speaker does not take away: it takes each
    feature's mean and spread, not their correlations. It needs neither the model nor its initialisation.

    Parameters
    ----------
    layers : sequence of str
        Layers to read (``"first"`` or a name); only the first goes with the attacker's examples.
    rank : int
        How many directions; as many as the layer has rows, where it has fewer.
    C, classifier
        See `LinearAttack`.
    """

    needs = frozenset({"updates", "examples"})

    def __init__(
        self, layers: str | Sequence[str] = ("first",), rank: int = 5, C: float = 1e-3, classifier: str = "ridge"
    ) -> None:
        super().__init__(layers, C, classifier)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise UserError(f"PrincipalInputs: rank must be a whole number from 1, not {rank!r}")
        self.rank = rank

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take the mean input of each of the task's classes."""
        self.prototypes_ = class_means(owned(auxiliary, self))[1]

    def read(self, update: Update, layer: Layer) -> NDArray[np.float64]:
        """Return the prototypes' projections, one behind the other: (classes x inputs,)."""
        weight = dense(update, layer, self)[0]
        size = float(np.abs(weight).max())
        if size == 0.0:  # a client that learned nothing
            return np.full(self.prototypes_.size, np.nan)
        rows = weight.astype(np.float64) / size  # late gradients are small: their squares would underflow
        # Singular vectors of the short side; the few largest do not suffer from its squared condition.
        axes = np.linalg.eigh(rows @ rows.T)[1][:, -self.rank :]
        directions = np.linalg.qr(rows.T @ axes)[0]
        projected: NDArray[np.float64] = (self.prototypes_ @ directions) @ directions.T
        return projected.reshape(-1)
