"""Rows, clients and speakers: checks on names and labels, and evidence combined over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from .metrics import Floats

Names = NDArray[Any]
Truth = NDArray[np.bool_]


def names_of(values: ArrayLike, n: int, what: str) -> Names:
    """An array of `n` names (text or numbers), refused when their number differs or one is missing."""
    names = np.asarray(values)
    if names.shape != (n,):
        raise UserError(f"{n} scores, but {what} of shape {names.shape}: give one for each score.")
    missing = np.array([name is None or name != name for name in names.tolist()], dtype=bool)
    if missing.any():
        raise UserError(f"{what}: {missing.sum()} of {n} are missing, the first at index {int(np.argmax(missing))}.")
    return names.astype(str) if names.dtype == object else names


def binary_labels(labels: ArrayLike, n: int, positive: Any) -> tuple[Truth, Any, Any]:
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


def check_one_label(groups: Names, labels: Truth, names: tuple[Any, Any]) -> None:
    """Refuse a speaker with both labels; `names` are the negative and the positive."""
    gather(groups, np.array(names)[labels.astype(int)], "speaker", "labels")


@dataclass(frozen=True)
class Units:
    """What is scored, one entry each: rows, clients or speakers.

    Attributes
    ----------
    scores, decisions : ndarray of float, shape (units,)
        Evidence to rank and to decide by.
    labels : ndarray of bool, shape (units,)
    groups : ndarray, shape (units,)
        The speaker of each.
    """

    scores: Floats
    decisions: Floats
    labels: Truth
    groups: Names

    def combined(self, keys: Names, mean: bool) -> Units:
        """Evidence summed, or averaged, over equal keys, in the keys' sorted order."""
        distinct, codes, labels = gather(keys, self.labels, "unit", "labels")
        groups = gather(keys, self.groups, "client", "speakers")[2]
        size = np.bincount(codes) if mean else np.ones(distinct.size)
        scores, decisions = (np.bincount(codes, weights=w) / size for w in (self.scores, self.decisions))
        return Units(scores, decisions, labels, groups)

    def sample(self) -> tuple[Floats, Floats, Names, Names]:
        """Scores of positives and negatives, then the speakers of both, in the order that the intervals take them."""
        return self.scores[self.labels], self.scores[~self.labels], self.groups[self.labels], self.groups[~self.labels]

    def hits(self) -> tuple[Floats, Floats]:
        """For each speaker the fraction of its units decided rightly, and their number."""
        return self._rates(np.ones_like(self.labels))

    def recalls(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Fractions decided rightly of positive and negative speakers, then their numbers of units."""
        (positive, positive_sizes), (negative, negative_sizes) = self._rates(self.labels), self._rates(~self.labels)
        return positive, negative, positive_sizes, negative_sizes

    def _rates(self, chosen: Truth) -> tuple[Floats, Floats]:
        codes = np.unique(self.groups[chosen], return_inverse=True)[1]
        sizes = np.bincount(codes).astype(np.float64)
        right = (self.decisions > 0) == self.labels
        return np.bincount(codes, weights=right[chosen]) / sizes, sizes
