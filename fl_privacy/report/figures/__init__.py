"""The figures: each takes numbers and draws them."""

from __future__ import annotations

from fl_privacy.report.figures._looks import short
from fl_privacy.report.figures.claims import KINDS, Bar, Line, intervals, over_rounds, steps
from fl_privacy.report.figures.scatter import Scatter, tradeoff
from fl_privacy.report.figures.scores import Curve, distributions, roc, strip

__all__ = [
    "KINDS",
    "Bar",
    "Curve",
    "Line",
    "Scatter",
    "distributions",
    "intervals",
    "over_rounds",
    "roc",
    "short",
    "steps",
    "strip",
    "tradeoff",
]
