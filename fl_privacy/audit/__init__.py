"""From scores to claims: metrics over speakers, intervals, controls, and the rows of result.json."""

from __future__ import annotations

from .audit import Audit
from .base import AnyAudit
from .claims import Claim, Control, Estimate, Privacy
from .controls import (
    PValue,
    best_blind,
    chance,
    paired_difference,
    permutation_null,
    permutation_p_value,
)
from .metrics import majority
from .multiclass import MulticlassAudit
from .numeric import NumericAudit
from .runs import standardise_runs
from .slices import Slice, slices_of
from .swapped import SwappedAudit

__all__ = [
    "AnyAudit",
    "Audit",
    "Claim",
    "Control",
    "Estimate",
    "MulticlassAudit",
    "NumericAudit",
    "PValue",
    "Privacy",
    "Slice",
    "SwappedAudit",
    "best_blind",
    "chance",
    "majority",
    "paired_difference",
    "permutation_null",
    "permutation_p_value",
    "slices_of",
    "standardise_runs",
]
