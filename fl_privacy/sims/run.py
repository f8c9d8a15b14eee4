"""Run a simulation file into a run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_privacy._registry import find_object
from fl_privacy.config import FederatedSerFile, SimulationFile, load_any
from fl_privacy.errors import UserError
from fl_privacy.sims.engines import Engine
from fl_privacy.sims.progress import Progress
from fl_privacy.sims.recipe import Recipe
from fl_privacy.sims.ser_recipe import FederatedSerRecipe
from fl_privacy.sims.stages import RunFolder


def run(
    source: str | Path | Mapping[str, Any],
    settings: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> Path:
    """Run a simulation, or what is left of it.

    Parameters
    ----------
    source : str, Path or mapping
        A preset's name, a TOML file, or its content.
    settings : sequence of str
        Changes, each ``"section.key=value"``.
    out : str or Path, optional
        Run folder; by default ``runs/<name>-<hash of the settings>``, so that the same call goes on where a killed one
        stopped.
    progress : callable, optional
        Called with (what, done, total).
    workers : int
        Processes of the local engine, or of training; they change no result.

    Returns
    -------
    Path
        The run folder, with ``result.json``, ``scores.csv`` and ``report.html``.

    Raises
    ------
    UserError
        For whatever the user can mend; nothing is lost by it.
    """
    file = load_any(source, settings)
    folder = Path(out) if out is not None else default_folder(source, file)
    return run_file(file, folder, progress, workers=workers)


_CENTRAL = {
    "speaker-membership": "fl_privacy.sims.speaker_recipe:SpeakerMembershipRecipe",
    "speaker-inversion": "fl_privacy.sims.inversion_recipe:SpeakerInversionRecipe",
    "ssl-membership": "fl_privacy.sims.ssl_recipe:SslMembershipRecipe",
}
"""Recipes of targets that are trained in one place, by ``simulation.kind``."""


def recipe_of(
    file: SimulationFile, progress: Progress | None = None, engine: Engine | None = None, workers: int = 1
) -> Recipe:
    """Return the recipe of a simulation's kind; `engine` is for federations."""
    if isinstance(file, FederatedSerFile):
        return FederatedSerRecipe(file, progress, engine, workers)
    if engine is not None:
        raise UserError(f"a simulation of kind {file.simulation.kind!r} runs on no engine")
    recipe: Recipe = find_object(file.simulation.kind, _CENTRAL, "recipe")(file, progress, workers)
    return recipe


def run_file(
    file: SimulationFile,
    folder: Path,
    progress: Progress | None = None,
    *,
    engine: Engine | None = None,
    workers: int = 1,
) -> Path:
    """Run a checked simulation into a folder; `engine` and `workers`: see `FederatedSerRecipe`."""
    import threadpoolctl

    simulation = recipe_of(file, progress, engine, workers)
    # More threads are slower at these sizes, and change the last bits of sums.
    with RunFolder(folder, file.resolved()).held() as held, threadpoolctl.threadpool_limits(1):
        simulation.run(held)
    return folder


def default_folder(source: Any, file: SimulationFile) -> Path:
    """Return the folder that a simulation runs into by default: told from its settings alone."""
    name = "simulation" if isinstance(source, Mapping) else Path(str(source)).stem
    digest = hashlib.sha256(json.dumps(file.resolved(), sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"{name}-{digest}"
