"""From attacks and captured updates to claims: the steps that are the same for every attack, done once.

Scores of single updates are summed over rounds into evidence per client and speaker, and every attack stands beside
the controls that the audit rules ask for (docs/architecture.md, "Audit rules").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks import blind
from fl_privacy.attacks.base import Attack, Auxiliary, LinearAttack
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import Scores, check_needs, run_attack
from fl_privacy.audit import Audit, Claim, Control, Estimate, metrics
from fl_privacy.audit.controls import (
    best_blind,
    chance,
    majority,
    paired_difference,
    permutation_null,
    permutation_p_value,
)
from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, UpdateStore

_PRIVATE_PERMUTATIONS = 9999


@dataclass(frozen=True)
class Question:
    """What is asked of the updates: which attribute, which of its two values is positive, and of whom."""

    own: Observed
    private: Observed
    attribute: str
    positive: str
    negative: str

    @classmethod
    def ask(cls, own: Observed, private: Observed, attribute: str, positive: str | None = None) -> Question:
        """Check that both sides have the attribute with the same two values.

        Raises
        ------
        UserError
            Where they do not.
        """
        shapes = [dict(side.updates[0].shapes) for side in (private, own)]
        if shapes[0] != shapes[1]:
            odd = next((n for n in shapes[0] if shapes[0].get(n) != shapes[1].get(n)), next(iter(shapes[1])))
            raise UserError(
                f"the attacker's own updates are of another network than the private ones: the shape of {odd!r} is "
                f"{shapes[1].get(odd, 'not known')} there, {shapes[0].get(odd, 'not known')} here"
            )
        both = sorted(own.named_speakers & private.named_speakers)
        if both:
            raise UserError(
                f"{len(both)} speaker(s) stand on both sides, such as {both[0]!r}: the attacker owns other people "
                "(give different people different names)"
            )
        values = sorted(set(private.values(attribute)))
        if len(values) != 2:
            raise UserError(
                f"{attribute!r} of the private clients has {len(values)} value(s) ({', '.join(values[:5])}); "
                "this attack tells two values apart"
            )
        other = sorted(set(own.values(attribute)))
        if other != values:
            raise UserError(
                f"{attribute!r} is {' / '.join(values)} for the private clients but {' / '.join(other)} for the "
                "attacker's own: both need the same two values"
            )
        if positive is not None and positive not in values:
            raise UserError(f"{attribute!r} has no value {positive!r}; it has: {', '.join(values)}")
        yes = positive or values[-1]
        return cls(own, private, attribute, yes, next(v for v in values if v != yes))

    def labels(self, side: Observed) -> NDArray[np.int64]:
        """Return 1 where a side's update is of a positive client, else 0."""
        return np.array([value == self.positive for value in side.values(self.attribute)], dtype=np.int64)

    @property
    def auxiliary(self) -> Auxiliary:
        """What the attacker owns."""
        return Auxiliary(tuple(self.own.speakers), (self.negative, self.positive))

    def audit(self, scores: NDArray[np.float64], name: str, confidence: float) -> Audit:
        """Put scores of the private updates beside the truth."""
        return Audit(
            scores,
            self.private.values(self.attribute),
            self.private.speakers,
            positive=self.positive,
            clients=self.private.clients,
            confidence=confidence,
            name=name,
        )


