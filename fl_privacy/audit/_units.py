"""Rows, clients and speakers: checks on names and labels, and evidence combined over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from .metrics import Floats

Names = NDArray[Any]


def names_of(values: ArrayLike, n: int, what: str) -> Names:
    """An array of `n` names (text or numbers), refused when their number differs or one is missing."""
    names = np.asarray(values)
    if names.shape != (n,):
        raise UserError(f"{n} scores, but {what} of shape {names.shape}: give one for each score.")
    missing = np.array([name is None or name != name for name in names.tolist()], dtype=bool)
    if missing.any():
        raise UserError(f"{what}: {missing.sum()} of {n} are missing, the first at index {int(np.argmax(missing))}.")
    return names.astype(str) if names.dtype == object else names


def binary_labels(labels: ArrayLike, n: int, positive: Any) -> tuple[NDArray[np.bool_], Any, Any]:
    """Which of `n` labels are the positive one, the positive label, and the negative label."""
    names = names_of(labels, n, "labels")
    values = np.unique(names).tolist()
    if len(values) != 2:
        shown = ", ".join(repr(value) for value in values[:5])
        raise UserError(f"An audit needs two distinct labels; got {len(values)}: {shown}.")
    chosen = values[-1] if positive is None else positive
    if chosen not in values:
        raise UserError(f"The positive label {chosen!r} is not among the labels {values[0]!r} and {values[1]!r}.")
    chosen = values[values.index(chosen)]
    return names == chosen, chosen, values[0] if chosen == values[1] else values[1]


def gather(keys: Names, values: Names, key: str, plural: str) -> tuple[Names, NDArray[np.int64], Names]:
    """Distinct keys, each row's index among them, and the one value that each key has.

    Raises
    ------
    UserError
        When a key has two values.
    """
    distinct, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    clash = np.flatnonzero(values != values[first[codes]])
    if clash.size:
        row = int(clash[0])
        raise UserError(
            f"{key.capitalize()} {keys[row]} has two {plural}: {values[first[codes[row]]]} and {values[row]} "
            f"(row {row}); there must be one."
        )
    return distinct, codes.astype(np.int64), values[first]


@dataclass(frozen=True)
class Units:
    """What is scored, one entry each: rows, clients or speakers.

    Attributes
    ----------
    evidence : ndarray of float, shape (units, e)
        What an attack says of each.
    truth : ndarray, shape (units,)
        What is true of each.
    groups : ndarray, shape (units,)
        The speaker of each.
    """

    evidence: Floats
    truth: NDArray[Any]
    groups: Names

    def combined(self, keys: Names, correlation: float) -> Units:
        """Evidence added up over equal keys, as far as it is not the same evidence, in the keys' sorted order."""
        _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
        sums = np.stack([np.bincount(codes, weights=column) for column in self.evidence.T], axis=1)
        times = 1 + (np.bincount(codes)[:, None] - 1) * correlation
        return Units(sums / times, self.truth[first], self.groups[first])

    def per_speaker(self, rates: Floats, chosen: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats]:
        """For each speaker the mean of its units' rates, and their number; of the chosen units."""
        groups, rates = (self.groups, rates) if chosen is None else (self.groups[chosen], rates[chosen])
        codes = np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(codes).astype(np.float64)
        return np.bincount(codes, weights=rates) / sizes, sizes
