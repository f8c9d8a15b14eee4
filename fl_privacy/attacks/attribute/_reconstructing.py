"""What attacks share that read something of the client's inputs off dense layers, and classify it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Auxiliary, Examples, LayerAttack, holding, layers_of
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update

Floats = NDArray[np.float64]
logger = logging.getLogger(__name__)


class Reconstructing(LayerAttack, ABC):
    """Reads a vector off each of some layers of an update, side by side, standardised by the attacker's own updates.

    Attributes
    ----------
    layers_ : tuple of Layer
        The layers found.
    mean_, scale_ : ndarray, (d,)
        Constants that standardise, from the attacker's own updates.
    """

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take what is needed of what the attacker owns, before anything is read."""

    @abstractmethod
    def read(self, update: Update, layer: Layer) -> Floats:
        """Return what one layer tells of the inputs, shape (d,); NaN where it tells nothing."""

    def _rows(self, updates: Sequence[Update]) -> Floats:
        """Return what is read off each update, shape (n, d); NaN where the layers lack or tell nothing."""
        held = holding(updates, self.layers_)
        found = {
            row: np.concatenate([self.read(updates[row], layer) for layer in self.layers_])
            for row in np.flatnonzero(held).tolist()
        }
        width = max(len(vector) for vector in found.values())
        read = np.full((len(updates), width), np.nan)
        for row, vector in found.items():
            read[row, : len(vector)] = vector
        return read

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> Floats:
        """Read the attacker's own updates, and standardise by them."""
        self.layers_: tuple[Layer, ...] = layers_of(updates, self.layers)
        self.prepare(auxiliary)
        if auxiliary.examples is not None and "examples" in self.needs:
            shape = updates[0].shapes[self.layers_[0].weight]
            width, given = shape[0 if self.layers_[0].transposed else 1], auxiliary.examples.features.shape[1]
            if width != given:
                raise UserError(
                    f"{type(self).__name__}: layer {self.layers_[0].name!r} has {width} inputs, the attacker's own "
                    f"examples have {given} features"
                )
        read = self._rows(updates)
        held = read[~np.isnan(read).any(axis=1)]
        if not len(held):
            logger.warning("%s: none of the attacker's own updates tells it anything%s", type(self).__name__, self.why)
            held = np.zeros((1, read.shape[1]))
        self.mean_ = held.mean(axis=0)
        scale = held.std(axis=0)
        self.scale_ = np.where(scale > 0, scale, 1.0)
        return self._standardise(read)

    why = ""
    """Why that may be, as the end of a sentence."""

    def transform(self, updates: Sequence[Update]) -> Floats:
        """Read updates, and standardise by the constants of `fit_transform`."""
        # The layers of `fit_transform`: stores of partial models may name their arrays in another order.
        return self._standardise(self._rows(updates))

    def _standardise(self, read: Floats) -> Floats:
        standardised: Floats = (read - self.mean_) / self.scale_
        return standardised


def dense(update: Update, layer: Layer, attack: object) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a layer's weight, (units, inputs), and bias.

    Raises
    ------
    UserError
        Where the layer has no bias: then no combination of rows is known to sum to one.
    """
    if layer.bias is None:
        name = type(attack).__name__
        raise UserError(f"{name} needs the bias of layer {layer.name!r}, which the updates do not have")
    weight = update.arrays[layer.weight]
    return weight.T if layer.transposed else weight, update.arrays[layer.bias]


def class_means(examples: Examples) -> tuple[NDArray[np.int64], Floats]:
    """Return the task's classes that the examples have, and the mean input of each, (classes, inputs)."""
    classes = np.unique(examples.labels)
    means = [examples.features[examples.labels == c].mean(axis=0, dtype=np.float64) for c in classes]
    return classes, np.stack(means)


def owned(auxiliary: Auxiliary, attack: object) -> Examples:
    """Return the attacker's own examples.

    Raises
    ------
    UserError
        Where it has none.
    """
    if auxiliary.examples is None or not len(auxiliary.examples.labels):
        raise UserError(f"{type(attack).__name__} needs the attacker's own examples (examples=...)")
    return auxiliary.examples
