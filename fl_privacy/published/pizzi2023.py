"""Table 1 of Pizzi, Boenisch, Sahin and Böttinger (2023, arXiv 2301.03206): inversions of SincNet on TIMIT."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

CLASSES = 462
"""Speakers of the study: all of TIMIT's training folder."""

ITERATIONS = 1000
"""Of each window, at most."""


@dataclass(frozen=True)
class Inverted:
    """A row of the table.

    Attributes
    ----------
    method : str
        "standard" or "sliding".
    start : str
        As in `fl_privacy.attacks.inversion.STARTS`. The study does not say how many recordings its mean is over: taken
        for 50.
    step_size : float
        As given; not relative to anything.
    accuracy : float
        Share of the speakers whose inversion the attacked classifier recognises.
    correct : int
        How many.
    distance, distance_sd : float
        Euclidean, of d-vectors to the same speaker's recordings, over *recognised* inversions: mean and standard
        deviation.
    """

    method: str
    start: str
    step_size: float
    accuracy: float
    correct: int
    distance: float
    distance_sd: float


def table_1() -> tuple[Inverted, ...]:
    """Read the table."""
    text = resources.files("fl_privacy.published").joinpath("pizzi2023.csv").read_text(encoding="utf-8")
    return tuple(
        Inverted(
            row["method"],
            row["start"],
            float(row["step_size"]),
            float(row["accuracy"]),
            int(row["correct"]),
            float(row["distance"]),
            float(row["distance_sd"]),
        )
        for row in csv.DictReader(text.splitlines())
    )
