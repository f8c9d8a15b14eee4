"""A few statistics of every layer, and the nearest class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Auxiliary, LayerAttack, holding, layers_of
from fl_privacy.updates import Update

_SMALLEST = float(np.finfo(np.float32).tiny)
_NAMES = ("mean", "standard deviation", "skewness", "kurtosis", "mean size", "largest", "smallest")


class LayerStatistics(LayerAttack):
    """Describe each array of the chosen layers by seven numbers, and name the class whose mean is nearest.

    Mean, standard deviation, skewness, kurtosis, mean absolute value, largest and smallest value. Sizes are taken as
    logarithms, since updates shrink by orders of magnitude while a model learns.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    C, classifier
        See `LinearAttack`.

    Notes
    -----
    Source: attribute inference from weight differences in federated ASR (Al-Ali et al., arXiv 2510.13357), which takes
    statistics of each layer and the nearest centroid.
    """

    def __init__(
        self, layers: str | Sequence[str] = ("all",), C: float = 1.0, classifier: str = "nearest-centroid"
    ) -> None:
        super().__init__(layers, C, classifier)

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> NDArray[np.float64]:
        """Describe the attacker's own updates, and standardise by them."""
        layers = layers_of(updates, self.layers)
        self._layers = layers
        found = self._describe(updates)
        held = found[~np.isnan(found).any(axis=1)]
        self.mean_ = held.mean(axis=0)
        spread = held.std(axis=0)
        self.scale_ = np.where(spread > 1e-9, spread, 1.0)
        standardised: NDArray[np.float64] = (found - self.mean_) / self.scale_
        return standardised

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Describe updates on the same scale."""
        standardised: NDArray[np.float64] = (self._describe(updates) - self.mean_) / self.scale_
        return standardised

    def _describe(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        held = holding(updates, self._layers)
        names = [name for layer in self._layers for name in layer.arrays]
        found = np.full((len(updates), len(names) * len(_NAMES)), np.nan)
        for row in np.flatnonzero(held).tolist():
            found[row] = np.concatenate([_statistics(updates[row].arrays[name]) for name in names])
        return found


def _statistics(array: NDArray[np.float32]) -> NDArray[np.float64]:
    values = array.reshape(-1).astype(np.float64)
    size = max(float(np.abs(values).max()), _SMALLEST)
    values /= size  # late gradients are small: their powers would underflow
    mean, spread = float(values.mean()), float(values.std())
    # Equal values, or all zero: nothing of a shape is left, and no ratio to the spread makes sense.
    shaped = spread > 1e-6
    standard = (values - mean) / spread if shaped else np.zeros_like(values)
    square = np.square(standard)
    return np.array(
        [
            mean / spread if shaped else 0.0,
            np.log(size * max(spread, 1e-6)),
            float(np.mean(square * standard)),
            float(np.log(np.mean(np.square(square)))) if shaped else 0.0,
            np.log(size * max(float(np.abs(values).mean()), 1e-6)),
            float(values.max()) / spread if shaped else 0.0,
            float(values.min()) / spread if shaped else 0.0,
        ]
    )
