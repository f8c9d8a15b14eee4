"""The audit of numeric attributes, such as an age in years."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from . import metrics
from . import numeric_intervals as intervals
from ._units import Names, Units
from .base import AnyAudit
from .claims import Estimate
from .intervals import Interval
from .metrics import Floats


class NumericAudit(AnyAudit):
    """How well predictions tell a number of speakers.

    The headline is `correlation`: it does not ask that the attacker know the private speakers' mean and spread. Its
    metrics are no fractions: correlations lie between -1 and 1, `mean_absolute_error` is in the attribute's unit, and
    `r_squared` has no lower limit.

    Parameters
    ----------
    predictions : array_like, shape (n,)
        What the attack says the number is, for each observation. They are averaged over a client's or a speaker's.
    values : array_like, shape (n,)
        What it is, the same for all observations of a speaker.
    groups : array_like, shape (n,), optional
        The speaker of each observation, the independent unit; by default each observation is a speaker.
    clients, confidence, name
        As for `Audit`.

    Raises
    ------
    UserError
        When lengths differ, a number is not finite, a speaker has two values, or all speakers have the same.

    Examples
    --------
    >>> audit = NumericAudit([31.0, 44.0, 38.0, 61.0, 52.0], [25, 47, 40, 66, 58])
    >>> audit.mean_absolute_error().value
    4.4
    """

    headline = "correlation"
    chance_level = 0.0

    def __init__(
        self,
        predictions: ArrayLike,
        values: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        clients: ArrayLike | None = None,
        confidence: float = 0.95,
        name: str = "attack",
    ) -> None:
        self.predictions: Floats = metrics.as_scores(predictions, "predictions")
        self.values: Floats = metrics.as_scores(values, "values")
        n = self.predictions.size
        if self.values.size != n:
            raise UserError(f"{n} predictions, but {self.values.size} values: give one for each.")
        if np.ptp(self.values) == 0:
            raise UserError(f"An audit needs two distinct values; all are {self.values[0]:g}.")
        super().__init__(
            self.predictions[:, None],
            self.values,
            groups,
            clients,
            shown=self.values,
            what="values",
            confidence=confidence,
            aggregate="mean",
            name=name,
        )

    def correlation(self, unit: str = "speaker") -> Estimate:
        """Pearson's correlation of predictions and values, with an interval over speakers.

        Parameters
        ----------
        unit : {"speaker", "client", "update", "utterance"}
            "update" and "utterance" both mean one row each.
        """
        return self._estimate(unit, metrics.pearson, intervals.correlation_interval)

    def spearman(self, unit: str = "speaker") -> Estimate:
        """Correlation of their ranks."""

        def interval(*sample: Any, confidence: float) -> Interval:
            return intervals.correlation_interval(*sample, by_rank=True, confidence=confidence)

        return self._estimate(unit, metrics.spearman, interval)

    def mean_absolute_error(self, unit: str = "speaker") -> Estimate:
        """Mean distance of the prediction from the value, in the attribute's unit."""
        return self._estimate(unit, metrics.mean_absolute_error, intervals.absolute_error_interval)

    def r_squared(self, unit: str = "speaker") -> Estimate:
        """Share of the values' variance told, against always guessing these speakers' mean; below 0 if worse."""
        return self._estimate(unit, metrics.r_squared, intervals.r_squared_interval)

    def estimates(self, unit: str = "speaker") -> dict[str, Estimate]:
        """Every metric over one unit, by the name it has in a claim."""
        return {
            "correlation": self.correlation(unit),
            "spearman": self.spearman(unit),
            "mean_absolute_error": self.mean_absolute_error(unit),
            "r_squared": self.r_squared(unit),
        }

    def headline_estimate(self, unit: str = "speaker") -> Estimate:
        """`correlation`."""
        return self.correlation(unit)

    def headline_value(self, scores: ArrayLike | None = None, truth: ArrayLike | None = None) -> float:
        """Correlation over speakers, of other predictions (s,) or with other values (s,)."""
        units = self.combined("speaker")
        return metrics.pearson(
            units.evidence[:, 0] if scores is None else scores, units.truth if truth is None else truth
        )

    def headline_difference(self, other: Self) -> Interval | None:
        """`numeric_intervals.correlation_difference_interval` over speakers; None where there are fewer than 5."""
        if self.n_speakers < intervals.FEWEST:
            return None
        mine, theirs = self.combined("speaker").evidence[:, 0], other.combined("speaker").evidence[:, 0]
        return intervals.correlation_difference_interval(
            mine, theirs, self.combined("speaker").truth, confidence=self.confidence
        )

    def majority(self) -> dict[str, float]:
        """What one guess for everybody gets over speakers: the median's error, the mean's share of variance, 0."""
        values = self.combined("speaker").truth
        guess = float(np.abs(values - np.median(values)).mean())
        return {"correlation": 0.0, "spearman": 0.0, "mean_absolute_error": guess, "r_squared": 0.0}

    def speaker_scores(self) -> tuple[Names, Floats, Floats]:
        """Speakers in sorted order, the mean prediction for each, and its value."""
        units = self.combined("speaker")
        return units.groups, units.evidence[:, 0], units.truth

    def with_scores(self, scores: ArrayLike, *, name: str | None = None) -> Self:
        """The same rows under another attack's predictions (n,)."""
        predictions = metrics.as_scores(scores, "predictions")
        return self.rebuilt(Units(predictions[:, None], self.values, self.groups), self.clients, name)

    @property
    def question(self) -> str:
        """As in "a number from 20 to 74"."""
        return f"a number from {self.values.min():g} to {self.values.max():g}"

    def columns(self) -> Mapping[str, list[Any]]:
        """Columns label (the value) and prediction."""
        return {"label": self.values.tolist(), "prediction": self.predictions.tolist()}

    def _estimate(
        self,
        unit: str,
        metric: Callable[[Floats, Floats], float],
        interval: Callable[..., Interval | None],
    ) -> Estimate:
        units = self.combined(unit)
        sample = units.evidence[:, 0], units.truth
        ends, reason = None, None
        if self.n_speakers < intervals.FEWEST:
            reason = f"no interval: fewer than {intervals.FEWEST} speakers"
        else:
            ends = interval(*sample, units.groups, confidence=self.confidence)
            reason = None if ends else "no interval: but for one speaker the values are all the same"
        low, high = ends or (None, None)
        return Estimate(metric(*sample), low, high, self.confidence, None, None, self.n_speakers, reason)

    def rebuilt(self, units: Units, clients: Names | None, name: str | None = None) -> Self:
        """An audit of other rows, with the same settings."""
        return type(self)(
            units.evidence[:, 0],
            units.truth,
            units.groups,
            clients=clients,
            confidence=self.confidence,
            name=self.name if name is None else name,
        )

    def blank(self, name: str) -> Self:
        """The same rows under an attack that says the mean of the values of all."""
        return self.with_scores(np.full_like(self.values, self.values.mean()), name=name)

    def standardised(self) -> Units:
        """The speakers, their predictions as they are: these have the attribute's unit."""
        return self.combined("speaker")

    def check_same_kind(self, other: Self) -> None:
        """Numbers are all of one kind."""
