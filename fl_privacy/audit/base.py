"""What every audit has, whatever is told: rows with their speakers and clients, units, claims, and a headline."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ._units import Names, Units, gather, names_of
from .claims import Claim, Estimate
from .intervals import Interval
from .metrics import Floats

#: Names of the unit "one row each"; which one is a matter of what the rows are.
ROW_UNITS = ("update", "utterance")
UNITS = (*ROW_UNITS, "client", "speaker")


class AnyAudit(ABC):
    """How well an attack's evidence tells something of speakers: `Audit`, `MulticlassAudit`, `NumericAudit`.

    A row is one observation (an update, an utterance). Its evidence is combined over the rows of a client and of a
    speaker; every metric is over one of these units, and every interval over speakers. One metric is the **headline**:
    it is what permutations and blind baselines are held against.

    Attributes
    ----------
    headline : str
        The name of that metric in claims.
    chance_level : float
        What evidence that says nothing gets by it.
    name : str
        Of the attack.
    confidence : float
        Of every interval.
    aggregate : {"sum", "mean"} or float
        How a client's or speaker's rows are combined; a number r from 0 to 1 is the correlation of the evidence of two
        rows of a speaker: n rows then count as ``n / (1 + (n - 1) r)`` independent ones, between the sum (r = 0) and
        the mean (r = 1).
    evidence : ndarray of float, shape (n, e)
        What is combined.
    truth : ndarray, shape (n,)
        What is true of each row's speaker, as `speaker_scores` gives it.
    groups, clients : ndarray, shape (n,)
        Of each row; `clients` is None where none were given.
    """

    headline: ClassVar[str]
    chance_level: ClassVar[float]

    def __init__(
        self,
        evidence: Floats,
        truth: NDArray[Any],
        groups: ArrayLike | None,
        clients: ArrayLike | None,
        *,
        shown: NDArray[Any],
        what: str,
        confidence: float,
        aggregate: str | float,
        name: str,
    ) -> None:
        number = not isinstance(aggregate, (bool, str)) and 0.0 <= aggregate <= 1.0
        if not number and aggregate not in ("sum", "mean"):
            raise UserError(f'aggregate must be "sum", "mean" or a correlation from 0 to 1; got {aggregate!r}.')
        if not 0.0 < confidence < 1.0:
            raise UserError(f"confidence must lie strictly between 0 and 1; got {confidence}.")
        n = len(evidence)
        self.name, self.confidence, self.aggregate = name, float(confidence), aggregate
        self.evidence, self.truth = evidence, truth
        self.groups: Names = np.arange(n) if groups is None else names_of(groups, n, "groups")
        self.clients: Names | None = None if clients is None else names_of(clients, n, "clients")
        gather(self.groups, shown, "speaker", what)
        if self.clients is not None:
            gather(self.clients, self.groups, "client", "speakers")

    @abstractmethod
    def headline_estimate(self, unit: str = "speaker") -> Estimate:
        """The headline metric over a unit, with its interval."""

    @abstractmethod
    def headline_value(self, scores: ArrayLike | None = None, truth: ArrayLike | None = None) -> float:
        """The headline metric over speakers, of other scores or another truth where they are given.

        Parameters
        ----------
        scores, truth : array_like, optional
            In the form and the order of `speaker_scores`: the scores of an attack fitted to permuted labels, or
            permuted labels.
        """

    @abstractmethod
    def headline_difference(self, other: Self) -> Interval | None:
        """Interval of this headline less another audit's of the same speakers; None where there is none.

        See `fl_privacy.audit.paired_difference`, which checks that they are the same.
        """

    @abstractmethod
    def estimates(self, unit: str = "speaker") -> dict[str, Estimate]:
        """Every metric over one unit, by the name it has in a claim."""

    @abstractmethod
    def majority(self) -> dict[str, float]:
        """What the best answer that is the same for everybody gets over speakers, by metric."""

    @abstractmethod
    def speaker_scores(self) -> tuple[Names, Floats, NDArray[Any]]:
        """Speakers in sorted order, the evidence combined for each, and what is true of each."""

    @abstractmethod
    def with_scores(self, scores: ArrayLike, *, name: str | None = None) -> Self:
        """The same rows under another attack's scores, one for each row."""

    @property
    @abstractmethod
    def question(self) -> str:
        """What is told of speakers, in a few words."""

    @abstractmethod
    def columns(self) -> Mapping[str, list[Any]]:
        """What is true of each row and what the attack says of it, as columns of a table."""

    @abstractmethod
    def check_same_kind(self, other: Self) -> None:
        """Refuse an audit that tells something else."""

    @abstractmethod
    def rebuilt(self, units: Units, clients: Names | None, name: str | None = None) -> Self:
        """An audit of other rows, with the same settings."""

    @abstractmethod
    def standardised(self) -> Units:
        """The speakers, their evidence on a scale that runs of one experiment share."""

    def blank(self, name: str) -> Self:
        """The same rows under an attack that says the same of all."""
        return self.rebuilt(Units(np.zeros_like(self.evidence), self.truth, self.groups), self.clients, name)

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
        several = self.n_speakers < len(self.evidence)
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
            Claim(**{"attack": self.name, **context}, unit=unit, metric=metric, **vars(estimate))
            for unit in self.units(rows)
            for metric, estimate in self.estimates(unit).items()
        ]

    def counts(self, unit: str = "speaker") -> dict[str, int | None]:
        """The fields of a claim that say how many units there are, and how many speakers behind them."""
        return {"n_positive": None, "n_negative": None, "n_speakers": self.n_speakers}

    def select(self, rows: ArrayLike) -> Self:
        """The audit of some of the rows: speakers without any drop out, and the counts say so.

        Parameters
        ----------
        rows : array_like
            A mask, shape (n,), or indices.

        Raises
        ------
        UserError
            Where the rows left are not enough for an audit.
        """
        given = np.asarray(rows)
        n = len(self.evidence)
        if given.dtype == bool and given.shape != (n,):
            raise UserError(f"{n} rows, but a mask of shape {given.shape}: give one for each row.")
        chosen = np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64)
        if chosen.size == 0:
            raise UserError(f"{self.name}: no rows are left.")
        clients = None if self.clients is None else self.clients[chosen]
        return self.rebuilt(Units(self.evidence[chosen], self.truth[chosen], self.groups[chosen]), clients)

    def over_speakers(self, scores: ArrayLike) -> Floats:
        """Another attack's scores of these rows, combined over speakers in the order of `speaker_scores`.

        As `with_scores` and then `speaker_scores` give it, without the checks: for the many attacks that are fitted to
        permuted labels.

        Parameters
        ----------
        scores : array_like, shape (n,) or (n, k)

        Returns
        -------
        ndarray, shape (s,) or (s, k)
        """
        values = np.asarray(scores, dtype=np.float64)
        codes, sizes = self._speaker_rows
        columns = values.reshape(len(values), -1).T
        found: Floats = np.stack([np.bincount(codes, weights=column) for column in columns], axis=1)
        if self.aggregate == "mean":
            found = found / sizes[:, None]
        return found.reshape(-1, *values.shape[1:])

    def per(self, unit: str) -> Self:
        """The audit whose rows are the clients or the speakers, in sorted order, with their evidence combined."""
        clients = None if self.clients is None or unit != "client" else np.unique(self.clients)
        return self.rebuilt(self.combined(unit), clients)

    def table(self) -> str:
        """Every metric over every unit as plain text."""
        from .files import table

        return table(self)

    def save(self, folder: str | os.PathLike[str], **context: Any) -> None:
        """Write result.json and scores.csv into a folder; see `fl_privacy.audit.files.save`."""
        from .files import save

        save(self, folder, **context)

    def keys(self, unit: str) -> Names | None:
        """The name of each row's unit, shape (n,); None where every row is one.

        Raises
        ------
        UserError
            For an unknown unit, or "client" where the audit has no clients.
        """
        if unit not in UNITS:
            raise UserError(f"Unknown unit {unit!r}; there are: {', '.join(UNITS)}.")
        if unit == "client" and self.clients is None:
            kind = type(self).__name__
            raise UserError(f'This audit knows no clients: give {kind}(..., clients=...), or ask for unit="speaker".')
        return {"client": self.clients, "speaker": self.groups}.get(unit)

    def combined(self, unit: str) -> Units:
        """Rows, clients or speakers, in sorted order, with their evidence combined."""
        return self._speakers if unit == "speaker" else self._combined(self.keys(unit))

    def _combined(self, keys: Names | None) -> Units:
        rows = Units(self.evidence, self.truth, self.groups)
        return rows if keys is None else rows.combined(keys, self.dependence)

    @property
    def dependence(self) -> float:
        """How far the evidence of a speaker's rows is the same evidence: 0 where it is summed, 1 where averaged."""
        known = {"sum": 0.0, "mean": 1.0}.get(str(self.aggregate))
        return float(self.aggregate) if known is None else known

    @cached_property
    def _speaker_rows(self) -> tuple[NDArray[np.int64], Floats]:
        codes = np.unique(self.groups, return_inverse=True)[1]
        return codes, np.bincount(codes).astype(np.float64)

    @cached_property
    def _speakers(self) -> Units:
        # Permutations ask for them thousands of times.
        return self._combined(self.groups)
