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
from .base import AnyAudit

SCHEMA = 1


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name beside it, then rename it into place."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)


def table(audit: AnyAudit) -> str:
    """Every metric over every unit as plain text, one line each."""
    lines = [f"{audit.name}: {audit.question}, {audit.n_speakers} speakers"]
    lines.append(f"{'unit':<10}{'metric':<20}{f'value [{100 * audit.confidence:g} % interval]':<28}counts")
    for unit in audit.units():
        for metric, estimate in audit.estimates(unit).items():
            two = estimate.n_positive is not None
            counts = f"{estimate.n_positive} + {estimate.n_negative}" if two else f"{len(audit.combined(unit).truth)}"
            lines.append(f"{unit:<10}{metric:<20}{estimate!s:<28}{counts:<14}{estimate.reason or ''}".rstrip())
    return "\n".join(lines)


def scores_csv(audit: AnyAudit) -> str:
    """The audit's rows as CSV text: attack, speaker, client (where known), and `AnyAudit.columns`."""
    columns: dict[str, list[Any]] = {"attack": [audit.name] * len(audit.evidence), "speaker": audit.groups.tolist()}
    if audit.clients is not None:
        columns["client"] = audit.clients.tolist()
    columns |= audit.columns()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [repr(cell) if isinstance(cell, float) else cell for cell in row] for row in zip(*columns.values(), strict=True)
    )
    return text.getvalue()


def save(audit: AnyAudit, folder: str | os.PathLike[str], **context: Any) -> None:
    """Write an audit into a folder, made where there is none.

    ``result.json`` has the fields of a run's result with this audit's claims; ``scores.csv`` has its rows. Each is
    replaced whole or not at all.

    Parameters
    ----------
    audit : Audit, MulticlassAudit or NumericAudit
    folder : path
    **context
        As for `AnyAudit.claims`.
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
