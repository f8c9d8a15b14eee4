"""What studies of membership inference report, and results of ours by their rules beside it."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

from fl_privacy.attacks.files import aligned
from fl_privacy.audit.reading import AS_PUBLISHED
from fl_privacy.errors import UserError
from fl_privacy.published._tables import of_tables

STUDIES = {
    "tseng2022": "Tseng, Kao and Lee, membership inference against self-supervised speech models (arXiv 2111.05113)",
}
"""The studies by name."""

BLIND = {
    "duration": 0.829,
    "duration in batches": 0.889,
}
"""AUC per utterance of durations alone, without an encoder, by the study's rules: simulated, means over five draws of
28,539 members and 11,126 others from quantiles of LibriSpeech's durations (icefall's table, to a tenth of a second).
The draws gave .826 to .832, and .885 to .892. The second is what a mask that is added to attention logits lets a score
see, where members and non-members are scored in separate batches of 64: a duration beside the longest of its batch."""

_COLUMNS = ("model", "pre-trained on", "inputs", "auxiliary", "attack", "AUC per utterance", "AUC per speaker")


@dataclass(frozen=True)
class PublishedMembership:
    """One published number.

    Attributes
    ----------
    table : str
        T1: models; T2: sizes of model and data; T3: pre-trained on speech reversed in time; T4: inputs reversed.
    model, pretraining : str
        LS: LibriSpeech, LL: Libri-Light, with hours.
    inputs : str
    auxiliary : str
        The corpus of the attacker, and of the non-members.
    unit : str
        "utterance" or "speaker".
    attack : str
        "basic" or "improved".
    value : float
        AUC.
    note : str
    """

    table: str
    model: str
    pretraining: str
    inputs: str
    auxiliary: str
    unit: str
    attack: str
    value: float
    note: str


def membership_values(study: str, tables: Sequence[str] | None = None) -> tuple[PublishedMembership, ...]:
    """Read a study's numbers.

    Parameters
    ----------
    study : str
        One of `STUDIES`.
    tables : sequence of str, optional
        Only of these tables.

    Raises
    ------
    UserError
        Where there is no such study or table.
    """
    if study not in STUDIES:
        raise UserError(f"no published study {study!r} of membership in the package; there is: {', '.join(STUDIES)}")
    return of_tables(study, _read(study), tables)


def membership_comparison(
    study: str, results: Sequence[Mapping[str, Any]] = (), tables: Sequence[str] | None = None
) -> str:
    """Return a study's numbers as plain text, with ours of the same rules below, and what needs no encoder.

    Parameters
    ----------
    study : str
        One of `STUDIES`.
    results : sequence of mapping
        Contents of result.json, with claims by the study's rules.
    tables : sequence of str, optional
        Only these published tables.
    """
    parts = [f"{study}: {STUDIES[study]}."]
    notes: list[str] = []
    published = membership_values(study, tables)
    for table in dict.fromkeys(row.table for row in published):
        cases: dict[tuple[str, ...], dict[str, str]] = {}
        for row in published:
            if row.table == table:
                case = (row.model, row.pretraining, row.inputs, row.auxiliary, row.attack)
                cases.setdefault(case, {})[row.unit] = f"{row.value:.4f}{_mark(row.note, notes)}"
        lines = [[*case, at.get("utterance", ""), at.get("speaker", "")] for case, at in cases.items()]
        parts.append(f"{table}\n{aligned([_COLUMNS, *lines])}")
    told = "; ".join(f"{name} {value:.3f}" for name, value in BLIND.items())
    parts.append(f"Without an encoder, AUC per utterance (simulated): {told}.")
    for result in results:
        parts.append(_ours(result))
    parts.append("\n".join(f"[{number}] {note}" for number, note in enumerate(notes, start=1)))
    return "\n\n".join(part for part in parts if part)


def _mark(note: str, notes: list[str]) -> str:
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" [{notes.index(note) + 1}]"


def _ours(result: Mapping[str, Any]) -> str:
    rows = [(c["attack"], c) for c in result["claims"] if c["protocol"] == AS_PUBLISHED and c["metric"] == "auc"]
    rows += [
        (f"- {c['control']}", c)
        for c in result["controls"]
        if c["protocol"] == AS_PUBLISHED and c["metric"] == "auc" and c["p_value"] is None
    ]
    found: dict[str, dict[str, str]] = {}
    for name, claim in rows:
        found.setdefault(name, {})[claim["unit"]] = "" if claim["value"] is None else f"{claim['value']:.4f}"
    if not found:
        return ""
    how = rows[0][1]
    title = (
        f"ours: {how['target']}, members {how['conditions'].get('private')}, auxiliary "
        f"{how['conditions'].get('auxiliary')}, {how['n_speakers']} speakers"
    )
    heads = ("attack, or - what never asks the encoder", "AUC per utterance", "AUC per speaker")
    lines = [(name, at.get("utterance", ""), at.get("speaker", "")) for name, at in found.items()]
    return f"{title}\n{aligned([heads, *lines])}"


@functools.cache
def _read(study: str) -> tuple[PublishedMembership, ...]:
    text = resources.files("fl_privacy.published").joinpath(f"{study}.csv").read_text(encoding="utf-8")
    names = [field.name for field in fields(PublishedMembership)]
    return tuple(
        PublishedMembership(**{**{name: row[name] for name in names}, "value": float(row["value"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    )
