"""One thing that was looked at, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "problem"]
"""``"problem"``: something would fail, or run in another place than it seems. ``"note"``: good to know."""

_ORDER: tuple[State, ...] = ("ok", "note", "problem")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        What was looked at.
    state : {"ok", "note", "problem"}
        See `State`.
    found : str
        What is the case, in a line.
    todo : str
        What to do; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    todo: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as aligned text: what is in order, then notes, then problems, then one summary line."""
    if not findings:
        return summary(findings)
    names = max(len(finding.name) for finding in findings)
    states = max(len(state) for state in _ORDER)
    lines = []
    for finding in sorted(findings, key=lambda finding: _ORDER.index(finding.state)):
        lines.append(f"{finding.name:<{names}}  {finding.state:<{states}}  {finding.found}")
        if finding.todo:
            lines.append(f"{'':<{names}}  {'':<{states}}  -> {finding.todo}")
    return "\n".join([*lines, "", summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """Return one line: whether anything would fail."""
    problems, notes = (sum(f.state == state for f in findings) for state in ("problem", "note"))
    told = f"{notes} note{'' if notes == 1 else 's'}"
    if not problems:
        return f"nothing would fail ({told})"
    return f"{problems} problem{'' if problems == 1 else 's'}, {told}"
