"""From scores to claims: metrics over speakers, intervals, controls, and the rows of result.json."""

from __future__ import annotations

from .audit import Audit
from .claims import Claim, Control, Estimate, Privacy
from .controls import (
    PValue,
    best_blind,
    chance,
    majority,
    paired_difference,
    permutation_null,
    permutation_p_value,
    permute_speaker_labels,
)
from .runs import standardise_runs

__all__ = [
    "Audit",
    "Claim",
    "Control",
    "Estimate",
    "PValue",
    "Privacy",
    "best_blind",
    "chance",
    "majority",
    "paired_difference",
    "permutation_null",
    "permutation_p_value",
    "permute_speaker_labels",
    "standardise_runs",
]
