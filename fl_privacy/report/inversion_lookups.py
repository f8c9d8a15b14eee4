"""What the sections of an inversion's page share: claims by name, and tables of the template's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.audit import Claim, Control
from fl_privacy.report import words
from fl_privacy.report.notes import Notes, plain_cell
from fl_privacy.report.run import Run

PART = "inversion"
"""Of result.json, and how a result of this kind is told."""

METRICS = {
    "accuracy": "recognised",
    "top_5_accuracy": "among the best five",
    "accepted_at_eer": "accepted at the EER",
    "accepted_at_far_0.01": "accepted at 1 % FAR",
}
"""What each metric counts."""

GIVEN = {
    "attacked": "the recogniser under attack",
    "other seed": "a SincNet of another seed",
    "other architecture": "an independent recogniser of another architecture",
    "speaker encoder": "a speaker encoder trained on other people",
}
"""What each judge is."""


def primary_claim(run: Run, metric: str = "accuracy") -> Claim | None:
    """Return the primary claim by a metric."""
    return next((c for c in run.claims if c.primary and c.metric == metric), None)


def find_claim(run: Run, attack: str, metric: str, **conditions: Any) -> Claim | None:
    """Return the first claim on identities of an attack, by a metric, under conditions."""
    return next((c for c in run.claims if is_about(c, attack, metric, conditions)), None)


def find_control(run: Run, control: str, of: str, metric: str, **conditions: Any) -> Control | None:
    """Return the first control of a kind of an attack, by a metric, under conditions."""
    return next((c for c in run.controls if c.control == control and is_about(c, of, metric, conditions)), None)


def is_about(claim: Claim, attack: str, metric: str, conditions: Mapping[str, Any]) -> bool:
    """Whether a claim is on identities of an attack, by a metric, under conditions; read-outs only where asked for."""
    if (claim.attack, claim.metric) != (attack, metric) or claim.attribute != "identity":
        return False
    told = claim.conditions
    if "readout" in told and "readout" not in conditions:
        return False
    return all(told.get(key) == value for key, value in conditions.items())


def chance_of(lead: Claim) -> float | None:
    """Return the share that guessing would recognise."""
    return None if not lead.conditions.get("classes") else 1 / float(lead.conditions["classes"])


def at_its_work(run: Run, of: str = "") -> Claim | None:
    """Return how a classifier under attack does on whole, unused recordings of its own speakers.

    Parameters
    ----------
    run : Run
    of : str
        The countermeasure that it was trained with; by default none.
    """
    return find_control(run, "own recordings", of, "accuracy", judge="attacked", length=0)


def is_guessing(claim: Claim | None) -> bool:
    """Whether a share of the speakers that is recognised cannot be told from that of guessing."""
    if claim is None or claim.low is None:
        return False
    chance = chance_of(claim)
    return chance is not None and claim.low <= chance


def attacks_of(run: Run) -> list[str]:
    """Names of the wave attacks, the primary one first."""
    found = [c for c in run.claims if c.metric == "accuracy" and "method" in c.conditions and "judge" in c.conditions]
    names = dict.fromkeys(c.attack for c in sorted(found, key=lambda c: not c.primary))
    return list(names)


def judges_of(run: Run) -> list[str]:
    """Return the judges that there are, in the order of the page."""
    told = {c.conditions.get("judge") for c in run.claims}
    return [judge for judge in GIVEN if judge in told]


def difference_cell(claim: Claim | None) -> dict[str, Any]:
    """Return a cell of a difference, with its sign."""
    if claim is None:
        return plain_cell("")
    return plain_cell(words.number(claim.value, signed=True), words.interval(claim, signed=True))


def make_table(
    caption: str, corner: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]], notes: Notes
) -> dict[str, Any]:
    """Return a table as the template takes it."""
    return {"caption": caption, "corner": corner, "heads": list(heads), "rows": list(rows), "notes": notes}


def section_content(
    *,
    before: Sequence[str] = (),
    figures: Sequence[Mapping[str, Any]] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    after: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a section as the template takes it."""
    return {"before": before, "figures": figures, "tables": tables, "after": after}
