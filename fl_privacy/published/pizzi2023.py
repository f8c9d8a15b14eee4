"""Table 1 of Pizzi, Boenisch, Sahin and Böttinger (2023, arXiv 2301.03206): inversions of SincNet on TIMIT."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fl_privacy.attacks.files import aligned
from fl_privacy.errors import UserError

STUDIES = {
    "pizzi2023": "Pizzi, Boenisch, Sahin and Böttinger, model inversion of speaker recognition (arXiv 2301.03206)",
}
"""The study by its name."""

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


def departures(simulation: Mapping[str, Any], classes: int) -> list[str]:
    """Say where a run is not the study's.

    Parameters
    ----------
    simulation : mapping
        The run's settings, as they stand in its result.
    classes : int
        Of its target.
    """
    notes = ["The study's distances are of recognised inversions alone, and so are ours here."]
    if (corpus := simulation["private"]["corpus"]) != "timit":
        notes.append(f"The study's corpus is TIMIT; this run's is {corpus}.")
    if simulation["target"].get("checkpoint") is None:
        notes.append("The study attacks SincNet's public checkpoint; this run attacks a SincNet of its own.")
    if classes != CLASSES:
        notes.append(f"The study has {CLASSES} speakers, this run {classes}.")
    compared = [attack for attack in simulation["attack"] if attack["name"] in ("standard", "sliding")]
    if fewer := sorted({attack["iterations"] for attack in compared} - {ITERATIONS}):
        notes.append(f"The study takes up to {ITERATIONS} steps a window, this run {', '.join(map(str, fewer))}.")
    if others := sorted({attack["objective"] for attack in compared} - {"one-minus-p"}):
        notes.append(f"The study makes one minus the probability small, this run {', '.join(others)}.")
    if any(attack["scale"] != "published" for attack in compared):
        notes.append("The study's step sizes are absolute, this run's relative to the start's variance.")
    notes.append("The study reports neither its patience nor its threshold, nor where a slid vector was read.")
    return notes


def inversion_comparison(study: str, results: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return table 1 as plain text, with ours of the same method and start beside it.

    Parameters
    ----------
    study : str
        One of `STUDIES`.
    results : sequence of mapping
        Contents of result.json of runs of kind "speaker-inversion".

    Raises
    ------
    UserError
        For a result of another kind.
    """
    heads = ["method", "start", "step size", "accuracy", "recognised", "distance", "SD"]
    rows = [
        [
            row.method,
            row.start,
            f"{row.step_size:g}",
            f"{row.accuracy:.4f}",
            f"{row.correct}/{CLASSES}",
            f"{row.distance:.3f}",
            f"{row.distance_sd:.4f}",
        ]
        for row in table_1()
    ]
    notes = []
    for number, result in enumerate(results, start=1):
        if "inversion" not in result:
            raise UserError(f"{study} is laid beside runs of kind 'speaker-inversion'; one of these is of another kind")
        which = f" {number}" if len(results) > 1 else ""
        heads += [f"ours{which}: accuracy", "other architecture", "distance"]
        for line, row in zip(rows, table_1(), strict=True):
            line += _ours(result, f"{row.method} from {row.start}")
        classes = result["claims"][0]["conditions"]["classes"]
        notes.append(f"ours{which}: " + " ".join(departures(result["simulation"], classes)))
    told = "Accuracy: share of the speakers whose inversion the attacked classifier takes for theirs."
    return "\n\n".join([f"{study}: {STUDIES[study]}.", f"{told}\n{aligned([heads, *rows])}", *notes])


def _ours(result: Mapping[str, Any], attack: str) -> list[str]:
    """What the attacked recogniser and one of another architecture take for the speaker, and the distance."""
    shares = {
        claim["conditions"]["judge"]: claim["value"]
        for claim in result["claims"]
        if (claim["attack"], claim["metric"], claim["attribute"]) == (attack, "accuracy", "identity")
        and "readout" not in claim["conditions"]
    }
    lain = result["inversion"]["distances"].get(attack, {}).get("own_recognised")
    numbers = [shares.get("attacked"), shares.get("other architecture"), None if lain is None else lain["mean"]]
    return ["" if value is None else f"{value:.{4 if place < 2 else 3}f}" for place, value in enumerate(numbers)]
