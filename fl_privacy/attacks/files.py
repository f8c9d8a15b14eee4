"""An evaluation as text and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_privacy.audit import Claim, Control
from fl_privacy.audit.files import units_csv, write_result
from fl_privacy.audit.reading import TITLES, columns, main_claims

if TYPE_CHECKING:
    from fl_privacy.attacks.evaluate import Evaluation


def save(evaluation: Evaluation, folder: Path, **parts: Any) -> None:
    """Write result.json and scores.csv, each whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Made where there is none.
    **parts
        See `fl_privacy.audit.files.write_result`.
    """
    write_result(folder, evaluation.claims, evaluation.controls, scores_csv(evaluation), **parts)


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
