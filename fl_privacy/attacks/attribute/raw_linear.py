"""A linear classifier on the raw coordinates of any layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Auxiliary, LayerAttack, holding, layers_of
from fl_privacy.errors import UserError
from fl_privacy.updates import Update

_BLOCK_BYTES = 128 * 2**20
_SPREAD = np.float32(1e-5)
"""Added to a coordinate's standard deviation, as published (Feng et al.): one that hardly moves is not blown up."""


class InnerProducts(LayerAttack):
    """The coordinates of the chosen layers as inner products with the attacker's own updates.

    With far more coordinates than updates, an L2-penalised linear classifier depends on the updates only through their
    inner products. Up to `rows` of the attacker's own updates, it is trained in the coordinates that the Gram matrix
    gives, which is the same classifier (representer theorem). With more, means over consecutive updates of a speaker
    span the space instead: it still holds the difference between the means of the classes. (A random projection would
    not do: it keeps distances, but of a difference that is spread over all coordinates as thinly as the noise is, it
    keeps the share ``rows / coordinates``.) Updates are read in blocks of coordinates, so memory grows neither with the
    model nor with what lies on disk.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    C : float
        Inverse strength of the classifier's L2 penalty, on coordinates scaled to unit mean square norm.
    classifier : {"ridge", "lda", "logistic"}
        See `LinearAttack`.
    rows : int
        Most updates, or means of updates, whose inner products are taken.

    Attributes
    ----------
    layers_ : tuple of Layer
        The layers found.
    arrays_ : tuple of str
        The arrays read.
    """

    _standardised = True

    def __init__(self, layers: str | Sequence[str], C: float, classifier: str, rows: int) -> None:
        super().__init__(layers, C, classifier)
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 2:
            raise UserError(f"{type(self).__name__}: rows must be a whole number from 2, not {rows!r}")
        self.rows = rows

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> NDArray[np.float64]:
        """Represent the attacker's own updates by their inner products; they are read again by `transform`."""
        self.layers_ = layers_of(updates, self.layers)
        self.arrays_ = tuple(name for layer in self.layers_ for name in layer.arrays)
        held = holding(updates, self.layers_)
        self._own = [updates[i] for i in np.flatnonzero(held).tolist()]
        # Of speakers: in two federations of the attacker's, clients of one number are different people.
        speakers = [speaker for speaker, it in zip(auxiliary.speakers, held, strict=True) if it]
        self._starts, self._order = _runs(speakers, self.rows)
        gram = np.zeros((len(self._starts),) * 2)
        cross = np.zeros((len(self._own), len(self._starts)), np.float32)
        square = 0.0
        for means, mine, _ in self._blocks([]):
            gram += means @ means.T
            cross += mine @ means.T
            square += float(np.einsum("ij,ij->", mine, mine, dtype=np.float64))  # (no copy of the block)
        values, vectors = np.linalg.eigh(gram)
        kept = values > values[-1] * 1e-8
        self._projection = vectors[:, kept] / np.sqrt(values[kept])
        if self._standardised:  # a unit mean square norm makes one C fit layers of any size
            self._projection /= float(np.sqrt(square / len(self._own))) or 1.0
        return _spread(cross @ self._projection, held)

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent updates by their inner products with the attacker's own."""
        held = holding(updates, self.layers_)
        cross = np.zeros((int(held.sum()), len(self._starts)), np.float32)
        for means, _, theirs in self._blocks([updates[i] for i in np.flatnonzero(held).tolist()]):
            cross += theirs @ means.T
        return _spread(cross @ self._projection, held)

    def _blocks(self, others: Sequence[Update]) -> Iterator[tuple[_Block, _Block, _Block]]:
        """Yield standardised coordinates block by block: those that inner products are taken with, own, others'."""
        every = [*self._own, *others]
        width = max(1, _BLOCK_BYTES // (4 * len(every)))
        for name in self.arrays_:
            size = self._own[0].arrays[name].size
            for start in range(0, size, width):
                block = np.stack([u.arrays[name].reshape(-1)[start : start + width] for u in every])
                mine = block[: len(self._own)]
                block -= mine.mean(axis=0)
                if self._standardised:
                    block /= np.sqrt(np.einsum("ij,ij->j", mine, mine) / np.float32(len(mine))) + _SPREAD
                means = mine
                if len(self._starts) < len(mine):
                    counts = np.diff(np.append(self._starts, len(mine)))[:, None]
                    sums: _Block = np.add.reduceat(mine[self._order], self._starts, axis=0)
                    means = np.divide(sums, counts, dtype=np.float32)
                yield means, mine, block[len(self._own) :]


class RawLinear(InnerProducts):
    """Standardise every coordinate of the chosen layers by the attacker's own updates, and classify linearly.

    Parameters
    ----------
    layers, C, classifier, rows
        See `InnerProducts`.
    """

    def __init__(
        self,
        layers: str | Sequence[str] = ("first",),
        C: float = 1.0,
        classifier: str = "ridge",
        rows: int = 2048,
    ) -> None:
        super().__init__(layers, C, classifier, rows)


_Block = NDArray[np.float32]


def _runs(speakers: Sequence[str], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut updates into at most so many runs, each of one speaker: where runs start in which order of the updates."""
    names = np.array(speakers)
    order = np.argsort(names, kind="stable")
    lengths = np.unique(names, return_counts=True)[1]
    length = 1
    while int(np.sum(-(-lengths // length))) > most and length < int(lengths.max()):
        length += 1
    firsts = np.append(0, np.cumsum(lengths)[:-1])
    starts = [np.arange(first, first + count, length) for first, count in zip(firsts, lengths, strict=True)]
    return np.concatenate(starts), order


def _spread(rows: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return one row an update: those of the updates that hold the arrays, NaN for the others."""
    if held.all():
        return rows
    spread = np.full((len(held), rows.shape[1]), np.nan)
    spread[held] = rows
    return spread
