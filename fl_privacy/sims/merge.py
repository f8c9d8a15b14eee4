"""Several seeds of one simulation as one result."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.as_published import merged_claims
from fl_privacy.attacks.evaluate import conclude
from fl_privacy.attacks.files import read_result, save
from fl_privacy.audit import Audit, Claim, standardise_runs
from fl_privacy.config import SimulationFile
from fl_privacy.report import write_report

_IN_SCORES = ("attack", "speaker", "label", "score", "decision")


def merge_seeds(folder: Path, files: Sequence[SimulationFile], folders: Sequence[Path]) -> None:
    """Write the merged result of several seeds: result.json, scores.csv and a report.

    A speaker's scores are standardised within each run and averaged over the runs it took part in
    (`fl_privacy.audit.standardise_runs`); so are the scores under permuted labels, permutation by permutation.

    Parameters
    ----------
    folder : Path
        Where the merged result goes.
    files : sequence of SimulationFile
        The simulations, the same but for their seeds.
    folders : sequence of Path
        Their run folders, finished.
    """
    results = [read_result(run / "result.json") for run in folders]
    rows = [_read_scores(run / "scores.csv") for run in folders]
    first = next(Claim.from_dict(c) for c in results[0]["claims"] if c["primary"])
    confidence = files[0].audit.confidence
    positive, _ = _labels_of(results[0], rows[0])
    merged = {name: standardise_runs([_audit(r[name], name, positive, confidence) for r in rows]) for name in rows[0]}
    attacks = list(dict.fromkeys(claim["attack"] for claim in results[0]["claims"]))
    permuted = {}
    for name in attacks:
        runs = [np.load(run / "audit" / "permuted.npz", allow_pickle=False)[name] for run in folders]
        permuted[name] = np.array(
            [
                standardise_runs(
                    [_audit(r[name], name, positive, confidence, run[k]) for r, run in zip(rows, runs, strict=True)]
                ).speaker_scores()[1]
                for k in range(min(len(run) for run in runs))
            ]
        )
    evaluation = conclude(
        {name: merged[name] for name in attacks},
        {name: audit for name, audit in merged.items() if name not in attacks},
        permuted,
        seed=files[0].simulation.seed,
        **{
            key: getattr(first, key)
            for key in ("target", "algorithm", "attribute", "attacker", "defense", "protocol", "conditions")
        },
        seeds=tuple(file.simulation.seed for file in files),
    )
    evaluation.claims += merged_claims(results)
    utilities = [result["utility"] for result in results]
    scores = {key: [u[key] for u in utilities] for key in ("uar", "accuracy")}
    save(
        evaluation,
        folder,
        simulation=files[0].resolved(),
        merged_seeds=[file.simulation.seed for file in files],
        threat_model=results[0]["threat_model"],
        utility={
            **{key: None if None in values else float(np.mean(values)) for key, values in scores.items()},
            "by_seed": scores,
            "task": utilities[0]["task"],
            "chance_uar": utilities[0]["chance_uar"],
        },
        corpora=results[0]["corpora"],
    )
    write_report(folder)


def _read_scores(path: Path) -> dict[str, list[dict[str, str]]]:
    """Read the speakers' rows of scores.csv by attack, sorted by speaker."""
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["unit"] == "speaker":
                found.setdefault(row["attack"], []).append({key: row[key] for key in _IN_SCORES})
    return found


def _audit(rows: Sequence[Mapping[str, str]], name: str, positive: str, confidence: float, scores: Any = None) -> Audit:
    own = [float(row["score"]) for row in rows]
    return Audit(
        own if scores is None else scores,
        [row["label"] for row in rows],
        [row["speaker"] for row in rows],
        positive=positive,
        confidence=confidence,
        name=name,
        decisions=[float(row["decision"]) for row in rows] if scores is None else scores,
    )


def _labels_of(result: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, str]]]) -> tuple[str, str]:
    """Return the positive and the negative label of a run."""
    labels = sorted({row["label"] for row in next(iter(rows.values()))})
    positive = result["simulation"]["private"].get("positive", labels[-1])
    return positive, next(label for label in labels if label != positive)
