"""The same federation under another defense, run beside the one that is audited: what a defense buys, what it costs.

It has the same people, partition, start and attacks; only the defense differs. It is a run of its own in a folder of
its own, and the audited run's result quotes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl_privacy.attacks.conclude import Evaluation
from fl_privacy.attacks.files import aligned, cell
from fl_privacy.attacks.saved import load_evidence
from fl_privacy.audit import AnyAudit, Claim
from fl_privacy.audit.claims import Estimate
from fl_privacy.audit.controls import paired_difference
from fl_privacy.audit.files import read_result
from fl_privacy.audit.reading import STATIC, TITLES, main_claims, quoted_metric
from fl_privacy.config import FederatedSerFile
from fl_privacy.report.swept import plain
from fl_privacy.sims.recipe import EVIDENCE
from fl_privacy.sims.ser_utility import utility_difference

FOLDER = "beside"
"""In the run folder: holds a run folder for each federation that is run beside."""


def files_beside(settings: FederatedSerFile) -> list[FederatedSerFile]:
    """Return the simulations to run beside one: its own but for the defense."""
    engine = "local" if settings.simulation.engine == "grid" else settings.simulation.engine
    same: dict[str, Any] = {
        "beside": (),
        "simulation": settings.simulation.model_copy(update={"engine": engine}),
        "capture": settings.capture.model_copy(update={"keep": False}),  # it is held for its numbers alone
    }
    return [settings.model_copy(update={**same, "defense": other.defense}) for other in settings.beside]


def quote(
    folder: Path, number: int, evaluation: Evaluation, utility: Mapping[str, Any], confidence: float
) -> dict[str, Any]:
    """Say in a result what was found beside it.

    Parameters
    ----------
    folder : Path
        Of the audited run.
    number : int
        Which of the federations beside it.
    evaluation : Evaluation
        Of the audited run.
    utility : mapping
        Its `utility_of`.
    confidence : float
        Of intervals.

    Returns
    -------
    dict
        The defense, the quoted claims of the primary attack, what is promised, and the utility; differences are of the
        federation beside less the audited one: of utility over held-out speakers, of leakage over the attacked ones.
    """
    path = folder / FOLDER / str(number)
    result, other = read_result(path / "result.json"), load_evidence(path / "audit" / EVIDENCE)
    primary = next(iter(evaluation.audits))
    claims = main_claims(Claim.from_dict(row) for row in result["claims"])
    metric = quoted_metric(claims)
    names = (primary, primary + STATIC)
    return {
        "defense": result["simulation"]["defense"],
        "folder": f"{FOLDER}/{number}",
        "claims": [c.to_dict() for c in claims if (c.unit, c.metric) == ("speaker", metric) and c.attack in names],
        "leakage_difference": {
            knowing: asdict(paired_difference(_held_by(other.audits, name), _held_by(evaluation.audits, name)))
            for knowing, name in zip(("adaptive", "static"), names, strict=True)
        },
        "utility": {key: result["utility"][key] for key in ("uar", "accuracy", "by_speaker")},
        "utility_difference": utility_difference(result["utility"], utility, confidence),
        "privacy": result["privacy"],
    }


def table_beside(result: Mapping[str, Any]) -> str:
    """Return what was run beside as a short table of plain text: leakage, utility, and what utility is lost or won."""
    own = main_claims(Claim.from_dict(row) for row in result["claims"])
    primary, metric = next(claim.attack for claim in own if claim.primary), quoted_metric(own)
    rows = [("beside it", TITLES[metric], "static", "SER UAR", "difference of SER UAR")]
    for other in result["beside"]:
        claims = {claim.attack: claim for claim in map(Claim.from_dict, other["claims"])}
        lost = other["utility_difference"]
        uar = other["utility"]["uar"]
        rows.append(
            (
                plain(other["defense"]) if other["defense"] else "no defense",
                cell(claims.get(primary)),
                cell(claims.get(primary + STATIC)),
                "" if uar is None else f"{uar:.3f}",
                "" if lost is None else str(Estimate(**lost)),
            )
        )
    return aligned(rows)


def _held_by(audits: Mapping[str, AnyAudit], name: str) -> AnyAudit:
    """Return an attack in the hands of who does not know the defense, or without a defense the attack itself."""
    return audits.get(name) or audits[name.removesuffix(STATIC)]
