"""What the figures have in common: their width, the looks of two kinds, and names that fit."""

from __future__ import annotations

from fl_privacy.report.svg import FIRST, SECOND

WIDTH = 4.0
"""Inches; a page scales it."""

MARKS = ((FIRST, "o"), (SECOND, "^"))
"""Colour and marker of two kinds of thing."""


def short(text: str, length: int = 30) -> str:
    """Cut a name that would run out of the figure."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
