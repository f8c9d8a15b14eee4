"""Sections on claims outside the main table: on a part of the evidence, or by a published study's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import AS_PUBLISHED, TITLES, confidence_of, span
from fl_privacy.report import figures, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.run import RATIO, Run
from fl_privacy.report.svg import Figure

_LEAKED, _ROUNDS = "leaked_updates", "rounds"
_QUERIES = "queries"
_SPREAD = "sd_over_folds"
_APART = 3
"""Lines in one figure: more are hard to tell apart."""


def leaked(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric over the number of leaked updates: a figure for each unit, and a table."""
    claims = [c for c in _controlled(run) if _LEAKED in c.conditions and c.metric == run.metric]
    if not claims:
        return None
    steps = sorted({_number(c.conditions[_LEAKED]) for c in claims})
    names = ["all" if step == float("inf") else f"{step:g}" for step in steps]
    name, notes = TITLES[run.metric], Notes("leaked")
    drawn, rows, pictures = [], [], list[Figure]()
    for unit, label, mine in _series(claims, _LEAKED):
        at = {_number(c.conditions[_LEAKED]): c for c in mine}
        found = [at.get(step) for step in steps]
        rows.append({"name": label, "unit": unit, "cells": [notes.cell(claim) for claim in found]})
        drawn.append((unit, figures.Line(label, tuple(_point(claim) for claim in found))))
    for unit in dict.fromkeys(unit for unit, _ in drawn):
        lines = [line for of, line in drawn if of == unit]
        for start in range(0, len(lines), _APART):
            some = lines[start : start + _APART]
            told = f"{name} per {unit} after {', '.join(names)} leaked updates. " + "; ".join(
                f"{line.name}: {', '.join(words.number(p and p[0]) for p in line.points)}" for line in some
            )
            pictures.append(
                figures.steps(
                    f"leaked-{len(pictures)}",
                    names,
                    some,
                    f"{name} per {unit}",
                    span(run.metric),
                    run.guessing,
                    f"{told}.",
                )
            )
    return {
        "figures": pictures,
        "heads": names,
        "rows": rows,
        "notes": notes,
        "metric": name,
        "confidence": confidence_of(claims),
    }


