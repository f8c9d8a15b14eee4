"""Published numbers chosen by the table that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from fl_privacy.errors import UserError


class InTable(Protocol):
    """A number of a table."""

    @property
    def table(self) -> str:
        """Its name."""


Number = TypeVar("Number", bound=InTable)


def of_tables(study: str, numbers: Sequence[Number], tables: Sequence[str] | None) -> tuple[Number, ...]:
    """Return the numbers of some tables, or all.

    Raises
    ------
    UserError
        Where there is no such table.
    """
    known = list(dict.fromkeys(number.table for number in numbers))
    unknown = [name for name in tables or () if name not in known]
    if unknown:
        raise UserError(f"{study} has no table {unknown[0]!r}; there are: {', '.join(known)}")
    return tuple(number for number in numbers if not tables or number.table in tables)
