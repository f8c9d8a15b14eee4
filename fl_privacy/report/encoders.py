"""Sections of an audit of frame encoders: single utterances, the layers, and what controls would show of one target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import AS_PUBLISHED, LAYER, TITLES, columns, confidence_of
from fl_privacy.report import words
from fl_privacy.report.notes import Notes, plain_cell
from fl_privacy.report.run import PERMUTATIONS, Run

_LOWEST, _HIGHEST = "lowest_target", "highest_target"


def utterances(run: Run) -> Mapping[str, Any] | None:
    """Attacks on single utterances, where the headline is of speakers."""
    claims = [claim for claim in run.main if claim.unit == "utterance"]
    if not claims or run.unit == "utterance":
        return None
    metrics, notes = columns(claims), Notes("utterances")
    rows = []
    for name in dict.fromkeys(claim.attack for claim in claims):
        mine = {claim.metric: claim for claim in claims if claim.attack == name}
        permuted = _permuted(run, name)
        rows.append(
            {
                "name": name,
                "unit": "utterance",
                "cells": [
                    *(notes.cell(mine.get(metric)) for metric in metrics),
                    plain_cell(permuted),
                ],
            }
        )
    controls = [c for c in run.main_controls if c.unit == "utterance" and c.control not in PERMUTATIONS]
    for control in controls:
        told = [notes.cell(control if metric == control.metric else None) for metric in metrics]
        rows.append({"name": f"control: {control.control}", "unit": "utterance", "cells": [*told, plain_cell()]})
    return {
        "heads": [*(TITLES[metric] for metric in metrics), "p, private labels permuted"],
        "rows": rows,
        "notes": notes,
        "confidence": confidence_of(claims),
        "counted": _counted(claims[0]),
    }


def layers(run: Run) -> Mapping[str, Any] | None:
    """The quoted metric of an attack by the layer whose frames it reads."""
    claims = [c for c in run.claims if LAYER in c.conditions and c.metric == run.metric]
    if not claims:
        return None
    steps, notes = sorted({int(c.conditions[LAYER]) for c in claims}), Notes("layers")
    found: dict[tuple[str, str], dict[int, Claim]] = {}
    for claim in claims:
        found.setdefault((claim.attack, claim.unit), {})[int(claim.conditions[LAYER])] = claim
    return {
        "heads": [f"layer {step}" for step in steps],
        "rows": [
            {"name": name, "unit": unit, "cells": [notes.cell(at.get(step)) for step in steps]}
            for (name, unit), at in found.items()
        ],
        "notes": notes,
        "metric": TITLES[run.metric],
        "confidence": confidence_of(claims),
    }


def one_target(run: Run) -> Mapping[str, Any] | None:
    """How far from guessing blind controls lie before a single target: what swapping roles takes away."""
    controls = [c for c in run.controls if _LOWEST in c.conditions]
    if not controls:
        return None
    rows = [
        {
            "name": control.control,
            "unit": control.unit,
            "cells": [
                plain_cell(words.number(value))
                for value in (control.value, control.conditions[_LOWEST], control.conditions[_HIGHEST])
            ],
        }
        for control in controls
    ]
    return {"heads": ["AUC over all targets", "lowest of a target", "highest"], "rows": rows, "notes": Notes("targets")}


def confounds(run: Run) -> Mapping[str, Any] | None:
    """What never asks the encoder, by the rules of the published study."""
    controls = [
        c for c in run.controls if c.protocol == AS_PUBLISHED and c.metric == "auc" and c.control not in PERMUTATIONS
    ]
    claims = [c for c in run.claims if c.protocol == AS_PUBLISHED and c.metric == "auc"]
    if not controls:
        return None
    notes = Notes("confounds")
    told: list[tuple[str, Claim]] = [(claim.attack, claim) for claim in claims]
    told += [(f"control: {control.control}", control) for control in controls]
    names = list(dict.fromkeys(name for name, _ in told))
    units = list(dict.fromkeys(claim.unit for _, claim in told))
    found = {(name, claim.unit): claim for name, claim in told}
    return {
        "heads": [f"AUC per {unit}" for unit in units],
        "rows": [
            {"name": name, "unit": "", "cells": [notes.cell(found.get((name, unit))) for unit in units]}
            for name in names
        ],
        "notes": notes,
        "explained": {c.control: words.BLIND[c.control] for c in controls if c.control in words.BLIND},
    }


def pretraining(part: Mapping[str, Any]) -> str:
    """Say in a sentence how long encoders were pre-trained, and how well they do on members and others."""
    told = (
        f"Pre-training: {part['steps']:,} steps, {part['epochs']:.3g} epochs over {part['minutes']:.3g} minutes of "
        "speech an encoder"
    )
    if part.get("loss_members") is None:
        return f"{told}."
    mine, others = words.number(part["loss_members"]), words.number(part["loss_nonmembers"])
    return f"{told}; mean loss {mine} on members, {others} on non-members."


def _permuted(run: Run, attack: str) -> str:
    wanted = (words.DECIDING, attack, "utterance", run.metric)
    found = (c.p_value for c in run.main_controls if (c.control, c.of, c.unit, c.metric) == wanted)
    return words.p_value(next(found, None))


def _counted(claim: Claim) -> str:
    members, others = words.count(claim.n_positive, "utterance"), words.count(claim.n_negative, "utterance")
    return f"{members} that trained a target, {others} that did not, of {words.count(claim.n_speakers, 'speaker')}"
