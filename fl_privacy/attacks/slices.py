"""Parts of the evidence: a few leaked updates of each client instead of all, early rounds instead of late ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import AnyAudit, Claim
from fl_privacy.audit._units import Units
from fl_privacy.audit.leaks import drawn_rows
from fl_privacy.errors import UserError

LEAKED = (1, 3, 5, 10)
"""Numbers of leaked updates that claims are made of, beside all of them (as in Feng et al., arXiv 2204.02500)."""
_DRAWS = 10


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
        """Claim the headline metric, its interval over speakers: the draws of a speaker count as one."""
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
    rounds: Sequence[int],
    leaked: Sequence[int] = LEAKED,
    windows: Sequence[tuple[int, int]] | None = None,
    *,
    linked: bool = True,
    seed: int = 0,
) -> Iterator[Slice]:
    """Cut an attack's evidence into slices.

    Parameters
    ----------
    audit : audit of updates
        A row for each update.
    rounds : sequence of int
        The round of each row.
    leaked : sequence of int
        Numbers of leaked updates; of each speaker (client), as many as it has are drawn where it has fewer. The draws
        are nested, so that a curve over these numbers is of the same updates.
    windows : sequence of (first, last), optional
        Spans of rounds, ends included; default: the first and the last fifth of the rounds.
    linked : bool
        Whether updates of all of a speaker's clients are taken together.
    seed : int

    Raises
    ------
    UserError
        Where a window holds no round, or a number of leaked updates is not positive.
    """
    if any(number < 1 for number in leaked):
        raise UserError(f"leaked_updates: at least one update leaks, not {min(leaked)}")
    unit = "speaker" if linked or audit.clients is None else "client"
    for number, drawn in drawn_rows(audit, unit, sorted(set(leaked)), draws=_DRAWS, seed=seed).items():
        rows = np.arange(len(drawn.groups))
        draws = tuple(_bare(drawn.select(rows % _DRAWS == draw)) for draw in range(_DRAWS))
        yield Slice({"leaked_updates": number}, unit, draws)
    yield Slice({"leaked_updates": "all"}, unit, (_part(audit, unit, np.arange(len(audit.groups))),))
    times = np.asarray(rounds)
    for first, last in _windows(times) if windows is None else windows:
        inside = np.flatnonzero((times >= first) & (times <= last))
        if not len(inside):
            raise UserError(f"no captured round from {first} to {last}: rounds are {times.min()} to {times.max()}")
        if len(np.unique(audit.truth[inside])) > 1:  # else there is nothing to tell apart
            yield Slice({"rounds": f"{first}-{last}"}, unit, (_part(audit, unit, inside),))


def _part(audit: AnyAudit, unit: str, rows: NDArray[np.int64]) -> AnyAudit:
    """Return an audit of the units' evidence from some rows, one row a unit."""
    return audit.rebuilt(audit.select(rows).combined(unit), None)


def _bare(audit: AnyAudit) -> AnyAudit:
    """Return an audit of the same rows that knows no clients: a row is a unit already."""
    return audit.rebuilt(audit.combined("update"), None)


def _windows(rounds: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the first and the last fifth of the rounds, where there are enough."""
    present = np.unique(rounds)
    part = len(present) // 5
    if part < 1:
        return []
    return [(int(present[0]), int(present[part - 1])), (int(present[-part]), int(present[-1]))]
