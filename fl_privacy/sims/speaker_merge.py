"""Several seeds of an audit of speaker recognisers as one result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fl_privacy.attacks.files import save
from fl_privacy.attacks.saved import load_evidence, merge
from fl_privacy.audit import Claim
from fl_privacy.audit.files import read_result
from fl_privacy.config import SpeakerMembershipFile
from fl_privacy.report import write_report
from fl_privacy.sims.recipe import EVIDENCE
from fl_privacy.sims.speaker_recipe import SpeakerMembershipRecipe
from fl_privacy.sims.speaker_result import SpeakerMembershipResult, merged


def merge_membership(folder: Path, files: Sequence[SpeakerMembershipFile], folders: Sequence[Path]) -> None:
    """Write the merged result of several seeds: result.json, scores.csv and a report.

    Of recognisers that are trained in the run every seed has its own; a speaker is one unit over all of them. Before a
    recogniser of one's own a speaker's scores are standardised within each run and averaged over runs.

    Parameters
    ----------
    folder : Path
        Where the merged result goes.
    files : sequence of SpeakerMembershipFile
        The simulations, the same but for their seeds.
    folders : sequence of Path
        Their run folders, finished.
    """
    seeds = [file.simulation.seed for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    if files[0].target.model is None:
        recipes = [SpeakerMembershipRecipe(file) for file in files]
        found = zip(recipes, folders, strict=True)
        runs = [SpeakerMembershipResult.load(run / "audit" / EVIDENCE, recipe.settings) for recipe, run in found]
        recipes[0].write_swapped(folder, folder, merged(runs), merged_seeds=seeds)
    else:
        _merge_own(folder, files, folders)
    write_report(folder)


def _merge_own(
    folder: Path,
    files: Sequence[SpeakerMembershipFile],
    folders: Sequence[Path],
) -> None:
    results = [read_result(run / "result.json") for run in folders]
    seeds = tuple(file.simulation.seed for file in files)
    first = next(c for c in map(Claim.from_dict, results[0]["claims"]) if c.primary and c.metric == "auc")
    evaluation = merge(
        [load_evidence(run / "audit" / EVIDENCE) for run in folders],
        seed=seeds[0],
        **{key: getattr(first, key) for key in ("target", "attribute", "protocol", "conditions")},
        seeds=seeds,
    )
    keys = [key for key in results[0]["utility"] if key.startswith("eer_")]
    save(
        evaluation,
        folder,
        simulation=files[0].resolved(),
        merged_seeds=list(seeds),
        threat_model=results[0]["threat_model"],
        utility={
            "task": results[0]["utility"]["task"],
            **{key: float(np.mean([result["utility"][key] for result in results])) for key in keys},
        },
        corpora=results[0]["corpora"],
        queries=results[0]["queries"],
    )
