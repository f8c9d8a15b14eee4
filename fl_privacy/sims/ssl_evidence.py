"""What a run in swapped roles found, as a file, and several runs that differ in their seed as one result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import SwappedAudit
from fl_privacy.audit.claims import jsonable
from fl_privacy.sims.ssl_membership import SslMembership, SslMembershipResult
from fl_privacy.sims.ssl_result import Reading

_ROWS = ("members", "speakers", "targets", "utterances")
"""What all audits of a unit have in common."""

_PARTS = ("audits", "blind", "layers")
_FACTS = ("utility", "left_out", "queries", "records")


def save_evidence(path: Path, found: SslMembershipResult) -> None:
    """Write what several runs are merged from to an .npz file, whole or not at all.

    Parameters
    ----------
    path : Path
    found : SslMembershipResult
        Of one run.
    """
    arrays: dict[str, NDArray[Any]] = {}
    told: list[dict[str, Any]] = []
    for part in _PARTS:
        for key, audit in getattr(found.reading, part).items():
            held = {name: getattr(audit, name) for name in _ROWS}
            arrays |= {f"{audit.unit}/{name}": rows for name, rows in held.items() if rows is not None}
            arrays[f"scores/{len(told)}"] = audit.scores
            told.append({"part": part, "key": key, "unit": audit.unit, "confidence": audit.confidence})
    details = [[*key, dict(more)] for key, more in found.reading.details.items()]
    facts = {name: getattr(found, name) for name in _FACTS}
    words = {"audits": told, "details": details, "shared": found.reading.shared, "facts": facts}
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, words=np.array(json.dumps(jsonable(words))), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def load_evidence(path: Path, settings: SslMembership) -> SslMembershipResult:
    """Read what `save_evidence` wrote, of a run with these settings."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    words = json.loads(str(arrays["words"]))
    parts: dict[str, dict[Any, SwappedAudit]] = {part: {} for part in _PARTS}
    for number, one in enumerate(words["audits"]):
        rows = {name: arrays.get(f"{one['unit']}/{name}") for name in _ROWS}
        audit = SwappedAudit(arrays[f"scores/{number}"], **rows, name=one["key"][0], confidence=one["confidence"])  # type: ignore[arg-type]
        parts[one["part"]][tuple(one["key"])] = audit
    shared = {**words["shared"], "seeds": tuple(words["shared"]["seeds"])}
    details = {(name, unit): more for name, unit, more in words["details"]}
    facts = words["facts"] | {"records": tuple(words["facts"]["records"])}
    return SslMembershipResult(Reading(**parts, shared=shared, details=details), **facts, settings=settings)  # type: ignore[arg-type]


def merged(runs: Sequence[SslMembershipResult]) -> SslMembershipResult:
    """Merge runs that differ in their seed: each has targets of its own, and a speaker is one unit over all of them.

    Parameters
    ----------
    runs : sequence of SslMembershipResult

    Returns
    -------
    SslMembershipResult
        Its AUCs are means over all targets, its utility the mean over runs.
    """
    readings = [run.reading for run in runs]
    parts = {part: _joined([getattr(reading, part) for reading in readings]) for part in _PARTS}
    seeds = tuple(seed for reading in readings for seed in reading.shared["seeds"])
    reading = Reading(
        **parts,
        shared={**readings[0].shared, "seeds": seeds},
        details={key: _widest([reading.details[key] for reading in readings]) for key in readings[0].details},
        runs=tuple(readings),
    )
    first = runs[0].utility
    utility = {
        name: float(np.mean([run.utility[name] for run in runs])) if isinstance(value, float) else value
        for name, value in first.items()
    }
    left_out = {id: reason for run in runs for id, reason in run.left_out.items()}
    records = tuple(record for run in runs for record in run.records)
    return replace(runs[0], reading=reading, utility=utility, left_out=left_out, records=records)


def _joined(held: Sequence[Mapping[Any, SwappedAudit]]) -> dict[Any, SwappedAudit]:
    found = {}
    for key, first in held[0].items():
        audits = [of[key] for of in held]
        rows = {name: np.concatenate([getattr(audit, name) for audit in audits]) for name in ("scores", *_ROWS[:2])}
        targets = [np.char.add(f"{run}/", audit.targets.astype(str)) for run, audit in enumerate(audits)]
        utterances = [audit.utterances for audit in audits if audit.utterances is not None]
        found[key] = SwappedAudit(
            **rows,
            targets=np.concatenate(targets),
            utterances=np.concatenate(utterances) if utterances else None,
            name=first.name,
            confidence=first.confidence,
        )
    return found


def _widest(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Conditions of a control over several runs: the number of networks, the lowest and the highest of them."""
    join: dict[str, Callable[[list[Any]], Any]] = {"networks": sum, "lowest_network": min, "highest_network": max}
    return {name: join[name]([more[name] for more in details]) for name in details[0]}
