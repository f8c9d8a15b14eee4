"""The points of a batch's affine hull that are nearest to what the attacker knows of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, class_means, dense, owned
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.attacks.reconstruction import affine_hull
from fl_privacy.updates import Layer, Update


class AffineHull(Reconstructing):
    """Project what the attacker knows of each class onto the affine hull of the client's batch, and classify that.

    The gradient of a dense layer tells the affine hull of its batch's inputs exactly, while the batch is smaller than
    the layer. Of each of the task's classes (an emotion) the attacker knows the mean input of its own people; the point
    of the hull nearest to it is how the client's people sound when they are, say, angry. It needs neither the model nor
    its initialisation, and reads what normalisation per speaker leaves: how the attribute shapes the classes.

    Parameters
    ----------
    layers : sequence of str
        Layers to read (``"first"`` or a name); inputs of later layers are no features, so only the first makes sense
        with the attacker's examples.
    C, classifier
        See `LinearAttack`.

    Notes
    -----
    An update that is no gradient (FedAvg's weight difference) tells it nothing. The idea is this project's; that the
    first layer's gradient spans the batch is folklore (e.g. R-GAP, Zhu and Blaschko, arXiv 2010.07733).
    """

    needs = frozenset({"updates", "examples"})
    why = ": it reads gradients (FedSGD) of batches smaller than the layer"

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1e-3, classifier: str = "ridge") -> None:
        super().__init__(layers, C, classifier)

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take the mean input of each of the task's classes."""
        self.prototypes_ = class_means(owned(auxiliary, self))[1]

    def read(self, update: Update, layer: Layer) -> NDArray[np.float64]:
        """Return the prototypes' nearest points in the hull, one behind the other: (classes x inputs,)."""
        if update.kind != "gradient":
            return np.full(self.prototypes_.size, np.nan)
        return affine_hull(*dense(update, layer, self)).project(self.prototypes_).reshape(-1)