@dataclass
class Evaluation:
    """Every attack of a run, audited, with its controls.

    Attributes
    ----------
    audits : dict of str to Audit
        By attack; the first is the primary one.
    blind : dict of str to Audit
        By blind baseline.
    permuted : dict of str to ndarray
        By attack: the speakers' scores under permuted labels, (permutations, speakers).
    claims : list of Claim
    controls : list of Control
    """

    audits: dict[str, Audit]
    blind: dict[str, Audit]
    permuted: dict[str, NDArray[np.float64]]
    claims: list[Claim] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)

    @property
    def primary(self) -> Audit:
        """The audit of the attack declared first."""
        return next(iter(self.audits.values()))

    def auc(self, unit: str = "speaker") -> Estimate:
        """Area under the ROC of the primary attack."""
        return self.primary.auc(unit)

    def uar(self, unit: str = "speaker") -> Estimate:
        """Unweighted average recall of the primary attack."""
        return self.primary.uar(unit)

    def tpr_at_fpr(self, fpr: float = 0.01, unit: str = "speaker") -> Estimate:
        """True positive rate of the primary attack at a false positive rate."""
        return self.primary.tpr_at_fpr(fpr, unit)

    def table(self) -> str:
        """Say the result in a table of plain text."""
        from fl_privacy.attacks.files import table

        return table(self.claims, self.controls)

    def save(self, folder: str | Path, **parts: Any) -> None:
        """Write result.json and scores.csv into a folder; see `fl_privacy.attacks.files.save`."""
        from fl_privacy.attacks.files import save

        save(self, Path(folder), **parts)


