"""Which claims of a result stand side by side in a table, and which number of an attack is the one to quote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from .claims import Claim, Control

AS_PUBLISHED = "as-published"
"""Protocol of a claim made by the rules of the study that it repeats."""

SWAPPED = "swapped roles"
"""Protocol of a claim on several targets, of some of which a speaker is a member and of others not."""

LAYER = "swept_layer"
"""Condition of a claim of a sweep over an encoder's layers."""

PARTS = ("leaked_updates", "rounds", "queries", LAYER)
"""Conditions that say that a claim rests on a part of the evidence."""

_QUOTED = {"auc": "AUC", "uar": "UAR", "correlation": "correlation"}
_OVER = "_over_best_blind"
_OVER_ONE = "auc_over_pair_mean"

STATIC = ":static"
"""Ends the name of an attack by somebody who does not know the defense, and whose shadows are made without it."""

TITLES = {
    **_QUOTED,
    "accuracy": "accuracy",
    "asr": "ASR",
    "top_5_accuracy": "accuracy of five guesses",
    "mean_rank": "mean rank",
    "tpr_at_fpr_0.01": "TPR at 1 % FPR",
    "spearman": "rank correlation",
    "mean_absolute_error": "mean absolute error",
    "r_squared": "R squared",
    **{metric + _OVER: f"{title} over best blind" for metric, title in _QUOTED.items()},
    _OVER_ONE: "AUC over pair.mean",
}
"""What a metric is called at the head of a column."""

SIGNED = frozenset({"correlation", "spearman", "r_squared", _OVER_ONE, *(metric + _OVER for metric in _QUOTED)})
"""Metrics that may lie below zero."""

_TWO = ("auc", "uar", "tpr_at_fpr_0.01")
_MORE = ("auc", "uar", "accuracy", "top_5_accuracy", "mean_rank")
_NUMBER = ("correlation", "spearman", "mean_absolute_error", "r_squared")

C = TypeVar("C", bound=Claim)


def main_claims(claims: Iterable[C]) -> list[C]:
    """Return the claims (or controls) that rest on all of the evidence, under the controlled protocol.

    The others are told in tables of their own: claims for some of the leaked updates or some rounds, and claims by the
    rules of a published study.
    """
    return [c for c in claims if c.protocol != AS_PUBLISHED and not any(part in c.conditions for part in PARTS)]


def quoted_metric(claims: Iterable[Claim]) -> str:
    """Return the metric to quote: the one that is held against blind baselines.

    That is "auc", of two classes or of more, or "correlation" for a numeric attribute ("uar" where a result says so).
    """
    told = {c.metric for c in claims if c.unit == "speaker"}
    held = [metric for metric in _QUOTED if over_blind(metric) in told]
    return held[0] if held else "correlation" if "correlation" in told else "auc"


def span(metric: str) -> tuple[float, float]:
    """Return the least and the greatest value that a figure of a metric has room for."""
    return (-1.0, 1.0) if metric in SIGNED else (0.0, 1.0)


def confidence_of(claims: Iterable[Claim]) -> float | None:
    """Return the confidence of the claims' intervals; None where none has one."""
    return next((claim.confidence for claim in claims if claim.confidence), None)


def of_two(claims: Iterable[Claim]) -> bool:
    """Whether claims are of two classes: of more, and of numbers, there are no positives to count."""
    return not any(c.metric in ("uar", "correlation") and c.n_positive is None for c in claims if c.unit == "speaker")


def over_blind(metric: str) -> str:
    """Return the metric that says how far an attack lies above the best blind baseline."""
    return metric + _OVER


def columns(claims: Iterable[Claim]) -> tuple[str, ...]:
    """Return the metrics that a table of claims shows, the one to quote first, what is over the best blind one last."""
    told = list(claims)
    metric, held = quoted_metric(told), {c.metric for c in told}
    if metric == "auc" and of_two(told):
        rest = () if _OVER_ONE not in held else (_OVER_ONE,)
        return (*(m if m in held or m != "uar" else "accuracy" for m in _TWO), *rest, over_blind(metric))
    kind = _NUMBER if metric == "correlation" else _MORE
    return (metric, *(m for m in kind if m in held and m != metric), over_blind(metric))


def guessing(metric: str, controls: Sequence[Control]) -> float | None:
    """Return what guessing gets: one half, none, or for a UAR over more classes what naming one class always gets."""
    fixed = {"auc": 0.5, "correlation": 0.0}
    if metric in fixed:
        return fixed[metric]
    named = (c.value for c in controls if (c.control, c.metric, c.unit) == ("majority", metric, "speaker"))
    return next(named, None)
