"""A linear classifier on the raw coordinates of any layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import LayerAttack, holding, layers_of
from fl_privacy.updates import Update

_BLOCK_BYTES = 128 * 2**20


class RawLinear(LayerAttack):
    """Standardise every coordinate of the chosen layers by the attacker's own updates, and classify linearly.

    With far more coordinates than updates, an L2-penalised linear classifier depends on the updates only through
    their Gram matrix; it is trained in the coordinates that the Gram matrix gives, which is the same classifier
    (representer theorem). Updates are read in blocks of coordinates, so memory does not grow with the model.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    C : float
        Inverse strength of the classifier's L2 penalty, on coordinates scaled to unit mean square norm.

    Attributes
    ----------
    layers_ : tuple of Layer
        The layers found.
    arrays_ : tuple of str
        The arrays read.
    """

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1.0) -> None:
        super().__init__(layers, C)

    def fit_transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent the attacker's own updates by their Gram matrix; they are read again by `transform`."""
        self.layers_ = layers_of(updates, self.layers)
        self.arrays_ = tuple(name for layer in self.layers_ for name in layer.arrays)
        held = holding(updates, self.layers_)
        self._own = [updates[i] for i in np.flatnonzero(held).tolist()]
        gram = np.zeros((len(self._own), len(self._own)))
        for mine, _ in self._blocks([]):
            gram += mine @ mine.T
        values, vectors = np.linalg.eigh(gram)
        kept = values > values[-1] * 1e-8
        # A unit mean square norm makes one C fit layers of any size.
        self._scale = float(np.sqrt(np.trace(gram) / len(self._own))) or 1.0
        self._projection = vectors[:, kept] / np.sqrt(values[kept])
        return _spread(gram @ self._projection / self._scale, held)

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent updates by their inner products with the attacker's own."""
        held = holding(updates, self.layers_)
        cross = np.zeros((int(held.sum()), len(self._own)))
        for mine, theirs in self._blocks([updates[i] for i in np.flatnonzero(held).tolist()]):
            cross += theirs @ mine.T
        return _spread(cross @ self._projection / self._scale, held)

    def _blocks(self, others: Sequence[Update]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield the standardised coordinates of our own updates and of the others, block by block."""
        rows = len(self._own) + len(others)
        width = max(1, _BLOCK_BYTES // (4 * rows))
        for name in self.arrays_:
            size = self._own[0].arrays[name].size
            for start in range(0, size, width):
                block = np.stack([u.arrays[name].reshape(-1)[start : start + width] for u in [*self._own, *others]])
                mine, theirs = block[: len(self._own)], block[len(self._own) :]
                # The small constant is the published one (Feng et al.): a coordinate that hardly moves is not blown up.
                mean, spread = mine.mean(axis=0), mine.std(axis=0) + np.float32(1e-5)
                yield (mine - mean) / spread, (theirs - mean) / spread


def _spread(rows: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return one row an update: those of the updates that hold the arrays, NaN for the others."""
    spread = np.full((len(held), rows.shape[1]), np.nan)
    spread[held] = rows
    return spread
