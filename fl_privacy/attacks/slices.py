"""Parts of the evidence: a few leaked updates of each client instead of all, early rounds instead of late ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import AnyAudit, Claim
from fl_privacy.audit._units import Units
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
        Where a window holds no round.
    """
    unit = "speaker" if linked or audit.clients is None else "client"
    names = audit.keys(unit)
    assert names is not None
    rng = np.random.default_rng([seed, 21])
    places = [_places(names, rng) for _ in range(_DRAWS)]
    for number in sorted(set(leaked)):
        yield Slice({"leaked_updates": number}, unit, tuple(_part(audit, unit, place < number) for place in places))
    yield Slice({"leaked_updates": "all"}, unit, (_part(audit, unit, np.ones(len(names), dtype=np.bool_)),))
    times = np.asarray(rounds)
    for first, last in _windows(times) if windows is None else windows:
        inside = (times >= first) & (times <= last)
        if not inside.any():
            raise UserError(f"no captured round from {first} to {last}: rounds are {times.min()} to {times.max()}")
        if len(np.unique(audit.truth[inside])) > 1:  # else there is nothing to tell apart
            yield Slice({"rounds": f"{first}-{last}"}, unit, (_part(audit, unit, inside),))


def _places(units: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Number the rows of each unit in a random order, from 0."""
    order = rng.permutation(len(units))
    by_unit = order[np.argsort(units[order], kind="stable")]
    sorted_units = units[by_unit]
    starts = np.flatnonzero(np.r_[True, sorted_units[1:] != sorted_units[:-1]])
    place = np.empty(len(units), dtype=np.int64)
    place[by_unit] = np.arange(len(units)) - np.repeat(starts, np.diff(np.r_[starts, len(units)]))
    return place


def _part(audit: AnyAudit, unit: str, rows: NDArray[np.bool_]) -> AnyAudit:
    """Return an audit of the units' evidence from some rows, one row a unit."""
    return audit.rebuilt(audit.select(rows).combined(unit), None)


def _windows(rounds: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the first and the last fifth of the rounds, where there are enough."""
    present = np.unique(rounds)
    part = len(present) // 5
    if part < 1:
        return []
    return [(int(present[0]), int(present[part - 1])), (int(present[-part]), int(present[-1]))]
