"""Several seeds of an audit of frame encoders as one result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_privacy.config import SslMembershipFile
from fl_privacy.report import write_report
from fl_privacy.sims.recipe import EVIDENCE
from fl_privacy.sims.ssl_evidence import load_evidence, merged
from fl_privacy.sims.ssl_recipe import SslMembershipRecipe


def merge_encoders(folder: Path, files: Sequence[SslMembershipFile], folders: Sequence[Path]) -> None:
    """Write the merged result of several seeds of swapped roles: result.json, scores.csv and a report.

    Every seed has encoders of its own; a speaker is one unit over all of them.

    Parameters
    ----------
    folder : Path
        Where the merged result goes.
    files : sequence of SslMembershipFile
        The simulations, the same but for their seeds.
    folders : sequence of Path
        Their run folders, finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipes = [SslMembershipRecipe(file) for file in files]
    pairs = zip(recipes, folders, strict=True)
    runs = [load_evidence(run / "audit" / EVIDENCE, recipe.swap) for recipe, run in pairs]
    recipes[0].write_swapped(
        folder, folder, merged(runs), merged_seeds=[seed for run in runs for seed in run.reading.shared["seeds"]]
    )
    write_report(folder)
