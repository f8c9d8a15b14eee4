"""Crops of one length from sequences of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Crops:
    """Cuts crops at random places; what is shorter than a crop is repeated.

    Parameters
    ----------
    sequences : sequence of Tensor, each (moments, ...)
    length : int
        Moments of a crop.
    """

    def __init__(self, sequences: Sequence[Tensor], length: int) -> None:
        self.length = length
        self._sequences = [repeated(sequence, length) for sequence in sequences]
        self._spare = np.array([len(sequence) - length + 1 for sequence in self._sequences])

    def __len__(self) -> int:
        return len(self._sequences)

    def cut(self, numbers: np.ndarray[tuple[int], np.dtype[np.int64]], rng: np.random.Generator) -> Tensor:
        """Return a crop of each of some sequences, (n, length, ...)."""
        starts = rng.integers(self._spare[numbers])
        parts = [self._sequences[n][s : s + self.length] for n, s in zip(numbers, starts, strict=True)]
        if not parts:
            return self._sequences[0].new_empty(0, self.length, *self._sequences[0].shape[1:])
        return torch.stack(parts)


def repeated(sequence: Tensor, length: int) -> Tensor:
    """Return a sequence of at least a length: itself, or repeated as often as that takes."""
    if len(sequence) >= length:
        return sequence
    return sequence.repeat(-(-length // len(sequence)), *[1] * (sequence.ndim - 1))