def evaluate(
    attacks: Sequence[Attack],
    store: UpdateStore,
    *,
    shadow: UpdateStore | Sequence[UpdateStore],
    labels: str | Path | Labels,
    shadow_labels: str | Path | Labels | Sequence[str | Path | Labels],
    attribute: str,
    positive: str | None = None,
    permutations: int = 200,
    confidence: float = 0.95,
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
        The column to infer; two values.
    positive : str, optional
        The value that high scores mean; by default the last in alphabetical order.
    permutations : int
        Refits on permuted labels, for the p-value.
    confidence : float
        Of intervals.
    seed : int
        Of the permutations.
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
    own = Observed.of([(s, _labels(f)) for s, f in zip(shadows, files, strict=True)])
    question = Question.ask(own, Observed.of([(store, _labels(labels))]), attribute, positive)
    called = list(names) if names is not None else _class_names(attacks)
    if not attacks or len(called) != len(attacks):
        raise UserError(f"{len(attacks)} attack(s) and {len(called)} name(s): give at least one, and a name for each")
    if len(set(called)) < len(called):
        raise UserError(f"two attacks are called by one name: {', '.join(called)}")
    for name, attack in zip(called, attacks, strict=True):
        check_needs(name, attack)
    scores = {
        name: run_attack(
            attack,
            own,
            question.private,
            question.labels(own),
            question.auxiliary,
            permutations=permutations,
            seed=seed,
        )
        for name, attack in zip(called, attacks, strict=True)
    }
    return assess(question, scores, confidence=confidence, seed=seed)


def assess(
    question: Question,
    scores: Mapping[str, Scores],
    *,
    confidence: float,
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
    seed : int
        Of the permutations of the private labels.
    context : Mapping, optional
        Further fields of every claim (target, algorithm, defense, ...).
    """
    audits = {name: question.audit(s.scores, name, confidence) for name, s in scores.items()}
    permuted = {
        name: np.array([question.audit(row, name, confidence).speaker_scores()[1] for row in s.permuted])
        for name, s in scores.items()
    }
    blinds = {}
    labels = question.labels(question.own)
    for name, (mine, theirs) in blind.baselines(question.own, question.private).items():
        # Few columns: the penalty only keeps separable ones finite.
        baseline = LinearAttack(C=1.0).fit_represented(mine, labels, question.auxiliary)
        blinds[name] = question.audit(baseline.score_represented(theirs), name, confidence)
    return conclude(audits, blinds, permuted, seed=seed, attribute=question.attribute, **(context or {}))


def conclude(
    audits: Mapping[str, Audit],
    blinds: Mapping[str, Audit],
    permuted: Mapping[str, NDArray[np.float64]],
    *,
    seed: int,
    **context: Any,
) -> Evaluation:
    """Make the claims of audited attacks and the controls they stand beside.

    Parameters
    ----------
    audits, blinds : Mapping[str, Audit]
        By attack (the primary one first) and by blind baseline.
    permuted : Mapping[str, ndarray]
        For each attack, the speakers' scores from attackers trained on permuted labels: (permutations, speakers), the
        speakers in the order of `Audit.speaker_scores`.
    seed : int
        Of the permutations of the private labels.
    **context
        Further fields of every claim.
    """
    evaluation = Evaluation(dict(audits), dict(blinds), dict(permuted))
    primary = next(iter(audits))
    for name, audit in audits.items():
        evaluation.claims += audit.claims(primary=name == primary, **context)
        evaluation.claims.append(against_blind(audit, blinds, primary=name == primary, **context))
        evaluation.controls += permutation_controls(audit, permuted[name], seed, **context)
    for name, audit in blinds.items():
        evaluation.controls += [Control(**vars(claim), control=name, of=primary) for claim in audit.claims(**context)]
    evaluation.controls += majority_controls(audits[primary], primary, **context)
    return evaluation


def against_blind(audit: Audit, blinds: Mapping[str, Audit], **shared: Any) -> Claim:
    """Claim how far an attack's AUC lies above the best blind baseline's, paired over speakers."""
    best = best_blind(list(blinds.values()))
    difference = paired_difference(audit, blinds.get(best) or chance(audit))
    conditions = {**shared.pop("conditions", {}), "best_blind": best}
    return _claim(audit.name, "auc_over_best_blind", difference, conditions=conditions, **shared)


def permutation_controls(audit: Audit, permuted: NDArray[np.float64], seed: int, **shared: Any) -> list[Control]:
    """Hold an attack's AUC per speaker against permuted labels, on the attacker's side and on the private one."""
    _, scores, truth = audit.speaker_scores()
    observed = metrics.auc(scores[truth], scores[~truth])
    null_own = np.array([metrics.auc(s[truth], s[~truth]) for s in permuted])
    null_private = permutation_null(
        lambda labels: metrics.auc(scores[labels], scores[~labels]),
        np.arange(len(scores)),
        truth,
        n=_PRIVATE_PERMUTATIONS,
        seed=seed,
    )
    controls = []
    for name, null in (("permuted-auxiliary-labels", null_own), ("permuted-private-labels", np.asarray(null_private))):
        if not len(null):  # a slow attack was not trained on permuted labels
            continue
        p = permutation_p_value(observed, null)
        low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
        controls.append(
            Control(
                attack=audit.name,
                unit="speaker",
                metric="auc",
                value=float(null.mean()),
                low=low,
                high=high,
                confidence=0.95,
                n_positive=int(truth.sum()),
                n_negative=int((~truth).sum()),
                n_speakers=len(truth),
                control=name,
                of=audit.name,
                n_permutations=p.n,
                p_value=p.value,
                **shared,
            )
        )
    return controls


def majority_controls(audit: Audit, of: str, **shared: Any) -> list[Control]:
    """Say what always naming the larger class gives."""
    _, _, truth = audit.speaker_scores()
    counts: dict[str, Any] = {
        "n_positive": int(truth.sum()),
        "n_negative": int((~truth).sum()),
        "n_speakers": len(truth),
    }
    rows = {"accuracy": majority(truth), "uar": 0.5, "auc": 0.5}
    return [
        Control(attack="majority", unit="speaker", metric=m, value=v, control="majority", of=of, **counts, **shared)
        for m, v in rows.items()
    ]


def _claim(attack: str, metric: str, estimate: Estimate, **shared: Any) -> Claim:
    return Claim(attack=attack, unit="speaker", metric=metric, **vars(estimate), **shared)


def _labels(source: str | Path | Labels) -> Labels:
    return source if isinstance(source, Labels) else Labels.read(source)


def _class_names(attacks: Sequence[Attack]) -> list[str]:
    names = [type(attack).__name__ for attack in attacks]
    return [n if names.count(n) == 1 else f"{n}-{i}" for i, n in enumerate(names)]
