"""Several seeds of one simulation as one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.as_published import merged_claims
from fl_privacy.attacks.files import save
from fl_privacy.attacks.saved import load_evidence, merge
from fl_privacy.audit import Claim, Privacy
from fl_privacy.audit.files import read_result, write_atomically
from fl_privacy.audit.reading import main_claims
from fl_privacy.config import SimulationFile, SpeakerMembershipFile, SslMembershipFile
from fl_privacy.report import write_report
from fl_privacy.sims.canaries import with_canaries
from fl_privacy.sims.recipe import EVIDENCE
from fl_privacy.sims.speaker_merge import merge_membership
from fl_privacy.sims.ssl_merge import merge_encoders


def merge_seeds(folder: Path, files: Sequence[SimulationFile], folders: Sequence[Path]) -> None:
    """Write the merged result of several seeds: result.json, scores.csv and a report.

    A speaker's scores are standardised within each run and averaged over the runs it took part in
    (`fl_privacy.audit.standardise_runs`); so are the scores under permuted labels, permutation by permutation. The
    result of one seed is that run's own.

    Parameters
    ----------
    folder : Path
        Where the merged result goes.
    files : sequence of SimulationFile
        The simulations, the same but for their seeds.
    folders : sequence of Path
        Their run folders, finished.
    """
    if len(folders) == 1:
        for name in ("result.json", "scores.csv"):
            write_atomically(folder / name, (folders[0] / name).read_bytes().decode("utf-8"))
        write_report(folder)
        return
    speakers = [file for file in files if isinstance(file, SpeakerMembershipFile)]
    if speakers:
        merge_membership(folder, speakers, folders)
        return
    encoders = [file for file in files if isinstance(file, SslMembershipFile)]
    if encoders:
        merge_encoders(folder, encoders, folders)
        return
    results = [read_result(run / "result.json") for run in folders]
    first = next(c for c in main_claims(map(Claim.from_dict, results[0]["claims"])) if c.primary)
    evaluation = merge(
        [load_evidence(run / "audit" / EVIDENCE) for run in folders],
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
        privacy=[promise.to_dict() for promise in with_canaries(_promises(results), folders)],
    )
    write_report(folder)


def _promises(results: Sequence[Mapping[str, Any]]) -> list[Privacy]:
    """Return what is promised in all runs: of each promise the one with the largest epsilon."""
    found = []
    for rows in zip(*(result.get("privacy") or () for result in results), strict=True):
        promises = [Privacy.from_dict(row) for row in rows]
        given = [p for p in promises if p.epsilon_accountant is not None]
        weakest = max(given, key=lambda p: p.epsilon_accountant or 0.0) if len(given) == len(promises) else promises[0]
        accountant = weakest.epsilon_accountant if len(given) == len(promises) else None
        # Lower bounds of single runs are not taken over: all canaries are looked at together.
        found.append(
            Privacy(
                unit=weakest.unit,
                mechanism=weakest.mechanism,
                protects_from=weakest.protects_from,
                epsilon_accountant=accountant,
                delta=weakest.delta,
            )
        )
    return found
