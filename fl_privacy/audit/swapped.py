"""The audit of swapped roles: several targets, in some of which a speaker is positive and in others negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from . import intervals, metrics
from ._placement import Placed, placed_interval
from ._pulls import correlation_of, mover
from ._units import Names, names_of
from .claims import Claim, Estimate
from .controls import PValue, permutation_p_value
from .metrics import Floats

FPRS = (0.01, 0.001)

_LEAST = 0.25


class SwappedAudit:
    """How well scores tell members from non-members of several targets, where every speaker has been both.

    One target's AUC over some twenty members varies by several points with who they are; the mean over targets with
    roles swapped does so far less, and what belongs to a speaker (a steady voice, a good microphone) counts once for
    and once against. A speaker is one independent unit however many rows it has.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Higher for members; a row is a speaker before a target.
    members : array_like of bool, shape (n,)
    speakers, targets : array_like, shape (n,)
        Of each row.
    decisions : array_like, shape (n,), optional
        A row is called a member where this is positive; by default the scores.
    name : str
        Of the attack.
    confidence : float
        Of every interval.

    Raises
    ------
    UserError
        When lengths differ, a score is not finite, a target lacks members or non-members, or there are fewer than two
        speakers of a kind.
    """

    def __init__(
        self,
        scores: ArrayLike,
        members: ArrayLike,
        speakers: ArrayLike,
        targets: ArrayLike,
        *,
        decisions: ArrayLike | None = None,
        name: str = "attack",
        confidence: float = 0.95,
    ) -> None:
        self.scores: Floats = metrics.as_scores(scores, "scores")
        n = self.scores.size
        self.decisions: Floats = self.scores if decisions is None else metrics.as_scores(decisions, "decisions")
        self.members: NDArray[np.bool_] = names_of(members, n, "members").astype(bool)
        self.speakers: Names = names_of(speakers, n, "speakers")
        self.targets: Names = names_of(targets, n, "targets")
        if self.decisions.size != n:
            raise UserError(f"{n} scores, but {self.decisions.size} decisions: give one for each score.")
        self.name, self.confidence = name, confidence
        for target in np.unique(self.targets):
            kinds = np.unique(self.members[self.targets == target])
            if kinds.size < 2:
                raise UserError(f"target {target} has no {'non-members' if kinds[0] else 'members'}")
        self._n_members = np.unique(self.speakers[self.members]).size
        self._n_nonmembers = np.unique(self.speakers[~self.members]).size
        if min(self._n_members, self._n_nonmembers) < 2:
            raise UserError("An audit needs at least two speakers who are members of a target, and two who are not.")

    @property
    def n_speakers(self) -> int:
        """Number of speakers."""
        return int(np.unique(self.speakers).size)

    def by_target(self) -> dict[str, float]:
        """AUC within each target."""
        found = {}
        for target in np.unique(self.targets):
            mine = self.targets == target
            found[str(target)] = metrics.auc(self.scores[mine & self.members], self.scores[mine & ~self.members])
        return found

    def auc(self) -> Estimate:
        """Mean over targets of the AUC within a target; an interval over speakers.

        That of `intervals.auc_interval`, with the pull of a speaker added up over all its rows: what a speaker gives as
        a member and takes as a non-member is not counted as independent. Averaging over targets can bring the variance
        below Hanley and McNeil's for one target with as many speakers, down to a quarter of it here: simulated coverage
        at 12 to 72 speakers, 4 to 8 targets, AUCs of .5 to 1 and speakers with steady parts of any size was .94 to 1.
        """
        placed = self._placed()
        return self._estimate(placed.value, placed_interval(placed, self.confidence, _LEAST))

    def difference(self, other: SwappedAudit) -> Estimate:
        """AUC of this attack less that of another on the same rows, in the same order.

        Raises
        ------
        UserError
            Where the rows differ.
        """
        same = [np.array_equal(getattr(self, k), getattr(other, k)) for k in ("speakers", "targets", "members")]
        if not all(same):
            raise UserError(f"{self.name} and {other.name} were not scored on the same rows.")
        mine, theirs = self._placed(), other._placed()
        ends = mover(
            mine.value,
            placed_interval(mine, self.confidence, _LEAST),
            theirs.value,
            placed_interval(theirs, self.confidence, _LEAST),
            correlation_of(mine, theirs),
        )
        return self._estimate(mine.value - theirs.value, (max(ends[0], -1.0), min(ends[1], 1.0)))

    def permutation(self, n: int, seed: int) -> PValue:
        """How often speakers with each other's roles do at least as well; see `permuted`."""
        return permutation_p_value(self.auc().value or 0.0, self.permuted(n, seed))

    def permuted(self, n: int, seed: int) -> Floats:
        """Return the AUCs (n,) of these scores with roles permuted over speakers.

        All roles of a speaker move together to another speaker who was judged before the same targets, so that every
        target keeps its numbers.

        Parameters
        ----------
        n : int
            Permutations.
        seed : int

        Raises
        ------
        UserError
            If there is none, or speakers were not judged in groups before the same targets.
        """
        if n < 1:
            raise UserError(f"a permutation test needs a permutation at least; got {n}")
        rng = np.random.default_rng(seed)
        names, targets = np.unique(self.speakers), np.unique(self.targets)
        scores, roles = (np.full((names.size, targets.size), np.nan) for _ in range(2))
        at = np.searchsorted(names, self.speakers), np.searchsorted(targets, self.targets)
        scores[at], roles[at] = self.scores, self.members
        if np.isfinite(scores).sum() != self.scores.size:
            raise UserError("a permutation test needs one row for each speaker before a target")
        groups: dict[bytes, list[int]] = {}
        for number, row in enumerate(np.isfinite(scores)):
            groups.setdefault(row.tobytes(), []).append(number)
        null = []
        for _ in range(n):
            moved = roles.copy()
            for rows in groups.values():
                moved[rows] = roles[rng.permutation(rows)]
            null.append(np.mean([_auc_where(scores[:, t], moved[:, t]) for t in range(targets.size)]))
        return np.array(null)

    def accuracy(self) -> Estimate:
        """Fraction of right decisions over all rows."""
        right = ((self.decisions > 0) == self.members).astype(np.float64)
        codes = np.unique(self.speakers, return_inverse=True)[1]
        rows = np.bincount(codes).astype(np.float64)
        rates = np.bincount(codes, weights=right) / rows
        ends = intervals.proportion_interval(rates, rows, confidence=self.confidence)
        return self._estimate(float(right.mean()), ends)

    def rates(self) -> tuple[Estimate, Estimate]:
        """True and false positive rate of the decisions, over all rows."""
        found = []
        for kind in (True, False):
            chosen = self.members == kind
            codes = np.unique(self.speakers[chosen], return_inverse=True)[1]
            rows = np.bincount(codes).astype(np.float64)
            rates = np.bincount(codes, weights=self.decisions[chosen] > 0) / rows
            ends = intervals.proportion_interval(rates, rows, confidence=self.confidence)
            found.append(self._estimate(float((self.decisions[chosen] > 0).mean()), ends))
        return found[0], found[1]

    def over_chance(self) -> Estimate:
        """AUC less one half, which every attacker gets who knows nothing of the targets.

        With swapped roles that is so by construction: what belongs to a speaker alone counts once for and once against.
        """
        found = self.auc()
        moved = {
            name: number - 0.5 for name in ("value", "low", "high") if (number := getattr(found, name)) is not None
        }
        return replace(found, **moved)

    def tpr_at_fpr(self, fpr: float = 0.01) -> Estimate:
        """True positive rate at a false positive rate, over all rows at one threshold.

        No value, with a reason, where the non-members' rows are too few.
        """
        positive, negative = self.scores[self.members], self.scores[~self.members]
        found = metrics.tpr_at_fpr(positive, negative, fpr)
        if found.value is None:
            return replace(self._estimate(0.0, (0.0, 0.0)), value=None, low=None, high=None, reason=found.reason)
        ends = intervals.tpr_interval(
            positive,
            negative,
            fpr,
            self.speakers[self.members],
            self.speakers[~self.members],
            confidence=self.confidence,
        )
        return self._estimate(found.value, ends)

    def estimates(self) -> Mapping[str, Estimate]:
        """Every metric, by the name it has in a claim."""
        rates = {f"tpr_at_fpr_{fpr:g}": self.tpr_at_fpr(fpr) for fpr in FPRS}
        return {"auc": self.auc(), "accuracy": self.accuracy(), **rates}

    def claims(self, **context: Any) -> list[Claim]:
        """The rows of result.json over speakers; further fields of `Claim` as keywords."""
        shared = {"attack": self.name, "unit": "speaker", "attribute": "membership", **context}
        return [Claim(**shared, metric=metric, **vars(estimate)) for metric, estimate in self.estimates().items()]

    def _placed(self) -> Placed:
        names, codes = np.unique(self.speakers, return_inverse=True)
        pulls = np.zeros(names.size)
        values = []
        targets = np.unique(self.targets)
        for target in targets:
            mine = np.flatnonzero(self.targets == target)
            yes, no = mine[self.members[mine]], mine[~self.members[mine]]
            above = np.sign(self.scores[yes][:, None] - self.scores[no][None, :]) / 2 + 0.5
            value = float(above.mean())
            values.append(value)
            for rows, placements in ((yes, above.mean(axis=1)), (no, above.mean(axis=0))):
                np.add.at(pulls, codes[rows], (placements - value) / (rows.size * targets.size))
        # One stratum: a speaker's rows of either kind pull together.
        return Placed(round(float(np.mean(values)), 12), (pulls,), (self._n_members, self._n_nonmembers))

    def _estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        return Estimate(value, *ends, self.confidence, self._n_members, self._n_nonmembers, self.n_speakers)


def _auc_where(scores: Floats, members: Floats) -> float:
    return metrics.auc(scores[members == 1], scores[members == 0])
