"""Epsilon from above and from below, and the unit that it protects beside the unit that is attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.audit import Privacy
from fl_privacy.report import words
from fl_privacy.report.run import Run

METHODS = {
    "clopper-pearson": "one threshold's error rates, by Clopper and Pearson's limits",
    "one-run": "the number of right guesses, by the one-run bound of Steinke, Nasr and Jagielski",
}
"""What a method of a lower bound rests on."""


def epsilon(run: Run) -> Mapping[str, Any] | None:
    """The table of promises, and what they say of what is attacked."""
    if not run.privacy:
        return None
    attacked = attacked_unit(run)
    federated = any(promise.unit in ("example", "client") for promise in run.privacy)
    composed = "over all rounds, for the client with the most of them" if federated else "over all steps of training"
    return {
        "composed": composed,
        "rows": [_row(promise, attacked) for promise in run.privacy],
        "sentences": list(dict.fromkeys(text for promise in run.privacy if (text := difference(promise, run)))),
        "broken": [text for promise in run.privacy if (text := contradiction(promise))],
        "lower": [text for promise in run.privacy if (text := _audited(promise))],
        "notes": list(dict.fromkeys(promise.note for promise in run.privacy if promise.note)),
    }


def attacked_unit(run: Run) -> str:
    """Return what the headline's attack is on: a speaker's attribute, in most runs."""
    claim = run.quoted(run.primary)
    unit = claim.unit if claim else "speaker"
    return f"{unit}: {claim.attribute}" if claim and claim.attribute else unit


def upper(promise: Privacy) -> str:
    """Return the accountant's epsilon, or that there is none."""
    return "no guarantee" if promise.epsilon_accountant is None else f"{promise.epsilon_accountant:.3g}"


def lower(promise: Privacy) -> str:
    """Return the bound from below, or that there was no audit."""
    return "not audited" if promise.epsilon_lower_bound is None else f"{promise.epsilon_lower_bound:.3g}"


def difference(promise: Privacy, run: Run) -> str | None:
    """Say in a sentence what a promise about one unit means for an attack on another; None where they are the same."""
    claim = run.quoted(run.primary)
    attacked, attribute = (claim.unit if claim else "speaker"), (claim.attribute if claim else None) or "attribute"
    if promise.unit == attacked:
        return None
    if promise.unit == "example":
        return (
            f"What is protected is a single example, what is attacked is the {attribute} of a {attacked}: "
            "example-level epsilon promises little about an attribute that all of a client's examples share. For n "
            "examples together the promise is n times as weak (n times epsilon, and a larger delta)."
        )
    if promise.unit == "utterance":
        return (
            f"What is protected is a single recording, what is attacked is the {attribute} of a {attacked}: all "
            "recordings of a person together are promised less, as the row of the unit speaker says."
        )
    if promise.unit == "client":
        return (
            f"What is protected is a client, what is attacked is the {attribute} of a {attacked}: they are the same "
            "only where all of a person's examples lie with one client. Over k clients of one person the promise is k "
            "times as weak (k times epsilon, and a larger delta)."
        )
    return f"What is protected is a {promise.unit}, what is attacked is the {attribute} of a {attacked}."


def contradiction(promise: Privacy) -> str | None:
    """Say that a bound from below lies above what the accountant promises, where it does."""
    above, below = promise.epsilon_accountant, promise.epsilon_lower_bound
    if above is None or below is None or below <= above:
        return None
    return (
        f"{promise.mechanism}: canaries show an epsilon of at least {below:.3g} "
        f"({words.percent(promise.confidence)} confidence), more than the accountant's {above:.3g}. One of three "
        "is true: chance (as often as the confidence leaves room for), an error in the mechanism or its account, or "
        "two different ideas of a neighbour."
    )


def _row(promise: Privacy, attacked: str) -> Mapping[str, Any]:
    return {
        "mechanism": promise.mechanism,
        "unit": promise.unit,
        "attacked": attacked,
        "from": promise.protects_from,
        "upper": upper(promise),
        "lower": lower(promise),
        "delta": "" if promise.delta is None else f"{promise.delta:g}",
    }


def _audited(promise: Privacy) -> str | None:
    if promise.epsilon_lower_bound is None or promise.method is None:
        return None
    facts: Sequence[str] = [
        f"{words.percent(promise.confidence)} confidence" if promise.confidence else "",
        words.count(promise.canaries, "canary", "canaries") if promise.canaries else "",
        str(promise.conditions.get("audited") or ""),
        f"{words.count(seen, 'round')} seen" if (seen := promise.conditions.get("audited_participations")) else "",
    ]
    rests = METHODS.get(promise.method, promise.method)
    return f"{promise.mechanism}: {rests} ({'; '.join(fact for fact in facts if fact)})."
