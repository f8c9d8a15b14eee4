"""A corpus whose updates carry no gender: how often the 95 % interval of the attack's AUC covers 0.5.

Twenty whole simulations on synthetic voices of one kind, half of them called male at random, and 500 draws of scores
that do not depend on the sex. A tool that finds something here is broken.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._result import Result, Row
from fl_privacy.audit import Audit, Claim
from fl_privacy.audit.reading import main_claims
from fl_privacy.sims.sweep import sweep

VOICES = {"speakers": 24, "utterances": 8, "gender_effect": 0.0}
SETTINGS: dict[str, Any] = {
    "simulation": {"kind": "federated-ser"},
    "private": {"corpus": "synthetic", "options": VOICES | {"seed": 1}},
    "auxiliary": [{"corpus": "synthetic", "options": VOICES | {"seed": 1001}}],
    "federation": {"rounds": 40},
    "capture": {"arrays": ["fc1"]},
    "attack": [{"name": "input-reconstruction"}, {"name": "raw-linear"}],
    "audit": {"permutations": 20},
}


def run(full: bool) -> Result:
    """Run 20 simulations (60 in the long form) and 500 draws."""
    seeds = 60 if full else 20
    with tempfile.TemporaryDirectory() as folder:
        claims = simulate(seeds, Path(folder))
    rows = []
    for attack, intervals in claims.items():
        covered = float(np.mean([low <= 0.5 <= high for low, high in intervals]))
        case = f"{attack}: intervals that cover .5, of {seeds} simulations"
        rows.append(Row(case, covered, None, None, "fraction", covered, 17 / 20, "at_least"))
    drawn = float(np.mean([covers(seed) for seed in range(500)]))
    case = "intervals that cover .5, of 500 draws of scores"
    rows.append(Row(case, drawn, None, None, "fraction", drawn, 0.93, "at_least"))
    return Result("null", tuple(rows))


def simulate(seeds: int, folder: Path, processes: int | None = None) -> dict[str, list[tuple[float, float]]]:
    """Run simulations with fresh voices each; return each attack's intervals of the AUC per speaker."""
    joined = ",".join(f"{seed}+{1000 + seed}+{seed}" for seed in range(1, seeds + 1))
    keys = "private.options.seed+auxiliary.0.options.seed+simulation.seed"
    root = sweep(SETTINGS, [f"{keys}={joined}"], out=folder / "null", processes=processes)
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in json.loads((root / "sweep.json").read_text(encoding="utf-8")):
        if "seeds" in entry:
            claims = json.loads((root / entry["path"]).read_text(encoding="utf-8"))["claims"]
            for claim in main_claims(map(Claim.from_dict, claims)):
                if (
                    (claim.unit, claim.metric) == ("speaker", "auc")
                    and claim.low is not None
                    and claim.high is not None
                ):
                    found.setdefault(claim.attack, []).append((claim.low, claim.high))
    return found


def covers(seed: int) -> bool:
    """Whether the interval covers .5 for scores of 24 speakers (40 updates each) that do not depend on the sex."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=24).repeat(40) + rng.normal(size=24 * 40)
    sexes = rng.permutation(np.repeat([0, 1], 12)).repeat(40)
    estimate = Audit(own, sexes, np.arange(24).repeat(40)).auc()
    return estimate.low is not None and estimate.high is not None and estimate.low <= 0.5 <= estimate.high
