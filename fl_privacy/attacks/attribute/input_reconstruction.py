"""Reconstruct the mean input from the first layer, then classify it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, dense
from fl_privacy.attacks.base import layers_of
from fl_privacy.attacks.reconstruction import weighted_mean
from fl_privacy.updates import Layer, Update


class InputReconstruction(Reconstructing):
    """Classify the signal-weighted mean of the client's inputs, read off its first dense layer.

    The gradient of a dense layer is ``G = sum_i d_i x_i^T`` and that of its bias ``b = sum_i d_i`` (d_i: signal
    back-propagated to the layer by example i). So ``x = G^T b / |b|^2`` is a weighted sum of the inputs whose weights
    ``d_i . b / |b|^2`` sum to one: exact for one example, a weighted mean for a batch, and still close to one for the
    weight difference that local training leaves. It needs neither the model nor its initialisation.

    Parameters
    ----------
    layers : sequence of str
        Layers to read (``"first"`` or a name); the reconstructions of several are put side by side.
    C, classifier
        See `LinearAttack`.

    Attributes
    ----------
    layers_ : tuple of Layer
        The layers found.
    mean_, scale_ : ndarray, (d,)
        Constants that standardise a reconstruction, from the attacker's own updates.

    Notes
    -----
    Source: the closed form is folklore of gradient leakage (e.g. arXiv 2010.07733, 2112.02918); that classifying it
    beats classifying raw coordinates across corpora is this project's measurement (docs/architecture.md).
    """

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1e-3, classifier: str = "ridge") -> None:
        super().__init__(layers, C, classifier)

    def reconstruct(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Return the reconstructed mean inputs, shape (n, total inputs of the layers); NaN where the layers lack."""
        self.layers_ = layers_of(updates, self.layers)
        return self._rows(updates)

    def read(self, update: Update, layer: Layer) -> NDArray[np.float64]:
        """Return the weighted mean input of one layer."""
        return weighted_mean(*dense(update, layer, self))
