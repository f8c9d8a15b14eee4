"""Runs of one experiment merged into one audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from ._units import Names, Truth, Units, check_one_label
from .audit import Audit
from .metrics import Floats


def standardise_runs(runs: Sequence[Audit]) -> Audit:
    """Merge runs of one experiment (seeds) into one audit over speakers.

    To rank, a speaker's evidence is standardised within each run (less the mean over the run's speakers, over their
    standard deviation) and averaged over the runs the speaker took part in. To decide (UAR, accuracy), it is divided by
    the run's standard deviation *without* centring and averaged, so that the threshold stays where the attacker, who
    does not know the share of either class, has put it.

    Parameters
    ----------
    runs : sequence of Audit
        With the same labels; speakers may differ.

    Returns
    -------
    Audit
        One row a speaker; name and confidence of the first run.

    Raises
    ------
    UserError
        When there are no runs, their labels differ, or a speaker has different labels in two runs.
    """
    if not runs:
        raise UserError("No runs to merge: give at least one audit.")
    first = runs[0]
    speakers: list[Names] = []
    ranks: list[Floats] = []
    decisions: list[Floats] = []
    labels: list[Truth] = []
    for run in runs:
        if (run.positive, run.negative) != (first.positive, first.negative):
            raise UserError(
                f"Runs have different labels: {first.negative!r} and {first.positive!r}, "
                f"then {run.negative!r} and {run.positive!r}."
            )
        names, scores, truth = run.speaker_scores()
        # Not std > 0: rounding can leave equal scores a spread of 1e-17.
        scale = float(scores.std()) if np.ptp(scores) > 0 else 1.0
        speakers.append(names)
        ranks.append((scores - scores.mean()) / scale)
        decisions.append(run.speaker_decisions() / scale)
        labels.append(truth)
    rows = Units(np.concatenate(ranks), np.concatenate(decisions), np.concatenate(labels), np.concatenate(speakers))
    check_one_label(rows.groups, rows.labels, (first.negative, first.positive))
    merged = rows.combined(rows.groups, mean=True)
    return Audit(
        merged.scores,
        np.array([first.negative, first.positive])[merged.labels.astype(int)],
        merged.groups,
        positive=first.positive,
        confidence=first.confidence,
        name=first.name,
        decisions=merged.decisions,
    )
