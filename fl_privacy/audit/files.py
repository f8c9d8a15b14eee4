"""An audit as text and as files."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from .audit import Audit

SCHEMA = 1


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name beside it, then rename it into place."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)


def table(audit: Audit) -> str:
    """Every metric over every unit as plain text, one line each."""
    lines = [f"{audit.name}: {audit.positive} against {audit.negative}, {audit.n_speakers} speakers"]
    lines.append(f"{'unit':<10}{'metric':<20}{f'value [{100 * audit.confidence:g} % interval]':<28}counts")
    for unit in audit.units():
        for metric, estimate in audit.estimates(unit).items():
            counts = f"{estimate.n_positive} + {estimate.n_negative}"
            lines.append(f"{unit:<10}{metric:<20}{estimate!s:<28}{counts:<14}{estimate.reason or ''}".rstrip())
    return "\n".join(lines)


def scores_csv(audit: Audit) -> str:
    """The audit's rows as CSV text: attack, speaker, client (where known), label, score and decision."""
    columns = ["attack", "speaker", "label", "score", "decision"]
    names = np.where(audit.labels, str(audit.positive), str(audit.negative)).tolist()
    rows = [
        [audit.name, speaker, label, repr(score), repr(decision)]
        for speaker, label, score, decision in zip(
            audit.groups.tolist(), names, audit.scores.tolist(), audit.decisions.tolist(), strict=True
        )
    ]
    if audit.clients is not None:
        columns.insert(2, "client")
        for row, client in zip(rows, audit.clients.tolist(), strict=True):
            row.insert(2, client)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def save(audit: Audit, folder: str | os.PathLike[str], **context: Any) -> None:
    """Write an audit into a folder, made where there is none.

    ``result.json`` has the fields of a run's result with this audit's claims; ``scores.csv`` has its rows. Each is
    replaced whole or not at all.

    Parameters
    ----------
    audit : Audit
    folder : path
    **context
        As for `Audit.claims`.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    result = {
        "schema": SCHEMA,
        "simulation": {},
        "versions": {"fl_privacy": __version__, "numpy": np.__version__},
        "threat_model": {},
        "utility": {},
        "claims": [claim.to_dict() for claim in audit.claims(**context)],
        "controls": [],
        "privacy": [],
        "queries": 0,
        "seconds": {},
    }
    write_atomically(place / "scores.csv", scores_csv(audit))
    write_atomically(place / "result.json", json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
