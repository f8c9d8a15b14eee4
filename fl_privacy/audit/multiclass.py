"""The audit of attributes with several values: an accent, an age group, a statement, the speaker among candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from . import intervals, metrics
from ._units import Names, Units, names_of
from .base import AnyAudit
from .claims import Estimate
from .intervals import Interval
from .metrics import Floats

#: With more classes than this, claims also say how near the top of the list the true class is.
MANY = 10
#: How near.
BEST = 5


class MulticlassAudit(AnyAudit):
    """How well scores tell k kinds of speakers apart.

    The headline is `auc`, Hand and Till's AUC of k classes: evidence, not decisions, so that an attacker who does not
    know how common the classes are loses nothing, and the same question as of two classes: is a speaker of one class
    told from one of another? With two classes it is the AUC of `Audit`.

    Parameters
    ----------
    scores : array_like, shape (n, k)
        The attack's evidence for each class, a column each, higher meaning more likely; at best log-probabilities,
        since evidence is summed over a speaker's observations. What is added to a whole row makes no difference.
    labels : array_like, shape (n,)
        The true class of each observation, the same for all of a speaker.
    groups : array_like, shape (n,), optional
        The speaker of each observation, the independent unit; by default each observation is a speaker.
    classes : sequence, optional
        The class of each column; by default the labels that occur, sorted. At least two must occur. Where each speaker
        is a class of its own, the question is who it is, among k candidates.
    confidence, clients, aggregate, name
        As for `Audit`.
    decisions : array_like, shape (n, k), optional
        Scores to decide by, where these differ from the scores to rank by (see `standardise_runs`). The class with the
        highest is named; a tie shares the point.

    Attributes
    ----------
    scores, decisions : ndarray of float, shape (n, k)
    labels : ndarray of int, shape (n,)
        The column of each row's class.
    classes : tuple

    Raises
    ------
    UserError
        When shapes differ, a score is not finite, a label is no class, a speaker has two, or fewer than two occur.

    Examples
    --------
    >>> scores = [[2.0, 0.5, 0.1], [0.3, 1.0, 0.4], [0.2, 0.6, 0.5], [1.5, 0.2, 0.3]]
    >>> audit = MulticlassAudit(scores, ["irish", "welsh", "scottish", "irish"], classes=["irish", "welsh", "scottish"])
    >>> audit.accuracy().value
    0.75
    """

    headline = "auc"
    chance_level = 0.5

    def __init__(
        self,
        scores: ArrayLike,
        labels: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        classes: Sequence[Any] | None = None,
        confidence: float = 0.95,
        clients: ArrayLike | None = None,
        aggregate: str | float = "sum",
        name: str = "attack",
        decisions: ArrayLike | None = None,
    ) -> None:
        self.scores: Floats = metrics.as_table(scores, "scores")
        n, k = self.scores.shape
        names = names_of(labels, n, "labels")
        self.classes: tuple[Any, ...] = tuple(np.unique(names).tolist() if classes is None else classes)
        if len(self.classes) != k or len(set(self.classes)) != k:
            raise UserError(f"{k} columns of scores, but {len(set(self.classes))} classes: one for each column.")
        self.labels = _codes(names, self.classes)
        if np.all(self.labels == self.labels[0]):
            raise UserError(f"An audit needs two classes that occur; got {self.classes[self.labels[0]]!r} alone.")
        self.decisions: Floats = self.scores if decisions is None else metrics.as_table(decisions, "decisions")
        if self.decisions.shape != (n, k):
            raise UserError(f"scores of shape {(n, k)}, but decisions of shape {self.decisions.shape}.")
        super().__init__(
            np.concatenate([self.scores, self.decisions], axis=1),
            self.labels,
            groups,
            clients,
            shown=np.array([str(c) for c in self.classes])[self.labels],
            what="labels",
            confidence=confidence,
            aggregate=aggregate,
            name=name,
        )
        if self.n_speakers < 2:
            raise UserError("An audit needs at least two speakers.")

    def auc(self, unit: str = "speaker") -> Estimate:
        """Hand and Till's AUC over all pairs of classes (`metrics.hand_till`), with an interval over speakers.

        Parameters
        ----------
        unit : {"speaker", "client", "update", "utterance"}
            "update" and "utterance" both mean one row each.
        """
        units = self.combined(unit)
        scores = self._ranked(units)
        return self._estimate(
            metrics.hand_till(scores, units.truth),
            intervals.hand_till_interval(scores, units.truth, units.groups, confidence=self.confidence),
        )

    def uar(self, unit: str = "speaker") -> Estimate:
        """Mean, over the classes that occur, of the fraction decided rightly; an interval over speakers."""
        units = self.combined(unit)
        right = metrics.among_best(self._decided(units), units.truth)
        chosen = [units.truth == c for c in np.unique(units.truth)]
        rates, sizes = zip(*(units.per_speaker(right, mine) for mine in chosen), strict=True)
        return self._estimate(
            float(np.mean([right[mine].mean() for mine in chosen])),
            intervals.mean_recall_interval(rates, sizes, confidence=self.confidence),
        )

    def accuracy(self, unit: str = "speaker", best: int = 1) -> Estimate:
        """Fraction decided rightly: the true class is among the `best` highest scores.

        The interval is the exact one of a proportion of the speakers.
        """
        units = self.combined(unit)
        right = metrics.among_best(self._decided(units), units.truth, best)
        return self._estimate(float(right.mean()), self._proportion(units, right))

    def mean_rank(self, unit: str = "speaker") -> Estimate:
        """Mean place of the true class in the attack's list: 1 is the first, (k + 1) / 2 is chance.

        The interval takes places as a proportion of the way down, which holds for whatever spread they have.
        """
        units = self.combined(unit)
        above, equal = metrics.ranks_of_truth(self._decided(units), units.truth)
        down, k = above + (equal - 1) / 2, len(self.classes)
        low, high = self._proportion(units, down / (k - 1))
        return self._estimate(float(1 + down.mean()), (1 + (k - 1) * low, 1 + (k - 1) * high))

    def estimates(self, unit: str = "speaker") -> dict[str, Estimate]:
        """Every metric over one unit; with more than 10 classes also top_5_accuracy and mean_rank."""
        found = {"auc": self.auc(unit), "uar": self.uar(unit), "accuracy": self.accuracy(unit)}
        if len(self.classes) > MANY:
            found |= {f"top_{BEST}_accuracy": self.accuracy(unit, BEST), "mean_rank": self.mean_rank(unit)}
        return found

    def headline_estimate(self, unit: str = "speaker") -> Estimate:
        """`auc`."""
        return self.auc(unit)

    def headline_value(self, scores: ArrayLike | None = None, truth: ArrayLike | None = None) -> float:
        """Hand and Till's AUC over speakers, of other scores (s, k) or of another truth (s,), columns of classes."""
        units = self.combined("speaker")
        return metrics.hand_till(
            self._ranked(units) if scores is None else scores, units.truth if truth is None else truth
        )

    def headline_difference(self, other: Self) -> Interval | None:
        """`intervals.hand_till_difference_interval` over speakers."""
        mine, theirs = self._ranked(self.combined("speaker")), other._ranked(other.combined("speaker"))
        return intervals.hand_till_difference_interval(
            mine, theirs, self.combined("speaker").truth, confidence=self.confidence
        )

    def majority(self) -> dict[str, float]:
        """What naming the classes by how common they are among the speakers gets, by metric."""
        truth = self.combined("speaker").truth
        counts = np.bincount(truth, minlength=len(self.classes))
        evidence = np.tile(counts, (truth.size, 2)).astype(np.float64)
        by_count = self.rebuilt(Units(evidence, truth, self.combined("speaker").groups), None)
        return {metric: float(found.value or 0.0) for metric, found in by_count.estimates().items()}

    def speaker_scores(self) -> tuple[Names, Floats, NDArray[np.int64]]:
        """Speakers in sorted order, the evidence combined for each, shape (s, k), and the column of its class."""
        units = self.combined("speaker")
        return units.groups, self._ranked(units), units.truth

    def with_scores(self, scores: ArrayLike, *, name: str | None = None) -> Self:
        """The same rows under another attack's scores, shape (n, k)."""
        table = metrics.as_table(scores, "scores")
        evidence = np.concatenate([table, table], axis=1)
        return self.rebuilt(Units(evidence, self.truth, self.groups), self.clients, name)

    @property
    def question(self) -> str:
        """As in "which of 5 classes"."""
        return f"which of {len(self.classes)} classes"

    def columns(self) -> Mapping[str, list[Any]]:
        """Columns label, decision (the class named) and score:CLASS; decision:CLASS where the two differ."""
        best = self.decisions.argmax(axis=1)
        found: dict[str, list[Any]] = {
            "label": [self.classes[c] for c in self.labels],
            "decision": [self.classes[c] for c in best],
        }
        found |= {f"score:{c}": self.scores[:, i].tolist() for i, c in enumerate(self.classes)}
        if not np.array_equal(self.scores, self.decisions):
            found |= {f"decision:{c}": self.decisions[:, i].tolist() for i, c in enumerate(self.classes)}
        return found

    def _ranked(self, units: Units) -> Floats:
        return units.evidence[:, : len(self.classes)]

    def _decided(self, units: Units) -> Floats:
        return units.evidence[:, len(self.classes) :]

    def _proportion(self, units: Units, rates: Floats) -> Interval:
        return intervals.proportion_interval(*units.per_speaker(rates), confidence=self.confidence)

    def _estimate(self, value: float, ends: Interval) -> Estimate:
        return Estimate(value, *ends, self.confidence, None, None, self.n_speakers)

    def rebuilt(self, units: Units, clients: Names | None, name: str | None = None) -> Self:
        """An audit of other rows, with the same settings."""
        return type(self)(
            self._ranked(units),
            [self.classes[c] for c in units.truth],
            units.groups,
            classes=self.classes,
            confidence=self.confidence,
            clients=clients,
            aggregate=self.aggregate,
            name=self.name if name is None else name,
            decisions=self._decided(units),
        )

    def standardised(self) -> Units:
        """The speakers; rows less their mean, to rank also columns less theirs, over the standard deviation of all."""
        units = self.combined("speaker")
        scores, decisions = (t - t.mean(axis=1, keepdims=True) for t in (self._ranked(units), self._decided(units)))
        ranked = scores - scores.mean(axis=0)
        scale = float(ranked.std())
        # What is left of scores that are the same for all is rounding.
        if scale <= 1e-12 * np.abs(units.evidence).max():
            ranked, scale = np.zeros_like(ranked), 1.0
        return Units(np.concatenate([ranked, decisions], axis=1) / scale, units.truth, units.groups)

    def check_same_kind(self, other: Self) -> None:
        """Refuse other classes."""
        if self.classes != other.classes:
            raise UserError(f"Audits have different classes: {self.classes}, then {other.classes}.")


def _codes(labels: Names, classes: tuple[Any, ...]) -> NDArray[np.int64]:
    # Names that were None-able objects have become text.
    known = {c: i for i, c in enumerate(classes)} | {str(c): i for i, c in enumerate(classes)}
    odd = sorted({str(label) for label in labels.tolist() if label not in known})
    if odd:
        shown = ", ".join(repr(c) for c in classes[:5])
        raise UserError(f"{len(odd)} label(s) are no class, such as {odd[0]!r}; the classes are {shown}.")
    return np.array([known[label] for label in labels.tolist()], dtype=np.int64)
