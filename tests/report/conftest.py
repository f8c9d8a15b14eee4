"""Runs made by the package's own audit, so that the report reads what a run writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_privacy.attacks import files
from fl_privacy.attacks.evaluate import Evaluation, conclude
from fl_privacy.audit import Audit

SIMULATION = {
    "simulation": {"kind": "federated-ser", "seed": 1, "engine": "local"},
    "task": {"label": "emotion", "classes": ["neutral", "happy"]},
    "private": {"corpus": "ravdess", "options": {"a key": 'a "quoted" \\ value'}, "attribute": "gender"},
    "auxiliary": [{"corpus": "emodb", "options": {}}, {"corpus": "folder", "options": {"shift": -0.5}}],
    "defense": [],
    "attack": [{"name": "strong"}, {"name": "weak"}],
}


@pytest.fixture(scope="session")
def make() -> Callable[..., SimpleNamespace]:
    """A run: result and rows of scores; `shift` sets speakers of the two kinds apart under the primary attack."""

    @cache
    def judged(
        shift: float = 3.0,
        speakers: int = 24,
        attacks: tuple[str, ...] = ("strong", "weak"),
        prefix: str = "s",
        permutations: int = 50,
        positive: str | None = None,
        seed: int = 0,
    ) -> Evaluation:
        rng = np.random.default_rng(seed)
        names = [f"{prefix}{i:02}" for i in range(speakers)]
        labels = np.array(["female", "male"])[np.arange(speakers) % 2]
        sign = np.where(labels == (positive or "male"), 1.0, -1.0)

        def audit(name: str, distance: float) -> Audit:
            # Rounded, so that there are ties.
            scores = np.round(sign * distance / 2 + rng.normal(size=speakers), 1)
            return Audit(scores, labels, names, positive=positive, name=name, clients=[str(i) for i in range(speakers)])

        audits = {name: audit(name, shift if i == 0 else 0.3) for i, name in enumerate(attacks)}
        blinds = {"blind-examples": audit("blind-examples", 0.2), "blind-norm": audit("blind-norm", 0.0)}
        permuted = {name: rng.normal(size=(permutations, speakers)) for name in attacks}
        return conclude(
            audits,
            blinds,
            permuted,
            seed=seed,
            target="federation",
            attribute="gender",
            seeds=(1,),
            conditions={"private": "ravdess"},
        )

    def made(*, attacks: tuple[str, ...] = ("strong", "weak"), **how: Any) -> SimpleNamespace:
        evaluation = judged(attacks=attacks, **how)
        result = {
            "schema": 1,
            "simulation": SIMULATION,
            "versions": {"fl-privacy": "0.1.0", "python": "3.11"},
            "threat_model": {
                "attacker": "the server",
                "observes": "every client's own update",
                "words": "The attacker is the server: it sees every client's own update.",
            },
            "utility": {
                "task": "emotion of held-out speakers",
                "uar": 0.6,
                "accuracy": 0.65,
                "chance_uar": 0.5,
                "by_round": {"round": [0, 1, 2], "uar": [0.5, None, 0.6], "accuracy": [0.5, 0.55, 0.65]},
            },
            "claims": [claim.to_dict() for claim in evaluation.claims],
            "controls": [control.to_dict() for control in evaluation.controls],
            "privacy": [],
            "queries": 0,
            "corpora": {
                "private": [{"name": "ravdess", "speakers": 24, "utterances": 99, "left_out": {"no label": 7}}],
                "auxiliary": [{"name": "emodb", "speakers": 10, "utterances": 50, "left_out": {}}],
            },
            "test_speakers": ["t1", "t2"],
            "failed_replies": [[3, "5", "not finite"], [4, "6", "not finite"]],
        }
        text = files.scores_csv(evaluation)
        rows = list(csv.DictReader(io.StringIO(text)))
        return SimpleNamespace(result=json.loads(json.dumps(result)), rows=rows, text=text, evaluation=evaluation)

    return made
