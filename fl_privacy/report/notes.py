"""Claims as they stand in the cells of a table, with the reasons of what is missing as notes below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import SIGNED
from fl_privacy.report import words


def plain_cell(text: str = "", span: str = "") -> dict[str, Any]:
    """Return what a cell shows that is of no claim: text, something smaller below it, or nothing."""
    return {"text": text, "span": span, "note": None}


class Notes:
    """The notes of one table.

    Parameters
    ----------
    name : str
        Of the table: anchors of its notes begin with it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._reasons: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def of(self, reason: str | None) -> int | None:
        """Return the number of a reason's note, from 1; None without a reason."""
        if not reason:
            return None
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason) + 1

    def cell(self, claim: Claim | None) -> dict[str, Any]:
        """Return what a cell shows of a claim: its value, its interval, and the number of its note."""
        if claim is None:
            return plain_cell()
        signed = claim.metric in SIGNED
        return {
            "text": words.number(claim.value, signed),
            "span": words.interval(claim, signed),
            "note": self.of(claim.reason),
        }
