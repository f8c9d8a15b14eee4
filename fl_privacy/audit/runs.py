"""Runs of one experiment merged into one audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ..errors import UserError
from ._units import Units
from .base import AnyAudit

A = TypeVar("A", bound=AnyAudit)


def standardise_runs(runs: Sequence[A]) -> A:
    """Merge runs of one experiment (seeds) into one audit over speakers.

    To rank, a speaker's evidence is standardised within each run (less the mean over the run's speakers, over their
    standard deviation) and averaged over the runs the speaker took part in. To decide (UAR, accuracy), it is divided by
    the run's standard deviation *without* centring and averaged, so that the threshold stays where the attacker, who
    does not know the share of either class, has put it.

    Of several classes, a speaker's scores are first taken less their own mean, each class is then centred like a score
    of two classes, and the standard deviation is that over all classes together. Predicted numbers are averaged as they
    are.

    Parameters
    ----------
    runs : sequence of Audit, MulticlassAudit or NumericAudit
        Of one kind, with the same labels; speakers may differ.

    Returns
    -------
    Audit, MulticlassAudit or NumericAudit
        One row a speaker; name and confidence of the first run.

    Raises
    ------
    UserError
        When there are no runs, their labels differ, or a speaker has different labels in two runs.
    """
    if not runs:
        raise UserError("No runs to merge: give at least one audit.")
    first = runs[0]
    for run in runs:
        if type(run) is not type(first):
            raise UserError(f"Runs are of two kinds: {type(first).__name__} and {type(run).__name__}.")
        first.check_same_kind(run)
    parts = [run.standardised() for run in runs]
    rows = Units(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("evidence", "truth", "groups")))
    # Built from all rows first, which refuses a speaker with two labels.
    whole = first.rebuilt(rows, None)
    return whole.rebuilt(rows.combined(whole.groups, correlation=1.0), None)
