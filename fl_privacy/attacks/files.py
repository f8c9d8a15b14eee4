"""An evaluation as text and as files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_privacy._version import __version__
from fl_privacy.audit import Claim, Control
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import SCHEMA, units_csv, write_atomically
from fl_privacy.audit.reading import TITLES, columns, main_claims

if TYPE_CHECKING:
    from fl_privacy.attacks.evaluate import Evaluation


def versions() -> dict[str, str]:
    """Return the versions that a result rests on."""
    used = ("flwr", "torch", "torchaudio", "numpy", "scikit-learn", "scipy")
    return {"fl-privacy": __version__, "python": platform.python_version()} | {p: metadata.version(p) for p in used}


def save(evaluation: Evaluation, folder: Path, **parts: Any) -> None:
    """Write result.json and scores.csv, each whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Made where there is none.
    **parts
        Further top-level parts of result.json (simulation, threat_model, utility, ...).
    """
    write_result(folder, evaluation.claims, evaluation.controls, scores_csv(evaluation), **parts)


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
        As for `save`.
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


def scores_csv(evaluation: Evaluation) -> str:
    """Return every attack's and baseline's evidence of every client and speaker as CSV."""
    return units_csv([*evaluation.audits.values(), *evaluation.blind.values()])


def table(claims: Sequence[Claim], controls: Sequence[Control]) -> str:
    """Return a short table of plain text: each attack's speaker-level claims, then what they are held against."""
    claims, controls = main_claims(claims), main_claims(controls)
    metrics = columns(claims)
    heads = ("per speaker", *(TITLES[metric] for metric in metrics), "p aux", "p private")
    rows: list[tuple[str, ...]] = [heads]
    attacks = list(dict.fromkeys(claim.attack for claim in claims))
    for attack in attacks:
        mine = {c.metric: c for c in claims if c.attack == attack and c.unit == "speaker"}
        p = {c.control: c.p_value for c in controls if c.of == attack and c.p_value is not None}
        permuted = (p.get("permuted-auxiliary-labels"), p.get("permuted-private-labels"))
        rows.append(
            (attack, *(cell(mine.get(m)) for m in metrics), *("" if v is None else f"{v:.4f}" for v in permuted))
        )
    for name in dict.fromkeys(c.control for c in controls if c.p_value is None):
        found = {c.metric: c for c in controls if c.control == name and c.unit == "speaker"}
        rows.append((name, *(cell(found.get(metric)) for metric in metrics), "", ""))
    for control in controls:
        if control.p_value is not None and control.of in attacks[:1]:
            rows.append((control.control, cell(control), *("" for _ in heads[2:])))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def cell(claim: Claim | None) -> str:
    """Return a claim's value and interval as they stand in a table."""
    if claim is None:
        return ""
    if claim.value is None:
        return "unresolved"
    if claim.low is None or claim.high is None:
        return f"{claim.value:.3f}"
    return f"{claim.value:.3f} [{claim.low:.3f}, {claim.high:.3f}]"


def read_result(path: Path) -> Mapping[str, Any]:
    """Read a result.json."""
    result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result
