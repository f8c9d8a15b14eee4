"""Reconstruct the mean input from the first layer, then classify it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Auxiliary, LayerAttack, holding, layers_of
from fl_privacy.attacks.reconstruction import weighted_mean
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update


class InputReconstruction(LayerAttack):
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

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1e-2, classifier: str = "ridge") -> None:
        super().__init__(layers, C, classifier)

    def reconstruct(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Return the reconstructed mean inputs, shape (n, total inputs of the layers); NaN where the layers lack."""
        self.layers_: tuple[Layer, ...] = layers_of(updates, self.layers)
        return self._read(updates)

    def _read(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        held = holding(updates, self.layers_)
        read = [
            np.concatenate([_mean_input(updates[i], layer) for layer in self.layers_])
            for i in np.flatnonzero(held).tolist()
        ]
        inputs = np.full((len(updates), len(read[0])), np.nan)
        inputs[held] = read
        return inputs

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> NDArray[np.float64]:
        """Reconstruct, and standardise by the attacker's own updates."""
        inputs = self.reconstruct(updates)
        held = inputs[~np.isnan(inputs).any(axis=1)]
        self.mean_ = held.mean(axis=0)
        scale = held.std(axis=0)
        self.scale_ = np.where(scale > 0, scale, 1.0)
        return self._standardise(inputs)

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Reconstruct, and standardise by the constants of `fit_transform`."""
        # The layers of `fit_transform`: stores of partial models may name their arrays in another order.
        return self._standardise(self._read(updates))

    def _standardise(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        standardised: NDArray[np.float64] = (inputs - self.mean_) / self.scale_
        return standardised


def _mean_input(update: Update, layer: Layer) -> NDArray[np.float64]:
    if layer.bias is None:
        raise UserError(f"input reconstruction needs the bias of layer {layer.name!r}, which the updates do not have")
    weight = update.arrays[layer.weight]
    return weighted_mean(weight.T if layer.transposed else weight, update.arrays[layer.bias])
