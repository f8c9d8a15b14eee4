"""How much the number of leaked updates matters, and which rounds they are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from .base import AnyAudit
from .claims import Claim
from .metrics import Floats

A = TypeVar("A", bound=AnyAudit)

#: Numbers of leaked updates that a curve has by default; None is all of them.
COUNTS: tuple[int | None, ...] = (1, 3, 5, 10, None)


def leaked_curve(
    audit: AnyAudit,
    counts: Sequence[int | None] = COUNTS,
    *,
    draws: int = 10,
    seed: int = 0,
    unit: str = "speaker",
    **context: Any,
) -> list[Claim]:
    """Claim an audit's headline where only N updates of each client or speaker have leaked.

    Each unit's rows are put into `draws` random orders, and the evidence of the first N of each is combined: so the
    draws for a larger N hold those for a smaller one. A draw is a row, its speaker the independent unit: ten draws say
    more about the mean over which updates happen to leak, and nothing about other speakers, so they buy no narrower
    interval. A unit with fewer rows than N gives all it has.

    Parameters
    ----------
    audit : Audit, MulticlassAudit or NumericAudit
        Of single updates.
    counts : sequence of int or None
        The numbers N, each at least 1; None is all, the audit's own claim.
    draws : int
        At least 1.
    seed : int
        Of the orders.
    unit : {"speaker", "client"}
        Whose updates leak. "speaker" means that the attacker knows which clients are one person, "client" that it does
        not: evidence is then never combined over two clients.
    **context
        Further fields of every claim (`attribute`, `conditions`, ...).

    Returns
    -------
    list of Claim
        One for each N, with ``conditions["leaked_updates"]`` N or "all".

    Raises
    ------
    UserError
        For another unit, or where a number is not positive.
    """
    keys = audit.keys(unit)
    if keys is None:
        raise UserError(f'Updates leak from a "client" or a "speaker"; {unit!r} is one update.')
    if draws < 1 or any(n is not None and n < 1 for n in counts):
        raise UserError(f"At least one draw of at least one update: got draws={draws}, counts={tuple(counts)}.")
    whole = audit.headline_estimate(unit)
    drawn = drawn_rows(audit, unit, [n for n in counts if n is not None], draws=draws, seed=seed)
    shared: Mapping[str, Any] = {"attack": audit.name, **context, "unit": unit, "metric": audit.headline}
    claims = []
    for n in counts:
        found = whole if n is None else drawn[n].headline_estimate("update")
        # Units, not draws, are counted.
        found = replace(found, n_positive=whole.n_positive, n_negative=whole.n_negative)
        conditions = {**context.get("conditions", {}), "leaked_updates": "all" if n is None else n}
        claims.append(Claim(**{**shared, "conditions": conditions}, **vars(found)))
    return claims


def in_rounds(audit: A, rounds: ArrayLike, first: float = -np.inf, last: float = np.inf) -> A:
    """The audit of what leaked from round `first` to round `last`, both included.

    Speakers who took no part in them drop out, and the counts of every estimate say so.

    Parameters
    ----------
    audit : Audit, MulticlassAudit or NumericAudit
    rounds : array_like, shape (n,)
        The round of each row.
    first, last : float, optional

    Raises
    ------
    UserError
        When there is no row in these rounds, or too few for an audit.
    """
    numbers = np.asarray(rounds)
    if numbers.shape != (len(audit.evidence),):
        raise UserError(f"{len(audit.evidence)} rows, but rounds of shape {numbers.shape}: give one for each row.")
    return audit.select((numbers >= first) & (numbers <= last))


def drawn_rows(audit: A, unit: str, counts: Sequence[int], *, draws: int = 10, seed: int = 0) -> dict[int, A]:
    """For each N an audit with `draws` rows for every unit, one behind the other, units in sorted order.

    Parameters are as for `leaked_curve`.
    """
    keys, rng = audit.keys(unit), np.random.default_rng(seed)
    assert keys is not None
    codes = np.unique(keys, return_inverse=True)[1]
    evidence: dict[int, list[Floats]] = {n: [] for n in counts}
    firsts: list[int] = []
    for members in np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]):
        orders = rng.permuted(np.tile(members, (draws, 1)), axis=1)
        running = audit.evidence[orders].cumsum(axis=1)
        firsts += [int(members[0])] * draws
        for n in counts:
            taken = min(n, members.size)
            evidence[n].append(running[:, taken - 1] / (1 + (taken - 1) * audit.dependence))
    rows = np.array(firsts)
    return {n: audit.taken(np.concatenate(evidence[n]), rows) for n in counts}
