"""Gender of the clients of a federation: a victim and a shadow federation on disk, and the question of their updates.

RAVDESS attacked by the owner of EmoDB where both lie under ``$FL_PRIVACY_DATA``; else synthetic voices on both sides.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fl_privacy.attacks.base import Examples
from fl_privacy.attacks.question import Question
from fl_privacy.config import FederatedSerFile, load

CORPORA = ("ravdess", "emodb")


def voices() -> str:
    """Say whose voices there are."""
    root = os.environ.get("FL_PRIVACY_DATA")
    return " <- ".join(CORPORA) if root and all(Path(root, name).is_dir() for name in CORPORA) else "synthetic"


def settings(algorithm: str, rounds: int) -> FederatedSerFile:
    """Return the simulation that `federate` runs."""
    if voices() == "synthetic":
        sides: list[dict[str, Any]] = [
            {"corpus": "synthetic", "options": {"speakers": 24, "utterances": 20, "seed": seed}} for seed in (1, 2)
        ]
    else:
        sides = [{"corpus": name} for name in CORPORA]
    return load(
        {
            "simulation": {"kind": "federated-ser"},
            "private": {**sides[0], "attribute": "gender"},
            "auxiliary": [sides[1]],
            "features": {"normalise": "global"},
            "federation": {"algorithm": algorithm, "rounds": rounds},
            "attack": [{"name": "input-reconstruction", "permutations": 0}],
        }
    )


def federate(place: Path, algorithm: str, rounds: int) -> None:
    """Run both federations as plain loops (the same updates as the recipe's), and the recipe's cheapest attack."""
    from fl_privacy.sims.run import run_file
    from fl_privacy.sims.shadow_training import train_shadow

    run_file(settings(algorithm, rounds), place, engine=train_shadow)


def question(place: Path, algorithm: str, rounds: int) -> Question:
    """Return what is asked of the updates that `federate` left, with all that an attack may need."""
    from fl_privacy.attacks.architecture import gradient_of
    from fl_privacy.attacks.observed import Observed
    from fl_privacy.models.ser import SERNet
    from fl_privacy.updates import Labels, UpdateStore

    victim, own = (
        Observed.of([(UpdateStore(place / side / "updates"), Labels.read(place / side / "labels.csv"))])
        for side in ("victim", "shadow-0")
    )
    chosen = settings(algorithm, rounds)
    inputs = victim.updates[0].shapes["fc1.weight"][1]
    model = SERNet(inputs, len(chosen.task.classes), chosen.federation.dropout)
    return Question.ask(own, victim, "gender", examples=_examples(chosen), gradient=gradient_of(model))


def _examples(chosen: FederatedSerFile) -> Examples:
    """Return the attacker's own utterances."""
    from fl_privacy.sims.ser_data import Voices

    return Voices(chosen, lambda what, done, total: None).partition("matched", chosen.simulation.seed).examples
