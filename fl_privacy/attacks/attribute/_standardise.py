"""Updates of a layer, standardised by the attacker's own, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates import Layer, Update

EPSILON = 1e-5
"""Added to every spread, as published (Feng et al.): a coordinate that hardly moves is not blown up."""


@dataclass(frozen=True)
class Standard:
    """Mean and spread of each coordinate of a layer.

    Attributes
    ----------
    layer : Layer
    mean, spread : tuple of ndarray
        For each of the layer's arrays, float32, in the array's own shape; the spread with `EPSILON` added.
    """

    layer: Layer
    mean: tuple[NDArray[np.float32], ...]
    spread: tuple[NDArray[np.float32], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Units and inputs of the layer."""
        rows, columns = self.mean[0].shape
        return (columns, rows) if self.layer.transposed else (rows, columns)

    @property
    def weights(self) -> int:
        """How many weights the layer has, its bias not counted."""
        return int(self.mean[0].size)

    def read(self, updates: Sequence[Update]) -> list[NDArray[np.float32]]:
        """Return the standardised weights, (n, units, inputs), and, where there is one, the bias, (n, units)."""
        read = []
        for name, mean, spread in zip(self.layer.arrays, self.mean, self.spread, strict=True):
            stack = np.empty((len(updates), *mean.shape), dtype=np.float32)
            for row, update in zip(stack, updates, strict=True):
                np.subtract(update.arrays[name], mean, out=row)
                row /= spread
            read.append(stack)
        if self.layer.transposed:
            read[0] = np.ascontiguousarray(read[0].swapaxes(1, 2))
        return read


def standards(updates: Sequence[Update], layers: Sequence[Layer]) -> tuple[tuple[Standard, ...], NDArray[np.bool_]]:
    """Learn mean and spread in one pass over updates that hold these layers; sums are of doubles.

    Parameters
    ----------
    updates : sequence of Update
        Read one at a time.
    layers : sequence of Layer

    Returns
    -------
    tuple of (tuple of Standard, ndarray of bool)
        One standard a layer, and for each update whether all its numbers are finite: others are not counted.
    """
    names = [name for layer in layers for name in layer.arrays]
    sums = {name: np.zeros(updates[0].arrays[name].shape) for name in names}
    squares = {name: np.zeros_like(total) for name, total in sums.items()}
    finite = np.zeros(len(updates), dtype=np.bool_)
    for number, update in enumerate(updates):
        arrays = {name: update.arrays[name].astype(np.float64) for name in names}
        finite[number] = all(np.isfinite(array).all() for array in arrays.values())
        if finite[number]:
            for name, array in arrays.items():
                sums[name] += array
                squares[name] += np.square(array, out=array)
    count = max(int(finite.sum()), 1)
    mean = {name: total / count for name, total in sums.items()}
    spread = {
        name: np.sqrt(np.maximum(total / count - np.square(mean[name]), 0.0)) + EPSILON
        for name, total in squares.items()
    }
    made = [
        Standard(
            layer,
            tuple(mean[name].astype(np.float32) for name in layer.arrays),
            tuple(spread[name].astype(np.float32) for name in layer.arrays),
        )
        for layer in layers
    ]
    return tuple(made), finite
