"""The audit of swapped roles: several targets, in some of which a speaker is positive and in others negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from ..errors import UserError
from . import intervals, metrics
from ._placement import Placed, placed_interval
from ._pulls import correlation_of, mover
from ._units import Names, names_of
from .claims import Claim, Estimate
from .controls import PValue, permutation_p_value
from .metrics import Floats

_LEAST = 0.25
"""The smallest share of the Hanley-McNeil variance that several targets may bring an interval down to."""


class SwappedAudit:
    """How well scores tell members from non-members of several targets, where every speaker has been both.

    One target's AUC over some twenty members varies by several points with who they are; the mean over targets with
    roles swapped does so far less, and what belongs to a speaker (a steady voice, a good microphone) counts once for
    and once against. A speaker is one independent unit however many rows it has.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Higher for members; a row is a speaker, or one of a speaker's utterances, before a target.
    members : array_like of bool, shape (n,)
    speakers, targets : array_like, shape (n,)
        Of each row.
    utterances : array_like, shape (n,), optional
        Of each row, where rows are utterances: what is attacked is then an utterance, the independent unit stays the
        speaker. The utterances of a speaker before a target may have different roles.
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
        utterances: ArrayLike | None = None,
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
        self.utterances: Names | None = None if utterances is None else names_of(utterances, n, "utterances")
        if self.decisions.size != n:
            raise UserError(f"{n} scores, but {self.decisions.size} decisions: give one for each score.")
        self.name, self.confidence = name, confidence
        for target in np.unique(self.targets):
            kinds = np.unique(self.members[self.targets == target])
            if kinds.size < 2:
                raise UserError(f"target {target} has no {'non-members' if kinds[0] else 'members'}")
        both = tuple(int(np.unique(self.speakers[kind]).size) for kind in (self.members, ~self.members))
        self._of_each = both[0], both[1]
        if min(both) < 2:
            raise UserError("An audit needs at least two speakers who are members of a target, and two who are not.")

    @property
    def unit(self) -> str:
        """What is attacked: "speaker" or "utterance"."""
        return "speaker" if self.utterances is None else "utterance"

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
        With rows of utterances the least variance is that of so many independent utterances; what a speaker's
        utterances have in common enters through the speakers' pulls. Of one target the variance is never less than
        Hanley and McNeil's.
        """
        placed = self._placed()
        return self._estimate(placed.value, self._ends(placed))

    def difference(self, other: SwappedAudit) -> Estimate:
        """AUC of this attack less that of another on the same rows, in the same order.

        Raises
        ------
        UserError
            Where the rows differ.
        """
        rows = ("speakers", "targets", "members", "utterances")
        same = [np.array_equal(getattr(self, k), getattr(other, k)) for k in rows]
        if not all(same):
            raise UserError(f"{self.name} and {other.name} were not scored on the same rows.")
        mine, theirs = self._placed(), other._placed()
        ends = mover(mine.value, self._ends(mine), theirs.value, other._ends(theirs), correlation_of(mine, theirs))
        return self._estimate(mine.value - theirs.value, (max(ends[0], -1.0), min(ends[1], 1.0)))

    def permutation(self, n: int, seed: int) -> PValue:
        """How often speakers with each other's roles do at least as well; see `permuted`."""
        return permutation_p_value(self.auc().value or 0.0, self.permuted(n, seed))

    def permuted(self, n: int, seed: int) -> Floats:
        """Return the AUCs (n,) of these scores with roles permuted over speakers.

        All roles of a speaker move together to another speaker who was judged before the same targets, so that every
        target keeps its numbers of speakers. Where utterances of a speaker have different roles, all roles of an
        utterance move to another utterance of the same speaker instead.

        Parameters
        ----------
        n : int
            Permutations.
        seed : int

        Raises
        ------
        UserError
            If there is none, or a speaker (an utterance) has several rows before a target.
        """
        if n < 1:
            raise UserError(f"a permutation test needs a permutation at least; got {n}")
        codes, within = self._movable()
        targets = np.unique(self.targets, return_inverse=True)[1]
        count, before = int(codes.max()) + 1, int(targets.max()) + 1
        roles = np.full((count, before), np.nan)
        roles[codes, targets] = self.members
        groups: dict[tuple[int, bytes], list[int]] = {}
        for number, row in enumerate(np.isfinite(roles)):
            groups.setdefault((int(within[number]), row.tobytes()), []).append(number)
        rng = np.random.default_rng(seed)
        of_target = [np.flatnonzero(targets == target) for target in range(before)]
        ranks = [rankdata(self.scores[rows]) for rows in of_target]
        null = []
        for _ in range(n):
            moved = roles.copy()
            for alike in groups.values():
                moved[alike] = roles[rng.permutation(alike)]
            now = moved[codes, targets] == 1
            null.append(np.mean([_auc_of(placed, now[rows]) for placed, rows in zip(ranks, of_target, strict=True)]))
        return np.array(null)

    def _movable(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number, for each row, the speaker or utterance whose roles move together; and its stratum, for each."""
        speakers = np.unique(self.speakers, return_inverse=True)[1]
        targets = np.unique(self.targets, return_inverse=True)[1]
        if self.utterances is None:
            if len(np.unique(np.stack([speakers, targets]), axis=1).T) != self.scores.size:
                raise UserError("a permutation test needs one row for each speaker before a target")
            return speakers, np.zeros(int(speakers.max()) + 1, dtype=np.int64)
        yes, rows = (np.zeros((int(speakers.max()) + 1, int(targets.max()) + 1)) for _ in range(2))
        np.add.at(yes, (speakers, targets), self.members)
        np.add.at(rows, (speakers, targets), 1)
        if ((yes == 0) | (yes == rows)).all():
            return speakers, np.zeros(len(rows), dtype=np.int64)
        utterances = np.unique(self.utterances, return_inverse=True)[1]
        if len(np.unique(np.stack([utterances, targets]), axis=1).T) != self.scores.size:
            raise UserError("a permutation test needs one row for each utterance before a target")
        owner = np.zeros(int(utterances.max()) + 1, dtype=np.int64)
        owner[utterances] = speakers
        return utterances, owner

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
        rates = {f"tpr_at_fpr_{fpr:g}": self.tpr_at_fpr(fpr) for fpr in metrics.FPRS}
        return {"auc": self.auc(), "accuracy": self.accuracy(), **rates}

    def claims(self, **context: Any) -> list[Claim]:
        """The rows of result.json; further fields of `Claim` as keywords."""
        shared = {"attack": self.name, "unit": self.unit, "attribute": "membership", **context}
        return [Claim(**shared, metric=metric, **vars(estimate)) for metric, estimate in self.estimates().items()]

    def _placed(self) -> Placed:
        names, codes = np.unique(self.speakers, return_inverse=True)
        pulls = np.zeros(names.size)
        values = []
        targets = np.unique(self.targets)
        for target in targets:
            mine = np.flatnonzero(self.targets == target)
            yes, no = mine[self.members[mine]], mine[~self.members[mine]]
            beats = metrics.share_below(self.scores[yes], self.scores[no])
            beaten = 1.0 - metrics.share_below(self.scores[no], self.scores[yes])
            value = float(beats.mean())
            values.append(value)
            whole = np.zeros(names.size)
            for rows, placements in ((yes, beats), (no, beaten)):
                np.add.at(whole, codes[rows], (placements - value) / rows.size)
            if self.utterances is not None:
                whole = self._left_out(codes, yes, no, beats, beaten, value, whole)
            pulls += whole / targets.size
        # One stratum: a speaker's rows of either kind pull together.
        return Placed(round(float(np.mean(values)), 12), (pulls,), self._of_each)

    def _left_out(
        self,
        codes: NDArray[np.int64],
        yes: NDArray[np.int64],
        no: NDArray[np.int64],
        beats: Floats,
        beaten: Floats,
        value: float,
        otherwise: Floats,
    ) -> Floats:
        """What leaving each speaker out changes in a target's AUC: the jackknife's pulls.

        A few speakers with unequal numbers of utterances pull harder than the linear form `otherwise` says; that stays
        where nobody of a kind would be left.
        """
        count = otherwise.size
        mine = [np.bincount(codes[rows], minlength=count).astype(np.float64) for rows in (yes, no)]
        lost = np.bincount(codes[yes], beats, count) * no.size + np.bincount(codes[no], beaten, count) * yes.size
        for code in np.flatnonzero((mine[0] > 0) & (mine[1] > 0)):
            one, other = self.scores[yes[codes[yes] == code]], self.scores[no[codes[no] == code]]
            lost[code] -= metrics.share_below(one, other).sum() * other.size
        left = (yes.size - mine[0]) * (no.size - mine[1])
        whole = value * yes.size * no.size
        pulls = (value - (whole - lost) / np.maximum(left, 1.0)) * (count - 1) / count
        return np.where(left > 0, pulls, otherwise)

    def _ends(self, placed: Placed) -> tuple[float, float]:
        least = _LEAST if np.unique(self.targets).size > 1 else 1.0
        if self.utterances is not None:
            least *= self.n_speakers / np.unique(self.utterances).size
        return placed_interval(placed, self.confidence, least)

    def _estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        counted = self._of_each
        if self.utterances is not None:
            yes, no = (int(np.unique(self.utterances[kind]).size) for kind in (self.members, ~self.members))
            counted = yes, no
        return Estimate(value, *ends, self.confidence, *counted, self.n_speakers)


def _auc_of(ranks: Floats, members: NDArray[np.bool_]) -> float:
    """AUC of scores with these ranks."""
    yes, no = int(members.sum()), int((~members).sum())
    return float((ranks[members].sum() - yes * (yes + 1) / 2) / (yes * no))
