"""What a benchmark gives back."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    case : str
        What was run.
    ours, rival : float or None
        Figures of the two sides, in `unit`.
    rival_name : str or None
        What stands on the other side.
    unit : str
        "s", "MB", "fraction", ...
    ratio : float
        The figure to hold against `aim`.
    aim : float or None
        What was hoped for; None where nothing was promised.
    aim_is : {"at_least", "at_most"}
    extra : dict
        Further fields of the row in the file.
    """

    case: str
    ours: float | None
    rival: float | None
    rival_name: str | None
    unit: str
    ratio: float
    aim: float | None
    aim_is: Literal["at_least", "at_most"]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the ratio meets the aim; None without one."""
        if self.aim is None:
            return None
        return self.ratio >= self.aim if self.aim_is == "at_least" else self.ratio <= self.aim

    def to_dict(self) -> dict[str, Any]:
        """The row as it stands in the file."""
        row = asdict(self)
        return {**{key: value for key, value in row.items() if key != "extra"}, **self.extra}


@dataclass(frozen=True)
class Result:
    """All rows of a benchmark.

    Attributes
    ----------
    benchmark : str
        Its name.
    rows : tuple of Row
    """

    benchmark: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as it stands in the file, with the machine it was measured on."""
        machine = {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        return {"benchmark": self.benchmark, "machine": machine, "rows": [row.to_dict() for row in self.rows]}

    def table(self) -> str:
        """The rows as plain text."""
        width = max([4, *(len(row.case) for row in self.rows)])
        lines = [f"{'case':<{width}}  {'ours':>10}  {'rival':>10}  {'ratio':>10}  aim"]
        for row in self.rows:
            ours, rival = (
                f"{figure:>10.4g}" if figure is not None else f"{'-':>10}" for figure in (row.ours, row.rival)
            )
            aim = (
                "" if row.aim is None else f"{row.aim_is.replace('_', ' ')} {row.aim:g}{'' if row.met else '  MISSED'}"
            )
            lines.append(f"{row.case:<{width}}  {ours}  {rival}  {row.ratio:>10.4g}  {aim}".rstrip())
        rivals = sorted({row.rival_name for row in self.rows if row.rival_name})
        return "\n".join([*lines, *([f"rival: {', '.join(rivals)}"] if rivals else [])])
