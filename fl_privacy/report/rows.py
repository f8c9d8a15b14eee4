"""The rows of a scores.csv: one for each speaker, or one for each speaker before each target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import SwappedAudit, metrics
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

_BEFORE = " before target"
"""Ends the unit of a row that is one of several of the same speaker, before as many targets."""


@dataclass(frozen=True)
class SpeakerScore:
    """One speaker's evidence.

    Attributes
    ----------
    speaker, label : str
    score : float
        What speakers are ranked by.
    decision : float
        What is decided by: above 0 for the positive label.
    target : str
        Before which the speaker was judged; empty where there is one target alone.
    utterance : str
        Where utterances are judged; else empty.
    """

    speaker: str
    label: str
    score: float
    decision: float
    target: str = ""
    utterance: str = ""


def read_rows(rows: Sequence[Mapping[str, str]], unit: str, ratio: float | None) -> dict[str, tuple[SpeakerScore, ...]]:
    """Read the rows that a headline is about, by attack or blind baseline.

    Parameters
    ----------
    rows : sequence of mapping
        Of a scores.csv. Without a column ``unit``, rows are added up over speakers.
    unit : str
        "speaker" or "utterance".
    ratio : float or None
        Of rows that have a mixing ratio, those at this one.

    Raises
    ------
    UserError
        For a row that is not what it should be, naming its line.
    """
    found: dict[str, dict[tuple[str, str, str], SpeakerScore]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            named = row.get("unit", "speaker")
            kind = named.removesuffix(_BEFORE)
            if kind != unit or not _of_two(row) or (row.get("r") and float(row["r"]) != ratio):
                continue
            target = row["target"] if kind != named else ""
            utterance = row["utterance"] if unit == "utterance" else ""
            speaker, score, decision = row["speaker"], float(row["score"]), float(row["decision"])
            mine, key = found.setdefault(row["attack"], {}), (target, speaker, utterance)
            before = mine.get(key, SpeakerScore(speaker, row["label"], 0.0, 0.0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"scores.csv, line {number}: {error!r}; make the run's result again") from None
        if not (math.isfinite(score) and math.isfinite(decision)):
            raise UserError(f"scores.csv, line {number}: a score is not finite; make the run's result again")
        total = before.score + score, before.decision + decision
        mine[key] = SpeakerScore(speaker, before.label, *total, target, utterance)
    return {attack: tuple(mine[key] for key in sorted(mine)) for attack, mine in found.items()}


def _of_two(row: Mapping[str, str]) -> bool:
    """Whether a row is of an attack on two classes: others have a score for each class, or predict a number."""
    return bool(row.get("score")) or not any(key == "prediction" or key.startswith("score:") for key in row if key)


def scores_of(rows: Sequence[SpeakerScore], label: str) -> Floats:
    """Return the scores of the rows of a label."""
    return np.array([row.score for row in rows if row.label == label], dtype=np.float64)


def mean_auc(rows: Sequence[SpeakerScore], negative: str, positive: str) -> float | None:
    """Return the mean over targets of the AUC within one; None where a target has rows of one label alone."""
    by_target: dict[str, list[SpeakerScore]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
    found = []
    for mine in by_target.values():
        high, low = scores_of(mine, positive), scores_of(mine, negative)
        if not high.size or not low.size:
            return None
        found.append(metrics.auc(high, low))
    return float(np.mean(found)) if found else None


def swapped_audit(rows: Sequence[SpeakerScore], positive: str, confidence: float) -> SwappedAudit:
    """Audit rows before several targets anew, with intervals of another confidence."""
    utterances = [row.utterance for row in rows]
    return SwappedAudit(
        [row.score for row in rows],
        [row.label == positive for row in rows],
        [row.speaker for row in rows],
        [row.target for row in rows],
        utterances=utterances if any(utterances) else None,
        confidence=confidence,
    )


def by_speaker(rows: Sequence[SpeakerScore]) -> list[SpeakerScore]:
    """Return the mean of each speaker's rows of either label: over targets, and over its utterances."""
    found: dict[tuple[str, str], list[SpeakerScore]] = {}
    for row in rows:
        found.setdefault((row.speaker, row.label), []).append(row)
    return [
        SpeakerScore(
            speaker, label, float(np.mean([row.score for row in mine])), float(np.mean([row.decision for row in mine]))
        )
        for (speaker, label), mine in sorted(found.items())
    ]
