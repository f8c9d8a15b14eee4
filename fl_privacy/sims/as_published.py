"""The recipe's part in the published protocol: what an attack is asked beside single updates, and the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.as_published import LeakedMeans, layer_name, update_claims
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.evaluate import Question
from fl_privacy.attacks.score import Scores
from fl_privacy.audit import Claim
from fl_privacy.config import FederatedSerFile
from fl_privacy.sims.contests import Contest

_LEAKED = "leaked.npy"


def leaked_means(settings: FederatedSerFile, attack: Attack, question: Question) -> LeakedMeans:
    """Return the private updates, with the means of a client's updates that an attack is to score as well.

    An attack that needs more than updates is asked about none: a mean over rounds has no one model that was sent.
    """
    return LeakedMeans.of(question.private, settings.protocol.leaked_updates if attack.needs <= {"updates"} else ())


def save_scores(leaked: LeakedMeans, scores: Scores, folder: Path) -> None:
    """Write an attack's scores of the private updates, and in a file of their own those of all that it was asked."""
    only, of_all = leaked.split(scores)
    only.save(folder / "scores.npz")
    if leaked.rows:
        np.save(folder / _LEAKED, of_all)


def claims_of(
    settings: FederatedSerFile,
    contests: Sequence[Contest],
    question: Question,
    run: Path,
    context: Mapping[str, Any],
) -> list[Claim]:
    """Make every attack's claims by the rules of the published study.

    There are none under another protocol, and none of an attribute that is a number: the study has no rule for it.

    Parameters
    ----------
    settings : FederatedSerFile
    contests : sequence of Contest
    question : Question
    run : Path
        The run folder, attacks done.
    context : mapping
        Fields of every claim.
    """
    if settings.protocol.name != "as-published" or not question.auxiliary.classes:
        return []
    federation, private = settings.federation, question.private
    claims = []
    for number, contest in enumerate(contests):
        name, attack, entry = contest.name, contest.attack, contest.choice
        folder, leaked = run / "attacks" / str(number), leaked_means(settings, attack, question)
        conditions = {
            **context["conditions"],
            "attack": entry.name,
            "layer": layer_name(getattr(attack, "layers", ())),
            "dropout": federation.dropout,
            "local_epochs": federation.local_epochs,
            "folds": 1,
        }
        attacker = context["attacker"] if contest.aware else "static"
        shared = {
            **context,
            "attacker": attacker,
            "attack": name,
            "attribute": question.attribute,
            "conditions": conditions,
        }
        scores = Scores.load(folder / "scores.npz").scores
        claims += update_claims(scores, question.labels(private), private.speakers, **shared)
        if leaked.rows:
            claims += leaked.claims(np.load(folder / _LEAKED), question.labels(leaked.observed), **shared)
    return claims