def rounds(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric of attacks that see some rounds alone: a table."""
    claims = [
        c
        for c in _controlled(run)
        if _ROUNDS in c.conditions and _LEAKED not in c.conditions and c.metric == run.metric
    ]
    if not claims:
        return None
    windows = sorted({str(c.conditions[_ROUNDS]) for c in claims}, key=_first_round)
    notes, rows = Notes("rounds"), []
    for unit, label, mine in _series(claims, _ROUNDS):
        at = {str(c.conditions[_ROUNDS]): c for c in mine}
        rows.append({"name": label, "unit": unit, "cells": [notes.cell(at.get(window)) for window in windows]})
    return {
        "heads": windows,
        "rows": rows,
        "notes": notes,
        "metric": TITLES[run.metric],
        "confidence": confidence_of(claims),
    }


def layers(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric of attacks that read different layers of the updates: a figure."""
    given = run.part("simulation").get("attack") or ()
    read = {
        str(attack.get("label") or attack["name"]): " + ".join(map(str, attack["layers"]))
        for attack in given
        if isinstance(attack.get("layers"), list | tuple) and attack.get("name")
    }
    rows: dict[str, list[figures.Bar]] = {}
    for name, layer in read.items():
        claim = run.quoted(name)
        if claim is not None and claim.value is not None:
            rows.setdefault(layer, []).append(figures.Bar(name, claim.value, claim.low, claim.high))
    kinds = list(dict.fromkeys(bar.kind for bars in rows.values() for bar in bars))
    if len(rows) < 2 or len(kinds) > figures.KINDS:
        return None
    metric = TITLES[run.metric]
    told = "; ".join(
        f"{layer}: {', '.join(f'{bar.kind} {words.number(bar.value)}' for bar in bars)}" for layer, bars in rows.items()
    )
    drawn = figures.intervals(
        list(rows.items()),
        kinds,
        f"{metric} per speaker",
        span(run.metric),
        run.guessing,
        f"{metric} by layer. {told}.",
        name="layers",
    )
    return {"figure": drawn, "metric": metric}


def ratios(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric of membership attacks by the share of voices that were trained on: a table."""
    told = [c for c in _controlled(run) if RATIO in c.conditions and c.metric == run.metric]
    claims = [c for c in told if _QUERIES not in c.conditions]
    steps = list(dict.fromkeys(c.conditions[RATIO] for c in claims))
    if len(steps) < 2:
        return None
    notes, rows = Notes("ratios"), []
    for unit, label, mine in _series(claims, RATIO):
        at = {c.conditions[RATIO]: c for c in mine}
        rows.append({"name": label, "unit": unit, "cells": [notes.cell(at.get(step)) for step in steps]})
    return {
        "heads": [f"r = {step:g}" for step in steps],
        "rows": rows,
        "notes": notes,
        "metric": TITLES[run.metric],
        "confidence": confidence_of(claims),
    }


def queries(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric of a membership attack that asks its target for less: a table."""
    claims = [c for c in _controlled(run) if _QUERIES in c.conditions and c.metric == run.metric]
    steps = list(dict.fromkeys(c.conditions.get(RATIO) for c in claims))
    if not claims:
        return None
    notes = Notes("queries")
    rows: dict[str, dict[Any, Claim]] = {}
    for claim in claims:
        how = claim.conditions
        grouped = ", enrolled as a group" if how.get("grouped") else ""
        name = (
            f"{how[_QUERIES]} voices sent: {how.get('voices')} of each candidate, {how.get('imposters')} imposters of "
            f"{how.get('imposter_voices')}{grouped}; {how.get('scores_a_candidate')} scores a candidate"
        )
        rows.setdefault(name, {})[how.get(RATIO)] = claim
    return {
        "heads": [TITLES[run.metric] if step is None else f"r = {step:g}" for step in steps],
        "rows": [
            {"name": name, "unit": "speaker", "cells": [notes.cell(at.get(step)) for step in steps]}
            for name, at in rows.items()
        ],
        "notes": notes,
        "metric": TITLES[run.metric],
        "attack": claims[0].attack,
        "confidence": confidence_of(claims),
    }


def published(run: Run) -> Mapping[str, Any] | None:
    """Every claim by the rules of a published study."""
    claims = [c for c in run.claims if c.protocol == AS_PUBLISHED]
    if not claims:
        return None
    metrics = [m for m in dict.fromkeys(c.metric for c in claims) if m in TITLES]
    notes, rows = Notes("published"), []
    for unit, label, mine in _series(claims, _SPREAD):
        at = {c.metric: c for c in mine}
        rows.append({"name": label, "unit": unit, "cells": [_published(notes, at.get(metric)) for metric in metrics]})
    return {"heads": [TITLES[metric] for metric in metrics], "rows": rows, "notes": notes}


def _published(notes: Notes, claim: Claim | None) -> dict[str, Any]:
    shown = notes.cell(claim)
    spread = claim.conditions.get(_SPREAD) if claim else None
    if claim and not shown["span"] and spread is not None:
        shown["span"] = f"SD {words.number(spread)} over {claim.conditions.get('folds', 'the')} folds"
    return shown


def _controlled(run: Run) -> list[Claim]:
    return [c for c in run.claims if c.protocol != AS_PUBLISHED and c.unit in ("speaker", "client")]


def _series(claims: Sequence[Claim], axis: str) -> list[tuple[str, str, list[Claim]]]:
    """Gather claims that differ along an axis alone: unit, name and claims of each, speakers before clients.

    The name is the attack's, with the conditions in which the claims differ otherwise.
    """
    other = [{k: v for k, v in c.conditions.items() if k not in (axis, "best_blind")} for c in claims]
    told: dict[str, set[tuple[str, str]]] = {}
    for claim, conditions in zip(claims, other, strict=True):
        for key in {k for given in other for k in given}:
            told.setdefault(key, set()).add((claim.attack, repr(conditions.get(key))))
    # What one attack has but one value of goes without saying.
    differing = sorted(k for k, values in told.items() if len(values) > len({attack for attack, _ in values}))
    found: dict[tuple[str, str], list[Claim]] = {}
    for claim, conditions in zip(claims, other, strict=True):
        at = ", ".join(f"{k.replace('_', ' ')} {conditions[k]}" for k in differing if k in conditions)
        found.setdefault((claim.unit, f"{claim.attack} ({at})" if at else claim.attack), []).append(claim)
    return [(unit, name, mine) for (unit, name), mine in sorted(found.items(), key=lambda f: f[0][0] != "speaker")]


def _number(step: Any) -> float:
    return float("inf") if step == "all" else float(step)


def _first_round(window: str) -> tuple[float, str]:
    first = window.split("-")[0]
    return (float(first) if first.isdigit() else float("inf"), window)


def _point(claim: Claim | None) -> tuple[float, float | None, float | None] | None:
    return None if claim is None or claim.value is None else (claim.value, claim.low, claim.high)
