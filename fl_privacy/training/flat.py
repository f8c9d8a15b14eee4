"""A model's arrays in one piece of memory, so that setting, averaging and checking them is one operation each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16
"""In numbers of 4 bytes. Products of matrices that begin elsewhere may differ in their last bits."""


class Flat:
    """Named float32 arrays in one piece of memory; what lies between them is zero.

    Parameters
    ----------
    shapes : Mapping[str, tuple of int]
        Shape of each array.
    whole : Tensor, optional
        Zeros of `Flat.size(shapes)` numbers to lie in; new memory by default.

    Attributes
    ----------
    whole : Tensor, (size,)
        All of it.
    tensors : dict of str to Tensor
        Each array, as a view.
    arrays : dict of str to ndarray
        The same as NumPy arrays.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], whole: Tensor | None = None) -> None:
        self.whole = torch.zeros(self.size(shapes)) if whole is None else whole
        self.tensors: dict[str, Tensor] = {}
        at = 0
        for name, shape in shapes.items():
            self.tensors[name] = self.whole[at : at + math.prod(shape)].view(shape)
            at += _padded(math.prod(shape))
        self.arrays: dict[str, NDArray[np.float32]] = {name: tensor.numpy() for name, tensor in self.tensors.items()}

    @staticmethod
    def size(shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return how many numbers the arrays take, with what lies between them."""
        return sum(_padded(math.prod(shape)) for shape in shapes.values())

    def fill(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy arrays of these names and shapes in.

        Raises
        ------
        ValueError
            Where a shape is another.
        """
        for name, array in self.arrays.items():
            if np.shape(arrays[name]) != array.shape:
                raise ValueError(f"{name} has shape {np.shape(arrays[name])}, the model's is {array.shape}")
            np.copyto(array, arrays[name], casting="same_kind")

    @property
    def broken(self) -> list[str]:
        """Names of the arrays that hold values that are not finite."""
        # The product is quick and needs no temporary; where it overflows, look closer.
        if math.isfinite(float(torch.dot(self.whole, self.whole))):
            return []
        return [name for name, array in self.arrays.items() if not np.isfinite(array).all()]


def _padded(numbers: int) -> int:
    return -(-numbers // _ALIGNMENT) * _ALIGNMENT
