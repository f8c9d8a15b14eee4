"""An evaluation's evidence on disk, speaker by speaker: what several seeds of a simulation are merged from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.conclude import Evaluation, conclude
from fl_privacy.audit import AnyAudit, Audit, MulticlassAudit, NumericAudit, Slice, standardise_runs
from fl_privacy.audit._units import Units


def save_evidence(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation's evidence of speakers, by attack and slice, to an .npz file, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    told: dict[str, Any] = {"template": _told(evaluation.primary), "groups": {}, "slices": []}
    for part in ("audits", "blind", "plain"):
        audits: Mapping[str, AnyAudit] = getattr(evaluation, part)
        told["groups"][part] = list(audits)
        for number, audit in enumerate(audits.values()):
            arrays |= _arrays(f"{part}/{number}", audit.combined("speaker"))
    for number, row in enumerate(evaluation.permuted.values()):
        arrays[f"permuted/{number}"] = row
    for number, piece in enumerate(evaluation.slices):
        told["slices"].append(
            {
                "attack": piece.attack,
                "conditions": dict(piece.conditions),
                "unit": piece.unit,
                "draws": len(piece.draws),
            }
        )
        for draw, audit in enumerate(piece.draws):
            arrays |= _arrays(f"slices/{number}/{draw}", audit.combined("update"))
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, told=np.array(json.dumps(told)), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def load_evidence(path: Path) -> Evaluation:
    """Read what `save_evidence` wrote: audits with a row for each speaker, without claims and controls."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    told = json.loads(str(arrays["told"]))
    template = told["template"]

    def audit(key: str, name: str) -> AnyAudit:
        return _audit(template, name, Units(*(arrays[f"{key}/{field}"] for field in ("evidence", "truth", "groups"))))

    parts = {
        part: {name: audit(f"{part}/{number}", name) for number, name in enumerate(names)}
        for part, names in told["groups"].items()
    }
    slices = tuple(
        Slice(
            entry["conditions"],
            entry["unit"],
            tuple(audit(f"slices/{number}/{draw}", entry["attack"]) for draw in range(entry["draws"])),
        )
        for number, entry in enumerate(told["slices"])
    )
    permuted = {name: arrays[f"permuted/{number}"] for number, name in enumerate(parts["audits"])}
    return Evaluation(parts["audits"], parts["blind"], permuted, parts["plain"], slices)


def merge(runs: Sequence[Evaluation], *, seed: int, **context: Any) -> Evaluation:
    """Merge evaluations of several seeds: a speaker's evidence is standardised within each run and averaged over runs.

    So is the evidence under permuted labels, permutation by permutation, and that of slices, draw by draw. Slices that
    some run lacks are left out, and those by client: another seed cuts other shards.

    Parameters
    ----------
    runs : sequence of Evaluation
    seed : int
        Of the permutations of the private labels.
    **context
        Further fields of every claim.
    """
    first = runs[0]

    def merged(part: str) -> dict[str, AnyAudit]:
        return {name: standardise_runs([getattr(run, part)[name] for run in runs]) for name in getattr(first, part)}

    permuted = {}
    for name, audit in first.plain.items():
        rows = []
        for number in range(min(len(run.permuted[name]) for run in runs)):
            others = [run.plain[name].combined("speaker") for run in runs]
            shuffled = [
                run.plain[name].rebuilt(_with_scores(units, run.permuted[name][number]), None)
                for run, units in zip(runs, others, strict=True)
            ]
            rows.append(standardise_runs(shuffled).speaker_scores()[1])
        permuted[name] = np.array(rows) if rows else np.zeros((0, *audit.speaker_scores()[1].shape))
    slices = []
    for piece in first.slices:
        same = [_same(piece, run.slices) for run in runs]
        if piece.unit == "speaker" and all(same):
            draws = zip(*(other.draws for other in same if other is not None), strict=True)
            slices.append(Slice(piece.conditions, piece.unit, tuple(standardise_runs(list(draw)) for draw in draws)))
    return conclude(
        merged("audits"), merged("blind"), permuted, plain=merged("plain"), slices=slices, seed=seed, **context
    )


def _same(piece: Slice, others: Sequence[Slice]) -> Slice | None:
    wanted = (piece.attack, piece.conditions)
    return next((other for other in others if (other.attack, other.conditions) == wanted), None)


def _with_scores(units: Units, scores: NDArray[np.float64]) -> Units:
    """Put other scores in the evidence's place, to rank and to decide by."""
    columns = scores.reshape(len(scores), -1)
    copies = units.evidence.shape[1] // columns.shape[1]
    return Units(np.tile(columns, (1, copies)), units.truth, units.groups)


def _arrays(key: str, units: Units) -> dict[str, NDArray[Any]]:
    return {f"{key}/{field}": getattr(units, field) for field in ("evidence", "truth", "groups")}


def _told(audit: AnyAudit) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(audit).__name__, "confidence": audit.confidence}
    if isinstance(audit, Audit):
        told |= {"classes": [audit.negative, audit.positive]}
    elif isinstance(audit, MulticlassAudit):
        told |= {"classes": list(audit.classes)}
    return told


def _audit(template: Mapping[str, Any], name: str, units: Units) -> AnyAudit:
    """Make an audit of the same kind of rows that are given as they were held."""
    n, shared = len(units.groups), {"confidence": template["confidence"], "name": name}
    made: AnyAudit
    if template["kind"] == "NumericAudit":
        made = NumericAudit(np.zeros(n), units.truth, units.groups, **shared)
    else:
        classes = template["classes"]
        labels = [classes[int(truth)] for truth in units.truth.tolist()]
        if template["kind"] == "Audit":
            made = Audit(np.zeros(n), labels, units.groups, positive=classes[1], **shared)
        else:
            made = MulticlassAudit(np.zeros((n, len(classes))), labels, units.groups, classes=classes, **shared)
    return made.rebuilt(units, None)
