"""Parts of the evidence: a few leaked updates of each client instead of all, early rounds instead of late ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ._units import Units
from .base import AnyAudit
from .claims import Claim

A = TypeVar("A", bound=AnyAudit)

LEAKED = (1, 3, 5, 10)
"""Numbers of leaked updates that claims are made of, beside all of them (as in Feng et al., arXiv 2204.02500)."""


@dataclass(frozen=True)
class Slice:
    """An attack's evidence from some updates.

    Attributes
    ----------
    conditions : Mapping
        Which: ``{"leaked_updates": 3}`` (``"all"`` for all) or ``{"rounds": "1-40"}``.
    unit : {"speaker", "client"}
        What a row of the draws is: a client where shards are not linked.
    draws : tuple of audits
        One a random draw of the updates (one alone where nothing is drawn), each with a row for each unit, and the
        speakers as groups.
    """

    conditions: Mapping[str, Any]
    unit: str
    draws: tuple[AnyAudit, ...]

    @property
    def attack(self) -> str:
        """Whose evidence it is."""
        return self.draws[0].name

    def claims(self, **context: Any) -> list[Claim]:
        """Claim the headline metric over the units, with its interval over speakers.

        The draws of a speaker count as one: more of them say more about the mean over which updates happen to leak,
        and nothing about other speakers, so they buy no narrower interval.

        Parameters
        ----------
        **context
            Further fields of the claim (`attribute`, `conditions`, ...).
        """
        first = self.draws[0]
        rows = [draw.combined("update") for draw in self.draws]
        fields = ("evidence", "truth", "groups")
        pooled = first.rebuilt(Units(*(np.concatenate([getattr(r, f) for r in rows]) for f in fields)), None)
        conditions = {**context.pop("conditions", {}), **self.conditions}
        estimate = vars(pooled.headline_estimate("update")) | first.counts("update")
        named = {"attack": self.attack, **context}
        return [Claim(**named, unit=self.unit, metric=first.headline, **estimate, conditions=conditions)]


def slices_of(
    audit: AnyAudit,
    rounds: ArrayLike,
    leaked: Sequence[int] = LEAKED,
    windows: Sequence[tuple[int, int]] | None = None,
    *,
    linked: bool = True,
    draws: int = 10,
    seed: int = 0,
) -> Iterator[Slice]:
    """Cut an attack's evidence into slices.

    Parameters
    ----------
    audit : Audit, MulticlassAudit or NumericAudit
        A row for each update.
    rounds : array_like of int, shape (n,)
        The round of each row.
    leaked : sequence of int
        Numbers of leaked updates; of each speaker (client), as many as it has are drawn where it has fewer. The draws
        are nested, so that a curve over these numbers is of the same updates.
    windows : sequence of (first, last), optional
        Spans of rounds, ends included; default: the first and the last fifth of the rounds. Speakers without an update
        in a window drop out of it, and its counts say so.
    linked : bool
        Whether updates of all of a speaker's clients are taken together.
    draws : int
        Random orders of each speaker's (client's) updates, the first of which leak.
    seed : int
        Of the orders.

    Raises
    ------
    UserError
        Where a window holds no round, a number of leaked updates or of draws is not positive, or the rounds are not
        one for each row.
    """
    times = np.asarray(rounds)
    if times.shape != (len(audit.groups),):
        raise UserError(f"{len(audit.groups)} updates, but rounds of shape {times.shape}: give one for each update")
    if any(number < 1 for number in leaked):
        raise UserError(f"leaked_updates: at least one update leaks, not {min(leaked)}")
    if draws < 1:
        raise UserError(f"draws: at least one, not {draws}")
    unit = "speaker" if linked or audit.clients is None else "client"
    for number, drawn in _drawn(audit, unit, sorted(set(leaked)), draws, seed).items():
        yield Slice({"leaked_updates": number}, unit, drawn)
    yield Slice({"leaked_updates": "all"}, unit, (_part(audit, unit, np.arange(len(times))),))
    for first, last in _windows(times) if windows is None else windows:
        inside = np.flatnonzero((times >= first) & (times <= last))
        if not len(inside):
            raise UserError(f"no captured round from {first} to {last}: rounds are {times.min()} to {times.max()}")
        if len(np.unique(audit.truth[inside])) > 1:  # else there is nothing to tell apart
            yield Slice({"rounds": f"{first}-{last}"}, unit, (_part(audit, unit, inside),))


def _drawn(audit: A, unit: str, numbers: Sequence[int], draws: int, seed: int) -> dict[int, tuple[A, ...]]:
    """For each number one audit a draw, of as many updates of each unit, one row a unit, in sorted order."""
    keys, rng = audit.keys(unit), np.random.default_rng(seed)
    assert keys is not None  # a unit is no single update
    _, first, codes, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    evidence = {number: np.empty((draws, len(first), audit.evidence.shape[1])) for number in numbers}
    for place, members in enumerate(np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])):
        orders = rng.permuted(np.tile(members, (draws, 1)), axis=1)
        sums = audit.evidence[orders].cumsum(axis=1)
        for number in numbers:
            taken = min(number, len(members))
            evidence[number][:, place] = sums[:, taken - 1] / (1 + (taken - 1) * audit.dependence)
    truth, groups = audit.truth[first], audit.groups[first]
    return {
        number: tuple(audit.rebuilt(Units(draw, truth, groups), None) for draw in of_number)
        for number, of_number in evidence.items()
    }


def _part(audit: AnyAudit, unit: str, rows: NDArray[np.int64]) -> AnyAudit:
    """Return an audit of the units' evidence from some rows, one row a unit."""
    return audit.rebuilt(audit.select(rows).combined(unit), None)


def _windows(rounds: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the first and the last fifth of the rounds, where there are enough."""
    present = np.unique(rounds)
    part = len(present) // 5
    if part < 1:
        return []
    return [(int(present[0]), int(present[part - 1])), (int(present[-part]), int(present[-1]))]
