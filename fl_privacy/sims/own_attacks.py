"""Attacks on a recogniser that is there already, and the baselines that never ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.conclude import Evaluation, conclude
from fl_privacy.attacks.membership.evidence import Features, TaughtAttack, calibrated, default_attacks
from fl_privacy.attacks.membership.protocol import SwapDesign, Voices
from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.audit import Audit, Claim
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_membership import SpeakerMembership
from fl_privacy.sims.speaker_recognisers import Embeddings
from fl_privacy.sims.speaker_result import budget_conditions
from fl_privacy.sims.speaker_voices import looked_at

if TYPE_CHECKING:
    from fl_privacy.sims.own_recogniser import OwnRecogniser

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Who is heard with which voices, before the recogniser in question and the shadows.

    Attributes
    ----------
    settings : SpeakerMembership
    design : SwapDesign
        Its first recogniser is the one in question.
    voices : mapping of str to Voices
    heard : mapping of str to sequence of str
        Ids of the candidates' voices.
    tables : tuple of Embeddings
        Of the recogniser in question, then of the shadows.
    inputs : Embeddings
        Mean log-mel energies.
    """

    settings: SpeakerMembership
    design: SwapDesign
    voices: Mapping[str, Voices]
    heard: Mapping[str, Sequence[str]]
    tables: tuple[Embeddings, ...]
    inputs: Embeddings

    @property
    def imposters(self) -> dict[str, tuple[str, ...]]:
        """Ids of the imposters' voices that the recogniser embeds."""
        all_of = {name: self.voices[name].all for name in self.design.imposters}
        found = {name: tuple(id for id in ids if id in self.tables[0]) for name, ids in all_of.items()}
        if not any(found.values()):
            raise UserError("auxiliary: the recogniser embeds no imposter's voice")
        return {name: ids for name, ids in found.items() if ids}

    def rows(self, r: float, budget: Budget | None = None) -> Features:
        """What attacks look at: candidates before every recogniser, the shadows' speakers before the shadows.

        With a budget, of the primary attack alone.
        """
        settings = self.settings
        count = settings.voices if budget is None else budget.voices
        people = {
            name: self.voices[name].draw(r, count, np.random.default_rng([settings.seed, 3, number, round(1000 * r)]))
            for number, name in enumerate(self.design.speakers(1))
        }
        imposters = self.imposters if budget is None else budget.of(self.imposters)
        asked = {name: ids[:count] for name, ids in self.heard.items()}
        strangers = {name: ids[:count] for name, ids in imposters.items() if len(ids) > 1}
        attacks = settings.attacks if budget is None else settings.attacks[:1]
        everybody = {**asked, **people, **strangers}
        grouped = budget is not None and budget.grouped
        return looked_at(everybody, imposters, self.tables, self.inputs, attacks, count, settings.seed, grouped=grouped)

    def scores(
        self, name: str, rows: Sequence[Features], count: int, design: SwapDesign | None = None, *, foreign: bool = True
    ) -> Floats:
        """What an attack says of each candidate, sorted by name; shadows may be unlike the recogniser."""
        attack, design = default_attacks(count)[name], design or self.design
        taught = TaughtAttack(attack, design, rows, fpr=self.settings.fpr, targets=[0])
        return taught.tell(rows[0], foreign=foreign).scores


def concluded(own: OwnRecogniser, world: World, untrained: Embeddings) -> Evaluation:
    """Attack, and hold every attack against the baselines that never ask the recogniser.

    Parameters
    ----------
    own : OwnRecogniser
    world : World
    untrained : Embeddings
        Of a network that was never trained.
    """
    settings, design, heard, inputs = world.settings, world.design, world.heard, world.inputs
    names = design.speakers(0)
    speakers, members = np.array(names), np.isin(names, design.recognisers[0].members)
    rows = [world.rows(r) for r in settings.ratios]
    audits = {
        name: _audit(name, world.scores(name, rows, settings.voices), members, speakers, settings)
        for name in settings.attacks
    }
    stages = {"random-initialisation": untrained, "mean-log-mel": inputs}
    scores = {name: np.array([_closeness(table, heard[n]) for n in names]) for name, table in stages.items()}
    means = np.stack([np.concatenate([inputs[id] for id in heard[n]]).mean(axis=0) for n in names])
    scores["log-mel-classifier"] = cross_fitted(means, members, settings.seed)
    primary = settings.attacks[0]
    if settings.swaps - 1 >= (2 if calibrated([primary]) else 1):
        # A shadow in the target's place. Its twin, trained on everybody that it was not, goes too: without the one, the
        # other would leave some speakers no reference.
        others = SwapDesign(design.imposters, (design.recognisers[0], *design.recognisers[3:]))
        before = [[row[1], *row[3:]] for row in rows]
        scores["wrong-target"] = world.scores(primary, before, settings.voices, others, foreign=False)
    blinds = {name: _audit(name, found, members, speakers, settings) for name, found in scores.items()}
    found = conclude(
        audits,
        blinds,
        {name: np.empty((0, len(names))) for name in audits},
        seed=settings.seed,
        **context_of(own, settings),
    )
    found.claims += [claim for budget in settings.budgets for claim in _with_less(own, world, budget)]
    return found


def _with_less(own: OwnRecogniser, world: World, budget: Budget) -> list[Claim]:
    """The primary attack with fewer queries."""
    settings, names = world.settings, world.design.speakers(0)
    rows = [world.rows(r, budget) for r in settings.ratios]
    scores = world.scores(settings.attacks[0], rows, budget.voices)
    members = np.isin(names, world.design.recognisers[0].members)
    audit = _audit(settings.attacks[0], scores, members, np.array(names), settings)
    context = context_of(own, settings)
    less = budget_conditions(budget, sum(len(ids[: budget.voices]) for ids in world.heard.values()), world.imposters)
    told = context | {"conditions": {**context["conditions"], **less}}
    return [claim for claim in audit.claims(**told) if (claim.unit, claim.metric) == ("speaker", "auc")]


def context_of(own: OwnRecogniser, settings: SpeakerMembership) -> dict[str, Any]:
    """Return what every claim says of the run."""
    return {
        "target": own.model,
        "attribute": "membership",
        "protocol": "one recogniser",
        "seeds": (settings.seed,),
        "conditions": {
            "private": own.members.corpus,
            "auxiliary": settings.corpus,
            "voices": settings.voices,
            "access": settings.access,
        },
    }


def cross_fitted(inputs: Floats, members: NDArray[np.bool_], seed: int, folds: int = 5) -> Floats:
    """Return the log-odds (n,) of a logistic regression, of each speaker from one that was fitted on others.

    Where this does well, members' and non-members' recordings differ by themselves, and an attack proves nothing.

    Parameters
    ----------
    inputs : ndarray, shape (n, q)
    members : ndarray of bool, shape (n,)
        Two of each kind at least.
    seed : int
    folds : int
        Fewer where a kind has fewer speakers.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splits = StratifiedKFold(min(folds, members.sum(), (~members).sum()), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return np.asarray(cross_val_predict(model, inputs, members, cv=splits, method="decision_function"))


def _closeness(table: Embeddings, voices: Sequence[str]) -> float:
    """`pair.mean` without a classifier, which keeps the order."""
    rows = np.concatenate([table[id] for id in voices]).astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return float((unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean())


def _audit(
    name: str, scores: Floats, members: NDArray[np.bool_], speakers: NDArray[np.str_], settings: SpeakerMembership
) -> Audit:
    labels = np.where(members, "member", "non-member")
    return Audit(scores, labels, speakers, positive="member", confidence=settings.confidence, name=name)
