"""An audit as text and as files."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import UserError
from .audit import Audit
from .base import AnyAudit
from .claims import Claim, Control, jsonable
from .multiclass import MulticlassAudit
from .numeric import NumericAudit

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
    return _csv([columns | dict(audit.columns())])


def units_csv(audits: Iterable[AnyAudit]) -> str:
    """Every client's and every speaker's evidence under several attacks, as CSV text that `read_units` reads.

    Columns attack, unit, client, speaker, and `AnyAudit.columns`.
    """
    parts: list[dict[str, list[Any]]] = []
    for audit in audits:
        for unit in ("client", "speaker"):
            if unit == "speaker" or audit.clients is not None:
                rows = audit.per(unit)
                n = len(rows.evidence)
                clients = [""] * n if rows.clients is None else rows.clients.tolist()
                names = {"attack": [audit.name] * n, "unit": [unit] * n, "client": clients}
                parts.append(names | {"speaker": rows.groups.tolist()} | dict(rows.columns()))
    return _csv(parts)


def read_units(
    rows: Iterable[Mapping[str, str]], *, positive: str | None = None, confidence: float = 0.95
) -> dict[str, AnyAudit]:
    """Audits over speakers of what `units_csv` wrote, by attack; which kind the columns say.

    Parameters
    ----------
    rows : iterable of mapping
        As `csv.DictReader` gives them; those of clients are passed over.
    positive : str, optional
        As for `Audit`.
    confidence : float
    """
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        if row["unit"] == "speaker":
            found.setdefault(row["attack"], []).append(row)
    return {name: _read_audit(name, mine, positive, confidence) for name, mine in found.items()}


def _read_audit(name: str, rows: Sequence[Mapping[str, str]], positive: str | None, confidence: float) -> AnyAudit:
    def numbers(columns: Sequence[str]) -> Any:
        return [[float(row[column]) for column in columns] for row in rows]

    labels, speakers = [row["label"] for row in rows], [row["speaker"] for row in rows]
    # Another attack's columns are there, empty.
    columns = [column for column, cell in rows[0].items() if cell not in (None, "")]
    scores, decisions = ([c for c in columns if c.startswith(kind)] for kind in ("score:", "decision:"))
    if scores:
        return MulticlassAudit(
            numbers(scores),
            labels,
            speakers,
            classes=[column.removeprefix("score:") for column in scores],
            confidence=confidence,
            name=name,
            decisions=numbers(decisions) if decisions else None,
        )
    if "prediction" in columns:
        predictions, values = np.array(numbers(["prediction", "label"])).T
        return NumericAudit(predictions, values, speakers, confidence=confidence, name=name)
    evidence, decided = np.array(numbers(["score", "decision"])).T
    return Audit(evidence, labels, speakers, positive=positive, confidence=confidence, name=name, decisions=decided)


def _csv(parts: Sequence[Mapping[str, Sequence[Any]]]) -> str:
    header = list(dict.fromkeys(column for part in parts for column in part))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for part in parts:
        n = len(next(iter(part.values())))
        for row in zip(*(part.get(column, [""] * n) for column in header), strict=True):
            writer.writerow([repr(cell) if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()


def versions() -> dict[str, str]:
    """Return the versions that a result rests on."""
    used = ("flwr", "torch", "torchaudio", "numpy", "scikit-learn", "scipy")
    return {"fl-privacy": __version__, "python": platform.python_version()} | {p: metadata.version(p) for p in used}


def write_result(folder: Path, claims: Sequence[Claim], controls: Sequence[Control], scores: str, **parts: Any) -> None:
    """Write result.json and scores.csv, each whole or not at all.

    Parameters
    ----------
    folder : Path
        Made where there is none.
    claims : sequence of Claim
    controls : sequence of Control
    scores : str
        Content of scores.csv.
    **parts
        Further top-level parts of result.json (simulation, threat_model, utility, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scores.csv", scores)
    result = {
        "schema": SCHEMA,
        "simulation": {},
        "versions": versions(),
        "threat_model": {},
        "utility": {},
        "claims": [claim.to_dict() for claim in claims],
        "controls": [control.to_dict() for control in controls],
        "privacy": [],
        "queries": 0,
    } | {key: jsonable(value) for key, value in parts.items()}
    write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_result(path: Path) -> Mapping[str, Any]:
    """Read a result.json.

    Raises
    ------
    UserError
        Where there is none, or it is no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no result at {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(result, Mapping):
        raise UserError(f"{path} is not a result: it holds a {type(result).__name__}")
    return result


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
    write_result(Path(folder), audit.claims(**context), (), scores_csv(audit))
