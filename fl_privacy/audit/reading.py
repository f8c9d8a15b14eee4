"""Which claims of a result stand side by side in a table, and which number of an attack is the one to quote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from .claims import Claim, Control

AS_PUBLISHED = "as-published"
"""Protocol of a claim made by the rules of the study that it repeats."""

PARTS = ("leaked_updates", "rounds")
"""Conditions that say that a claim rests on a part of the evidence."""

_QUOTED = {"auc": "AUC", "uar": "UAR", "correlation": "correlation"}

TITLES = {
    **_QUOTED,
    "accuracy": "accuracy",
    "tpr_at_fpr_0.01": "TPR at 1 % FPR",
    "mean_absolute_error": "mean absolute error",
    **{f"{metric}_over_best_blind": f"{title} over best blind" for metric, title in _QUOTED.items()},
}
"""What a metric is called at the head of a column."""

SIGNED = frozenset({"correlation", *(f"{metric}_over_best_blind" for metric in _QUOTED)})
"""Metrics that may lie below zero."""

_COLUMNS = {
    "auc": ("auc", "uar", "tpr_at_fpr_0.01", "auc_over_best_blind"),
    "uar": ("uar", "accuracy", "auc", "uar_over_best_blind"),
    "correlation": ("correlation", "mean_absolute_error", "correlation_over_best_blind"),
}

C = TypeVar("C", bound=Claim)


def main_claims(claims: Iterable[C]) -> list[C]:
    """Return the claims (or controls) that rest on all of the evidence, under the controlled protocol.

    The others are told in tables of their own: claims for some of the leaked updates or some rounds, and claims by the
    rules of a published study.
    """
    return [c for c in claims if c.protocol != AS_PUBLISHED and not any(part in c.conditions for part in PARTS)]


def quoted_metric(claims: Iterable[Claim]) -> str:
    """Return the metric to quote: "auc" for two classes, "uar" for more, "correlation" for a numeric attribute.

    An AUC over more than two classes has no number of positives.
    """
    told = [c for c in claims if c.unit == "speaker"]
    if any(c.metric == "correlation" for c in told):
        return "correlation"
    return "uar" if any(c.metric == "uar" and c.n_positive is None for c in told) else "auc"


def over_blind(metric: str) -> str:
    """Return the metric that says how far an attack lies above the best blind baseline."""
    return f"{metric}_over_best_blind"


def columns(claims: Iterable[Claim]) -> tuple[str, ...]:
    """Return the metrics that a table of claims shows, the one to quote first."""
    return _COLUMNS[quoted_metric(claims)]


def guessing(metric: str, controls: Sequence[Control]) -> float | None:
    """Return what guessing gets: one half, none, or for a UAR over more classes what naming one class always gets."""
    fixed = {"auc": 0.5, "correlation": 0.0}
    if metric in fixed:
        return fixed[metric]
    named = (c.value for c in controls if (c.control, c.metric, c.unit) == ("majority", metric, "speaker"))
    return next(named, None)
