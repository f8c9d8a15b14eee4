"""Scores, labels and speakers in; estimates with intervals and claims out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from . import intervals, metrics
from ._units import Units, binary_labels, check_one_label, gather, names_of
from .claims import Claim, Estimate
from .metrics import Floats

Names = NDArray[Any]

#: False positive rates at which a claim gives the true positive rate.
FPRS = (0.01, 0.001)
#: Names of the unit "one row each"; which one is a matter of what the rows are.
ROW_UNITS = ("update", "utterance")
UNITS = (*ROW_UNITS, "client", "speaker")


class Audit:
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
    aggregate : {"sum", "mean"}
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

    def __init__(
        self,
        scores: ArrayLike,
        labels: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        positive: Any = None,
        confidence: float = 0.95,
        clients: ArrayLike | None = None,
        aggregate: str = "sum",
        name: str = "attack",
        threshold: float = 0.0,
        decisions: ArrayLike | None = None,
    ) -> None:
        if aggregate not in ("sum", "mean"):
            raise UserError(f'aggregate must be "sum" or "mean"; got {aggregate!r}.')
        if not 0.0 < confidence < 1.0:
            raise UserError(f"confidence must lie strictly between 0 and 1; got {confidence}.")
        self.name, self.confidence, self.aggregate = name, float(confidence), aggregate
        self.scores: Floats = metrics.as_scores(scores, "scores")
        n = self.scores.size
        self.labels, self.positive, self.negative = binary_labels(labels, n, positive)
        self.groups: Names = np.arange(n) if groups is None else names_of(groups, n, "groups")
        self.clients: Names | None = None if clients is None else names_of(clients, n, "clients")
        self.decisions: Floats = (
            self.scores - threshold if decisions is None else metrics.as_scores(decisions, "decisions")
        )
        if self.decisions.size != n:
            raise UserError(f"{n} scores, but {self.decisions.size} decisions: give one for each score.")
        check_one_label(self.groups, self.labels, (self.negative, self.positive))
        if self.clients is not None:
            gather(self.clients, self.groups, "client", "speakers")

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
        units = self._units(unit)
        return self._estimate(
            units,
            metrics.auc(*units.sample()[:2]),
            lambda: intervals.auc_interval(*units.sample(), confidence=self.confidence),
        )

    def uar(self, unit: str = "speaker") -> Estimate:
        """Mean of the two recalls at the threshold."""
        units = self._units(unit)
        return self._estimate(
            units,
            metrics.uar(units.decisions > 0, units.labels),
            lambda: intervals.uar_interval(*units.recalls(), confidence=self.confidence),
        )

    def accuracy(self, unit: str = "speaker") -> Estimate:
        """Fraction of right decisions at the threshold."""
        units = self._units(unit)
        return self._estimate(
            units,
            metrics.accuracy(units.decisions > 0, units.labels),
            lambda: intervals.proportion_interval(*units.hits(), confidence=self.confidence),
        )

    def tpr_at_fpr(self, fpr: float = 0.01, unit: str = "speaker") -> Estimate:
        """True positive rate at a false positive rate; no value, with a reason, where the negatives are too few."""
        units = self._units(unit)
        positive, negative, *speakers = units.sample()
        found = metrics.tpr_at_fpr(positive, negative, fpr)
        if found.value is None:
            return self._counts(units, None, None, None, found.reason)
        return self._estimate(
            units,
            found.value,
            lambda: intervals.tpr_interval(positive, negative, fpr, *speakers, confidence=self.confidence),
        )

    def eer(self, unit: str = "speaker") -> Estimate:
        """Equal error rate."""
        units = self._units(unit)
        return self._estimate(
            units,
            metrics.eer(*units.sample()[:2]),
            lambda: intervals.eer_interval(*units.sample(), confidence=self.confidence),
        )

    def roc(self, unit: str = "speaker") -> tuple[Floats, Floats]:
        """False and true positive rates, from (0, 0) to (1, 1), one point for each distinct score."""
        units = self._units(unit)
        return metrics.roc(*units.sample()[:2])

    def speaker_scores(self) -> tuple[Names, Floats, NDArray[np.bool_]]:
        """Speakers in sorted order, the evidence combined for each, and whether each is positive."""
        units = self._units("speaker")
        return units.groups, units.scores, units.labels

    def speaker_decisions(self) -> Floats:
        """Decision scores of the speakers in `speaker_scores`, positive for the positive label."""
        return self._units("speaker").decisions

    @property
    def n_speakers(self) -> int:
        """Number of speakers."""
        return int(np.unique(self.groups).size)

    def units(self, rows: str = "update") -> tuple[str, ...]:
        """Units that differ here: rows where speakers have several, clients where given, and speakers.

        Parameters
        ----------
        rows : {"update", "utterance"}
            What a row is called.
        """
        several = self.n_speakers < self.scores.size
        return (rows,) * several + ("client",) * (self.clients is not None) + ("speaker",)

    def claims(self, *, rows: str = "update", **context: Any) -> list[Claim]:
        """Every metric over every unit, speakers last.

        Parameters
        ----------
        rows : {"update", "utterance"}
            What a row is called.
        **context
            Further fields of `Claim` (`primary`, `target`, `attribute`, `defense`, `seeds`, `conditions`, ...).
        """
        return [
            Claim(
                **{"attack": self.name, **context},
                unit=unit,
                metric=metric,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                confidence=estimate.confidence,
                n_positive=estimate.n_positive,
                n_negative=estimate.n_negative,
                n_speakers=estimate.n_speakers,
                reason=estimate.reason,
            )
            for unit in self.units(rows)
            for metric, estimate in self.estimates(unit).items()
        ]

    def estimates(self, unit: str = "speaker") -> dict[str, Estimate]:
        """Every metric over one unit, by the name it has in a claim."""
        rates = {f"tpr_at_fpr_{fpr:g}": self.tpr_at_fpr(fpr, unit) for fpr in FPRS}
        return {
            "auc": self.auc(unit),
            "uar": self.uar(unit),
            "accuracy": self.accuracy(unit),
            **rates,
            "eer": self.eer(unit),
        }

    def table(self) -> str:
        """Every metric over every unit as plain text."""
        from .files import table

        return table(self)

    def save(self, folder: str | os.PathLike[str], **context: Any) -> None:
        """Write result.json and scores.csv into a folder; see `fl_privacy.audit.files.save`."""
        from .files import save

        save(self, folder, **context)

    def _units(self, unit: str) -> Units:
        if unit not in UNITS:
            raise UserError(f"Unknown unit {unit!r}; there are: {', '.join(UNITS)}.")
        if unit in ROW_UNITS:
            return Units(self.scores, self.decisions, self.labels, self.groups)
        if unit == "client" and self.clients is None:
            raise UserError('This audit knows no clients: give Audit(..., clients=...), or ask for unit="speaker".')
        keys = self.groups if unit == "speaker" else self.clients
        assert keys is not None
        return Units(self.scores, self.decisions, self.labels, self.groups).combined(keys, self.aggregate == "mean")

    def _estimate(self, units: Units, value: float, interval: Callable[[], intervals.Interval]) -> Estimate:
        smallest = min(np.unique(units.groups[units.labels == kind]).size for kind in (True, False))
        if smallest < 2:
            return self._counts(units, value, None, None, "no interval: a class has fewer than 2 speakers")
        return self._counts(units, value, *interval(), None)

    def _counts(
        self, units: Units, value: float | None, low: float | None, high: float | None, reason: str | None
    ) -> Estimate:
        positive = int(units.labels.sum())
        return Estimate(
            value, low, high, self.confidence, positive, units.labels.size - positive, self.n_speakers, reason
        )
