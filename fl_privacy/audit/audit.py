"""Scores, labels and speakers in; estimates with intervals and claims out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from . import intervals, metrics
from ._units import Names, Units, binary_labels
from .base import AnyAudit
from .claims import Estimate
from .intervals import Interval
from .metrics import Floats, majority


class Audit(AnyAudit):
    """How well scores tell two kinds of speakers apart.

    Parameters
    ----------
    scores : array_like, shape (n,)
        The attack's evidence for each observation, higher meaning more positive (at best a log-likelihood ratio, since
        evidence is summed over a speaker's observations).
    labels : array_like, shape (n,)
        The truth: two distinct values, the same for all observations of a speaker.
    groups : array_like, shape (n,), optional
        The speaker of each observation, the independent unit; by default each observation is a speaker.
    positive : optional
        Which label is positive; by default the one that sorts last (so True, 1, "male").
    confidence : float
        Of every interval.
    clients : array_like, shape (n,), optional
        The client of each observation, where a speaker's voice may be spread over several.
    aggregate : {"sum", "mean"} or float
        How a client's or speaker's observations are combined.
    name : str
        Name of the attack, for claims.
    threshold : float
        A score above it is a decision for the positive label; with "sum", evidence over it is what adds up.
    decisions : array_like, shape (n,), optional
        Scores to decide by, positive meaning a decision for the positive label, where these differ from the scores to
        rank by (see `standardise_runs`); by default ``scores - threshold``.

    Attributes
    ----------
    scores, decisions : ndarray of float, shape (n,)
    labels : ndarray of bool, shape (n,)
        True for the positive label.
    groups, clients : ndarray, shape (n,)
        `clients` is None where none were given.
    positive, negative
        The two labels.

    Raises
    ------
    UserError
        When lengths differ, a score is not finite, labels are not two, or a speaker has both.

    Examples
    --------
    >>> audit = Audit(scores=[0.1, 0.4, 0.2, 0.9, 0.8, 0.7], labels=[0, 0, 0, 1, 1, 1])
    >>> audit.auc().value
    1.0
    """

    headline = "auc"
    chance_level = 0.5

    def __init__(
        self,
        scores: ArrayLike,
        labels: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        positive: Any = None,
        confidence: float = 0.95,
        clients: ArrayLike | None = None,
        aggregate: str | float = "sum",
        name: str = "attack",
        threshold: float = 0.0,
        decisions: ArrayLike | None = None,
    ) -> None:
        self.scores: Floats = metrics.as_scores(scores, "scores")
        n = self.scores.size
        self.labels, self.positive, self.negative = binary_labels(labels, n, positive)
        self.threshold = threshold
        self.decisions: Floats = (
            self.scores - threshold if decisions is None else metrics.as_scores(decisions, "decisions")
        )
        if self.decisions.size != n:
            raise UserError(f"{n} scores, but {self.decisions.size} decisions: give one for each score.")
        super().__init__(
            np.column_stack([self.scores, self.decisions]),
            self.labels,
            groups,
            clients,
            shown=self._names(self.labels),
            what="labels",
            confidence=confidence,
            aggregate=aggregate,
            name=name,
        )

    def auc(self, unit: str = "speaker") -> Estimate:
        """Area under the ROC over rows, clients or speakers, with an interval over speakers.

        Parameters
        ----------
        unit : {"speaker", "client", "update", "utterance"}
            "update" and "utterance" both mean one row each.

        Raises
        ------
        UserError
            For an unknown unit, or "client" where the audit has no clients.
        """
        units = self.combined(unit)
        return self._estimate(
            units,
            metrics.auc(*_sample(units)[:2]),
            lambda: intervals.auc_interval(*_sample(units), confidence=self.confidence),
        )

    def uar(self, unit: str = "speaker") -> Estimate:
        """Mean of the two recalls at the threshold."""
        units = self.combined(unit)
        right = _right(units)
        (positive, positive_sizes), (negative, negative_sizes) = (
            units.per_speaker(right, units.truth == kind) for kind in (True, False)
        )
        return self._estimate(
            units,
            metrics.uar(units.evidence[:, 1] > 0, units.truth),
            lambda: intervals.uar_interval(
                positive, negative, positive_sizes, negative_sizes, confidence=self.confidence
            ),
        )

    def accuracy(self, unit: str = "speaker") -> Estimate:
        """Fraction of right decisions at the threshold."""
        units = self.combined(unit)
        return self._estimate(
            units,
            metrics.accuracy(units.evidence[:, 1] > 0, units.truth),
            lambda: intervals.proportion_interval(*units.per_speaker(_right(units)), confidence=self.confidence),
        )

    def tpr_at_fpr(self, fpr: float = 0.01, unit: str = "speaker") -> Estimate:
        """True positive rate at a false positive rate; no value, with a reason, where the negatives are too few."""
        units = self.combined(unit)
        positive, negative, *speakers = _sample(units)
        found = metrics.tpr_at_fpr(positive, negative, fpr)
        if found.value is None:
            return self._counted(units, None, None, None, found.reason)
        return self._estimate(
            units,
            found.value,
            lambda: intervals.tpr_interval(positive, negative, fpr, *speakers, confidence=self.confidence),
        )

    def eer(self, unit: str = "speaker") -> Estimate:
        """Equal error rate."""
        units = self.combined(unit)
        return self._estimate(
            units,
            metrics.eer(*_sample(units)[:2]),
            lambda: intervals.eer_interval(*_sample(units), confidence=self.confidence),
        )

    def roc(self, unit: str = "speaker") -> tuple[Floats, Floats]:
        """False and true positive rates, from (0, 0) to (1, 1), one point for each distinct score."""
        return metrics.roc(*_sample(self.combined(unit))[:2])

    def estimates(self, unit: str = "speaker") -> dict[str, Estimate]:
        """Every metric over one unit, by the name it has in a claim."""
        rates = {f"tpr_at_fpr_{fpr:g}": self.tpr_at_fpr(fpr, unit) for fpr in metrics.FPRS}
        return {
            "auc": self.auc(unit),
            "uar": self.uar(unit),
            "accuracy": self.accuracy(unit),
            **rates,
            "eer": self.eer(unit),
        }

    def headline_estimate(self, unit: str = "speaker") -> Estimate:
        """`auc`."""
        return self.auc(unit)

    def headline_value(self, scores: ArrayLike | None = None, truth: ArrayLike | None = None) -> float:
        """AUC over speakers, of other scores (s,) or of another truth (s,), True for the positive label."""
        values = self.combined("speaker").evidence[:, 0] if scores is None else np.asarray(scores, dtype=np.float64)
        positive = self.combined("speaker").truth if truth is None else np.asarray(truth, dtype=bool)
        return metrics.auc(values[positive], values[~positive])

    def headline_difference(self, other: Self) -> Interval | None:
        """`intervals.difference_interval` over speakers; None where a class has fewer than 2."""
        mine, theirs = self.combined("speaker"), other.combined("speaker")
        if _smallest(mine) < 2:
            return None
        return intervals.difference_interval(*_sample(mine)[:2], *_sample(theirs)[:2], confidence=self.confidence)

    def majority(self) -> dict[str, float]:
        """What always naming the larger class gets over speakers: accuracy, UAR and AUC."""
        return {"accuracy": majority(self.combined("speaker").truth), "uar": 0.5, "auc": 0.5}

    def speaker_scores(self) -> tuple[Names, Floats, NDArray[np.bool_]]:
        """Speakers in sorted order, the evidence combined for each, and whether each is positive."""
        units = self.combined("speaker")
        return units.groups, units.evidence[:, 0], units.truth

    def counts(self, unit: str = "speaker") -> dict[str, int | None]:
        """Units of each class, and speakers behind them, as a claim's fields."""
        truth = self.combined(unit).truth
        positive = int(truth.sum())
        return {"n_positive": positive, "n_negative": truth.size - positive, "n_speakers": self.n_speakers}

    def with_scores(self, scores: ArrayLike, *, name: str | None = None) -> Self:
        """The same rows under another attack's scores (n,), decided at the same threshold."""
        values = metrics.as_scores(scores, "scores")
        evidence = np.column_stack([values, values - self.threshold])
        return self.rebuilt(Units(evidence, self.truth, self.groups), self.clients, name)

    @property
    def question(self) -> str:
        """As in "male against female"."""
        return f"{self.positive} against {self.negative}"

    def columns(self) -> Mapping[str, list[Any]]:
        """Columns label, score and decision."""
        names = np.where(self.labels, str(self.positive), str(self.negative))
        return {"label": names.tolist(), "score": self.scores.tolist(), "decision": self.decisions.tolist()}

    def _names(self, truth: NDArray[np.bool_]) -> NDArray[Any]:
        return np.asarray(np.array([self.negative, self.positive])[truth.astype(int)])

    def rebuilt(self, units: Units, clients: Names | None, name: str | None = None) -> Self:
        """An audit of other rows, with the same settings."""
        return type(self)(
            units.evidence[:, 0],
            self._names(units.truth),
            units.groups,
            positive=self.positive,
            confidence=self.confidence,
            clients=clients,
            aggregate=self.aggregate,
            name=self.name if name is None else name,
            threshold=self.threshold,
            decisions=units.evidence[:, 1],
        )

    def standardised(self) -> Units:
        """The speakers; scores to rank less their mean, both kinds over the standard deviation."""
        units = self.combined("speaker")
        scores, decisions = units.evidence.T
        # Not std > 0: rounding can leave equal scores a spread of 1e-17.
        scale = float(scores.std()) if np.ptp(scores) > 0 else 1.0
        evidence = np.column_stack([(scores - scores.mean()) / scale, decisions / scale])
        return Units(evidence, units.truth, units.groups)

    def check_same_kind(self, other: Self) -> None:
        """Refuse other labels."""
        if (self.positive, self.negative) != (other.positive, other.negative):
            raise UserError(
                f"Audits have different labels: {self.negative!r} and {self.positive!r}, "
                f"then {other.negative!r} and {other.positive!r}."
            )

    def _estimate(self, units: Units, value: float, interval: Callable[[], Interval]) -> Estimate:
        if _smallest(units) < 2:
            return self._counted(units, value, None, None, "no interval: a class has fewer than 2 speakers")
        return self._counted(units, value, *interval(), None)

    def _counted(
        self, units: Units, value: float | None, low: float | None, high: float | None, reason: str | None
    ) -> Estimate:
        positive = int(units.truth.sum())
        return Estimate(
            value, low, high, self.confidence, positive, units.truth.size - positive, self.n_speakers, reason
        )


def _sample(units: Units) -> tuple[Floats, Floats, Names, Names]:
    """Scores of positives and negatives, then the speakers of both, in the order that the intervals take them."""
    scores, yes, groups = units.evidence[:, 0], units.truth, units.groups
    return scores[yes], scores[~yes], groups[yes], groups[~yes]


def _right(units: Units) -> Floats:
    return np.asarray((units.evidence[:, 1] > 0) == units.truth, dtype=np.float64)


def _smallest(units: Units) -> int:
    """Speakers of the class that has fewer."""
    return min(np.unique(units.groups[units.truth == kind]).size for kind in (True, False))
