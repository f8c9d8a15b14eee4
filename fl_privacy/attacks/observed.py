"""Updates together with the truth about their clients: the attacker's own side, or the private side for the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, Update, UpdateStore, disaggregate


@dataclass(frozen=True)
class Observed:
    """Updates of known clients.

    Attributes
    ----------
    updates : tuple of Update
    rows : tuple of dict
        The label file's columns for each update's client.
    """

    updates: tuple[Update, ...]
    rows: tuple[dict[str, str], ...]

    @classmethod
    def of(cls, stores: Sequence[tuple[UpdateStore, Labels]]) -> Observed:
        """Join stores with their label files.

        Of a store of sums (``observe="sum"``), the updates are estimates: see `fl_privacy.updates.disaggregate`.

        Raises
        ------
        UserError
            Where a store has no usable update or the label file lacks one of its clients.
        """
        updates: list[Update] = []
        rows: list[dict[str, str]] = []
        for store, labels in stores:
            found = _estimates(store) if store.observe == "sum" else store.updates()
            if not found:
                why = "".join(f": {reason} (client {c}, round {r})" for r, c, reason in list(store.failures)[:1])
                raise UserError(f"{store.path} holds no usable update{why}")
            unknown = sorted({u.client for u in found} - labels.rows.keys())
            if unknown:
                raise UserError(
                    f"{store.path}: the label file does not name {len(unknown)} of its clients, such as {unknown[0]!r}"
                )
            updates += found
            rows += [dict(labels.rows[u.client]) for u in found]
        return cls(tuple(updates), tuple(rows))

    @property
    def clients(self) -> list[str]:
        """Pseudonym of each update's client."""
        return [update.client for update in self.updates]

    @cached_property
    def speakers(self) -> list[str]:
        """Speaker of each update's client."""
        return [row["speaker"] for row in self.rows]

    @property
    def named_speakers(self) -> set[str]:
        """Speakers whom a label file names (not those who are called like their client for want of a name)."""
        pairs = zip(self.speakers, self.clients, strict=True)
        return {speaker for speaker, client in pairs if speaker != client}

    def values(self, column: str) -> list[str]:
        """Return one label column, a value for each update.

        Raises
        ------
        UserError
            If the column is missing or empty for a client.
        """
        lacking = sorted({u.client for u, row in zip(self.updates, self.rows, strict=True) if not row.get(column)})
        if lacking:
            raise UserError(f"no {column!r} in the label file for client(s) {', '.join(lacking[:5])}")
        return [row[column] for row in self.rows]

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """Return numeric label columns, shape (n, columns)."""
        try:
            return np.array([[float(row[column]) for column in columns] for row in self.rows])
        except ValueError as error:
            raise UserError(f"label columns {', '.join(columns)} must hold numbers: {error}") from None

    def has(self, columns: Sequence[str]) -> bool:
        """Whether every client has these columns."""
        return bool(columns) and all(row.get(column) for row in self.rows for column in columns)


def _estimates(store: UpdateStore) -> list[Update]:
    sums = store.updates()
    always = set.intersection(*(set(total.participants) for total in sums)) if sums else set()
    if len(always) > 1 and all(set(total.participants) == always for total in sums):
        raise UserError(
            f"{store.path}: the same {len(always)} clients took part in each of {len(sums)} rounds: nothing in sums "
            "over them tells one from another"
        )
    return disaggregate(sums)
