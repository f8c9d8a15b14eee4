"""From attacks and captured updates to claims: the steps that are the same for every attack, done once.

Scores of single updates become calibrated evidence, which is added up over rounds per client and speaker, and every
attack stands beside the controls that the audit rules ask for (docs/architecture.md, "Audit rules").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_privacy.attacks import blind
from fl_privacy.attacks.base import Attack, Examples, LinearAttack
from fl_privacy.attacks.conclude import Evaluation, conclude
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.question import Question
from fl_privacy.attacks.score import Scores, check_needs, run_attack
from fl_privacy.audit.slices import LEAKED, slices_of
from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, UpdateStore

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Evaluation", "Question", "assess", "evaluate"]


def evaluate(
    attacks: Sequence[Attack],
    store: UpdateStore,
    *,
    shadow: UpdateStore | Sequence[UpdateStore],
    labels: str | Path | Labels,
    shadow_labels: str | Path | Labels | Sequence[str | Path | Labels],
    attribute: str,
    positive: str | None = None,
    numeric: bool = False,
    examples: Examples | None = None,
    model: nn.Module | None = None,
    permutations: int = 200,
    confidence: float = 0.95,
    leaked_updates: Sequence[int] = LEAKED,
    windows: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Attack captured updates and say how well it went.

    Parameters
    ----------
    attacks : sequence of Attack
        The first is the primary one: its result is the claim.
    store : UpdateStore
        The private federation's updates.
    shadow : UpdateStore or several
        The attacker's own federations.
    labels, shadow_labels : path or Labels
        Which client is whose (columns ``client``, ``speaker``, the attribute); one for each store.
    attribute : str
        The column to infer: two values, more, or (`numeric`) a number.
    positive : str, optional
        Of two values, the one that high scores mean; by default the last in alphabetical order.
    numeric : bool
        Whether the attribute is a number, told by regression.
    examples : Examples, optional
        The attacker's own examples, with the attribute as text: for attacks that need them.
    model : torch Module, optional
        Of the clients' architecture, for attacks that need its gradient (of the mean cross-entropy).
    permutations : int
        Refits on permuted labels, for the p-value; an attack that says it is costly is not refitted.
    confidence : float
        Of intervals.
    leaked_updates : sequence of int
        Numbers of leaked updates of a speaker to make claims of, beside all of them.
    windows : sequence of (first, last), optional
        Spans of rounds to make claims of; by default the first and the last fifth.
    seed : int
        Of the permutations, folds and draws.
    names : sequence of str, optional
        Names of the attacks in the result; by default their classes'.

    Returns
    -------
    Evaluation
    """
    shadows = [shadow] if isinstance(shadow, UpdateStore) else list(shadow)
    files = [shadow_labels] if isinstance(shadow_labels, str | Path | Labels) else list(shadow_labels)
    if len(files) != len(shadows):
        raise UserError(f"{len(shadows)} shadow store(s) but {len(files)} label file(s): one for each")
    if any(other.path.resolve() == store.path.resolve() for other in shadows):
        raise UserError(f"{store.path} is named as the private store and as a shadow: the attacker owns other updates")
    gradient = None
    if model is not None:
        from fl_privacy.attacks.architecture import gradient_of

        gradient = gradient_of(model)
    question = Question.ask(
        Observed.of([(s, _labels(f)) for s, f in zip(shadows, files, strict=True)]),
        Observed.of([(store, _labels(labels))]),
        attribute,
        positive,
        numeric=numeric,
        examples=examples,
        gradient=gradient,
    )
    called = list(names) if names is not None else _class_names(attacks)
    if not attacks or len(called) != len(attacks):
        raise UserError(f"{len(attacks)} attack(s) and {len(called)} name(s): give at least one, and a name for each")
    if len(set(called)) < len(called):
        raise UserError(f"two attacks are called by one name: {', '.join(called)}")
    for name, attack in zip(called, attacks, strict=True):
        check_needs(name, attack, question.supplies, numeric=numeric, attribute=attribute)
    scores = {
        name: run_attack(
            attack,
            question.own,
            question.private,
            question.labels(question.own),
            question.auxiliary,
            permutations=0 if getattr(attack, "costly", False) else permutations,
            seed=seed,
        )
        for name, attack in zip(called, attacks, strict=True)
    }
    return assess(question, scores, confidence=confidence, leaked_updates=leaked_updates, windows=windows, seed=seed)


def assess(
    question: Question,
    scores: Mapping[str, Scores],
    *,
    confidence: float,
    link_shards: bool = True,
    leaked_updates: Sequence[int] = LEAKED,
    windows: Sequence[tuple[int, int]] | None = None,
    seed: int,
    context: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Audit the attacks' scores and hold them against their controls.

    Parameters
    ----------
    question : Question
        What was asked.
    scores : Mapping[str, Scores]
        By attack, the primary one first.
    confidence : float
        Of intervals.
    link_shards : bool
        Whether the attacker knows which clients are one speaker's.
    leaked_updates, windows
        See `evaluate`.
    seed : int
        Of the permutations of the private labels, and of draws.
    context : Mapping, optional
        Further fields of every claim (target, algorithm, defense, ...).
    """
    private = question.private
    audits = {n: question.audit(s.evidence, n, confidence, correlation=s.correlation) for n, s in scores.items()}
    # Scores as they are may have any offset: a speaker's are averaged, so that the number of updates says nothing.
    plain = {n: question.audit(s.scores, n, confidence, correlation=1.0) for n, s in scores.items()}
    permuted = {n: np.array([plain[n].over_speakers(row) for row in s.permuted]) for n, s in scores.items()}
    slices = [
        piece
        for name, audit in audits.items()
        for piece in slices_of(
            audit, [u.round for u in private.updates], leaked_updates, windows, linked=link_shards, seed=seed
        )
    ]
    blinds = {}
    labels = question.labels(question.own)
    for name, (mine, theirs) in blind.baselines(question.own, private).items():
        # Few columns: the penalty only keeps separable ones finite.
        scorer = LinearAttack(C=1.0).learn(mine, labels[None], question.auxiliary)
        blinds[name] = question.audit(scorer(theirs)[0], name, confidence)
    shared = {"attribute": question.attribute, **(context or {})}
    return conclude(audits, blinds, permuted, plain=plain, slices=slices, seed=seed, **shared)


def _labels(source: str | Path | Labels) -> Labels:
    return source if isinstance(source, Labels) else Labels.read(source)


def _class_names(attacks: Sequence[Attack]) -> list[str]:
    names = [type(attack).__name__ for attack in attacks]
    return [n if names.count(n) == 1 else f"{n}-{i}" for i, n in enumerate(names)]
