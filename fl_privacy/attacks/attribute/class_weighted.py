"""The mean input of each class, told apart by how the model that was sent answers to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, dense, owned
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.updates import Layer, Update


class ClassWeighted(Reconstructing):
    """Weight the units of the first layer by how each class of the task moves them, and classify what inputs are left.

    An example of class c is back-propagated to the first layer as a signal d that depends, above all, on c and on the
    model that was sent. The attacker knows that model and has examples of its own: ``u_c``, the mean signal of class c,
    is the bias's gradient over these. In ``u_c^T G`` the inputs of the client's examples of that class weigh most. It
    works on gradients and on weight differences; what it finds fades as the model learns and signals vanish.

    Parameters
    ----------
    layers : sequence of str
        Layers to read (``"first"`` or a name).
    C, classifier
        See `LinearAttack`.

    Notes
    -----
    Of clients whose round all sent the same model, the directions are computed once.
    """

    needs = frozenset({"updates", "sent", "examples", "gradient"})

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1e-3, classifier: str = "ridge") -> None:
        super().__init__(layers, C, classifier)

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take the examples by class, and the architecture."""
        examples = owned(auxiliary, self)
        assert auxiliary.gradient is not None  # checked with `needs`
        self._gradient = auxiliary.gradient
        self._by_class = [(examples.features[examples.labels == c], c) for c in np.unique(examples.labels)]
        self._known: tuple[bytes, NDArray[np.float64]] | None = None

    def read(self, update: Update, layer: Layer) -> NDArray[np.float64]:
        """Return the class-weighted sums of inputs, each divided by the weights' length: (classes x inputs,)."""
        weight, bias = dense(update, layer, self)
        directions = self._directions(update, layer)
        size = float(np.linalg.norm(bias))
        if size == 0.0:  # a client that learned nothing
            return np.full(len(directions) * weight.shape[1], np.nan)
        # Signals shrink by orders of magnitude as the model learns: the bias says by how much.
        read: NDArray[np.float64] = directions @ (weight / np.float32(size))
        return read.reshape(-1)

    def _directions(self, update: Update, layer: Layer) -> NDArray[np.float64]:
        assert layer.bias is not None
        sent = {name: np.asarray(array) for name, array in update.sent.items()}
        key = sent[layer.bias].tobytes() + sent[layer.weight][:1].tobytes()
        if self._known is None or self._known[0] != key:
            rows = []
            for features, c in self._by_class:
                row = self._gradient(sent, features, np.full(len(features), c))[layer.bias].astype(np.float64)
                rows.append(row / max(float(np.linalg.norm(row)), np.finfo(np.float64).tiny))
            self._known = key, np.stack(rows)
        return self._known[1]
