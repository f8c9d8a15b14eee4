"""What a defense buys and what it costs: the run beside the same federation under another defense, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fl_privacy.audit import Claim, Privacy
from fl_privacy.audit.reading import SIGNED, STATIC, TITLES, confidence_of
from fl_privacy.report import epsilon, figures, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.run import Run
from fl_privacy.report.swept import plain


@dataclass(frozen=True)
class Beside:
    """One federation: the run's own, or one beside it.

    Attributes
    ----------
    defense : str
        In words.
    uar : float or None
        Of the task, held-out speakers.
    adaptive, static : Claim or None
        The quoted claim of the primary attack, by an attacker who knows the defense or does not; without a defense the
        same.
    privacy : tuple of Privacy
    differences : mapping
        To the run's own: ``utility``, ``adaptive`` and ``static``, each an estimate as in result.json, or None.
    """

    defense: str
    uar: float | None
    adaptive: Claim | None
    static: Claim | None
    privacy: tuple[Privacy, ...]
    differences: Mapping[str, Any]


def cost(run: Run) -> Mapping[str, Any] | None:
    """The table and the figure of the run and what was run beside it; None where nothing was."""
    others = beside(run)
    if not others:
        return None
    every, notes, name = [_own(run), *others], Notes("cost"), TITLES[run.metric]
    drawn = [one for one in every if one.uar is not None]
    series = [
        figures.Scatter(title, tuple(mark for one in drawn if (mark := _mark(one, getattr(one, which)))))
        for which, title in (("adaptive", "knows the defense"), ("static", "does not know it"))
    ]
    label = f"{name} per {run.unit} over the task's UAR. " + " ".join(sentences(run))
    return {
        "figure": figures.tradeoff(
            "cost", series, [], name, run.guessing, label, signed=run.metric in SIGNED, unit=run.unit
        )
        if any(one.points for one in series)
        else None,
        "metric": name,
        "unit": run.unit,
        "rows": [
            {
                "name": one.defense,
                "own": not number,
                "utility": "" if one.uar is None else words.number(one.uar),
                "lost": _difference(one.differences.get("utility")),
                "cells": [notes.cell(one.adaptive), notes.cell(one.static)],
                "changed": [_difference(one.differences.get(which)) for which in ("adaptive", "static")],
                "epsilons": [_promise(p) for p in one.privacy],
            }
            for number, one in enumerate(every)
        ],
        "notes": notes,
        "units": list(
            dict.fromkeys(text for one in others for p in one.privacy if (text := epsilon.difference(p, run)))
        ),
        "speakers": len(run.part("utility").get("by_speaker") or ()),
        "confidence": confidence_of(one.adaptive for one in every if one.adaptive),
    }


def sentences(run: Run) -> list[str]:
    """Say of each federation beside the run what the same attack got there, and what became of the task."""
    mine, told = _own(run), []
    for other in beside(run):
        without = other.defense == "none"
        under = "Without a defense" if without else f"With {other.defense}"
        attacks = [_claimed(other.adaptive, TITLES[run.metric])]
        if other.static is not None and other.static is not other.adaptive:
            attacks.append(f"{_value(other.static)} for an attacker who does not know the defense")
        text = f"{under}, run beside it: {', '.join(attacks)}."
        if other.uar is not None and mine.uar is not None:
            lost = other.differences.get("utility") or {}
            span = () if lost.get("low") is None else (lost["low"], lost["high"])
            task = run.part("utility").get("task") or "its own"
            text += f" The UAR of the task ({task}) is {words.number(other.uar)} in place of {words.number(mine.uar)}"
            if span:
                text += f" ({_difference(lost, to=True)} over {words.count(lost['n_speakers'], 'held-out speaker')})"
                if min(span) <= 0 <= max(span):
                    text += "; a difference is not shown"
            text += "."
        told.append(text)
    return told


def beside(run: Run) -> list[Beside]:
    """Read what a result says of federations beside it."""
    found = []
    for row in run.result.get("beside") or ():
        claims = {claim.attack: claim for claim in map(Claim.from_dict, row["claims"])}
        adaptive = claims.get(run.primary or "")
        static = claims.get(f"{run.primary}{STATIC}", adaptive if not row["defense"] else None)
        promised = tuple(map(Privacy.from_dict, row["privacy"]))
        differences = {"utility": row["utility_difference"], **row["leakage_difference"]}
        found.append(Beside(plain(row["defense"]), row["utility"]["uar"], adaptive, static, promised, differences))
    return found


def _own(run: Run) -> Beside:
    adaptive = run.quoted(run.primary)
    defense = run.part("simulation").get("defense") or []
    static = run.quoted(f"{run.primary}{STATIC}") or (None if defense else adaptive)
    return Beside(plain(defense), run.part("utility").get("uar"), adaptive, static, run.privacy, {})


def _promise(promise: Privacy) -> str:
    at = "" if promise.delta is None else f" at delta {promise.delta:.0e}"
    return f"{epsilon.upper(promise)} for one {promise.unit}{at}; from below: {epsilon.lower(promise)}"


def _mark(one: Beside, claim: Claim | None) -> tuple[float, float, float | None, float | None, str] | None:
    if claim is None or claim.value is None or one.uar is None:
        return None
    return one.uar, claim.value, claim.low, claim.high, one.defense if one.defense != "none" else "no defense"


_signed = partial(words.number, signed=True)


def _difference(estimate: Mapping[str, Any] | None, to: bool = False) -> str:
    """Return a difference and its interval, in words where `to`."""
    if estimate is None or estimate["value"] is None:
        return ""
    if estimate["low"] is None:
        return _signed(estimate["value"])
    ends = f"{_signed(estimate['low'])} to {_signed(estimate['high'])}"
    if not to:
        return f"{_signed(estimate['value'])} ({ends})"
    return f"{_signed(estimate['value'])}, {words.percent(estimate['confidence'])} interval {ends},"


def _claimed(claim: Claim | None, title: str) -> str:
    return (
        "the attack gave no number"
        if claim is None or claim.value is None
        else f"the same attack's {title} is {_value(claim)}"
    )


def _value(claim: Claim) -> str:
    span = words.interval(claim)
    return f"{words.number(claim.value)} ({span})" if span else words.number(claim.value)
