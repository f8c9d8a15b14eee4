"""What a result is held against: the majority, permuted speakers, and attackers that never look at the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ._units import gather, names_of
from .base import AnyAudit
from .claims import Estimate
from .metrics import Floats, as_scores

__all__ = [
    "CHANCE",
    "PValue",
    "best_blind",
    "chance",
    "paired_difference",
    "permutation_null",
    "permutation_p_value",
    "speaker_permutations",
]

A = TypeVar("A", bound=AnyAudit)

#: The blind baseline that is always there: guessing.
CHANCE = "chance"


@dataclass(frozen=True)
class PValue:
    """A permutation p-value.

    Attributes
    ----------
    value : float
        (1 + permuted statistics at least as large as the observed) / (1 + n).
    smallest : float
        The smallest value that n permutations can give, 1 / (1 + n).
    n : int
        Number of permutations.
    """

    value: float
    smallest: float
    n: int


def permutation_p_value(observed: float, null: ArrayLike) -> PValue:
    """How often permuted labels do at least as well; never zero (Phipson and Smyth, 2010).

    Parameters
    ----------
    observed : float
        Statistic with the true labels, higher meaning a better attack.
    null : array_like, shape (n,)
        The same statistic with permuted labels.
    """
    values = as_scores(null, "null statistics")
    n = values.size
    return PValue((1 + int(np.sum(values >= observed))) / (1 + n), 1 / (1 + n), n)


def permutation_null(
    statistic: Callable[[NDArray[Any]], float], speakers: ArrayLike, labels: ArrayLike, n: int, seed: int
) -> Floats:
    """A statistic under permuted labels of speakers: the map from speakers to labels is permuted, at the source.

    All rows of a speaker move together, and the number of speakers with each label stays. Maps are drawn without
    repeats and without the true one, which keeps `permutation_p_value` valid also where there are few of them: with
    fewer than `n` other maps, each is used once and the result is shorter than `n`.

    Parameters
    ----------
    statistic : callable
        Given permuted labels, shape (rows,), runs whatever has to be run again and gives the statistic.
    speakers, labels : array_like, shape (rows,)
    n : int
        Permutations wanted, at least 1.
    seed : int

    Returns
    -------
    ndarray, shape (min(n, other maps),)

    Raises
    ------
    UserError
        When lengths differ, a speaker has two labels, there is no other map, or `n` is not positive.
    """
    return np.array([float(statistic(row)) for row in speaker_permutations(speakers, labels, n, seed)])


def speaker_permutations(speakers: ArrayLike, labels: ArrayLike, n: int, seed: int) -> Iterator[NDArray[Any]]:
    """Draw distinct permutations of the map from speakers to labels, never the true one.

    Parameters and errors are as for `permutation_null`; yields the permuted label of each row, at most `n` times.
    """
    names = np.asarray(labels)
    if names.ndim != 1 or names.size == 0:
        raise UserError(f"labels must be a non-empty list; got an array of shape {names.shape}.")
    _, codes, truth = gather(
        names_of(speakers, names.size, "speakers"), names_of(names, names.size, "labels"), "speaker", "labels"
    )
    counts = np.unique(truth, return_counts=True)[1].tolist()
    others = math.factorial(truth.size) // math.prod(math.factorial(count) for count in counts) - 1
    if n < 1 or others < 1:
        raise UserError(f"Nothing to permute: {n} permutations of {truth.size} speakers with {len(counts)} label(s).")
    rng = np.random.default_rng(seed)
    seen = {truth.tobytes()}
    while len(seen) <= min(n, others):
        permuted: NDArray[Any] = rng.permutation(truth)
        if permuted.tobytes() not in seen:
            seen.add(permuted.tobytes())
            yield permuted[codes]


def chance(audit: A) -> A:
    """The blind baseline that gives every observation of `audit` the same score."""
    return audit.blank(CHANCE)


def best_blind(audits: Iterable[AnyAudit]) -> str:
    """Name of the blind baseline with the highest headline over speakers; "chance" where none is above chance."""
    best, name = -math.inf, CHANCE
    for audit in audits:
        value = audit.headline_value()
        if value > max(best, audit.chance_level):
            best, name = value, audit.name
    return name


def paired_difference(attack: A, blind: A) -> Estimate:
    """Headline of an attack less that of a blind baseline, over the same speakers.

    Raises
    ------
    UserError
        When the two audits differ in their speakers or in a speaker's label.
    """
    speakers, _, truth = attack.speaker_scores()
    others, _, blind_truth = blind.speaker_scores()
    attack.check_same_kind(blind)
    mine, theirs = set(speakers.tolist()), set(others.tolist())
    if mine != theirs:
        odd = sorted(map(str, mine ^ theirs))
        raise UserError(
            f"{attack.name} and {blind.name} were not scored on the same speakers: {len(odd)} are in one alone, "
            f"such as {odd[0]}."
        )
    if not np.array_equal(truth, blind_truth):
        raise UserError(f"{attack.name} and {blind.name} disagree on the labels of the same speakers.")
    counts = attack.counts()
    value, ends = attack.headline_value() - blind.headline_value(), attack.headline_difference(blind)
    if ends is None:
        whole = attack.headline_estimate()
        return replace(whole, value=value, low=None, high=None)
    return Estimate(value, *ends, attack.confidence, counts["n_positive"], counts["n_negative"], len(speakers))
