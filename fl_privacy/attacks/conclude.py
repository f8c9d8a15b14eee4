"""From audited attacks to claims and the controls they stand beside (docs/architecture.md, "Audit rules")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import AnyAudit, Claim, Control, Estimate, Slice
from fl_privacy.audit.controls import best_blind, chance, paired_difference, permutation_null, permutation_p_value
from fl_privacy.audit.reading import STATIC
from fl_privacy.errors import UserError

_PRIVATE_PERMUTATIONS = 9999


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
    plain : dict of str to Audit
        By attack: its scores as they were before calibration, which the permuted ones are held against.
    slices : tuple of Slice
        Parts of the attacks' evidence: few leaked updates, early rounds.
    claims : list of Claim
    controls : list of Control
    """

    audits: dict[str, AnyAudit]
    blind: dict[str, AnyAudit]
    permuted: dict[str, NDArray[np.float64]]
    plain: dict[str, AnyAudit]
    slices: tuple[Slice, ...] = ()
    claims: list[Claim] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)

    @property
    def primary(self) -> AnyAudit:
        """The audit of the attack declared first."""
        return next(iter(self.audits.values()))

    def headline(self, unit: str = "speaker") -> Estimate:
        """The primary attack's headline: AUC, or for a number the correlation."""
        return self.primary.headline_estimate(unit)

    def auc(self, unit: str = "speaker") -> Estimate:
        """Area under the ROC of the primary attack."""
        return self._metric("auc", unit)

    def uar(self, unit: str = "speaker") -> Estimate:
        """Unweighted average recall of the primary attack."""
        return self._metric("uar", unit)

    def tpr_at_fpr(self, fpr: float = 0.01, unit: str = "speaker") -> Estimate:
        """True positive rate of the primary attack at a false positive rate."""
        return self._metric("tpr_at_fpr", fpr, unit)

    def _metric(self, name: str, *arguments: Any) -> Estimate:
        metric = getattr(self.primary, name, None)
        if metric is None:
            raise UserError(
                f"{self.primary.question}: there is no {name}; there are: {', '.join(self.primary.estimates())}"
            )
        found: Estimate = metric(*arguments)
        return found

    def table(self) -> str:
        """Say the result in a table of plain text."""
        from fl_privacy.attacks.files import table

        return table(self.claims, self.controls)

    def save(self, folder: str | Path, **parts: Any) -> None:
        """Write result.json and scores.csv into a folder; see `fl_privacy.attacks.files.save`."""
        from fl_privacy.attacks.files import save

        save(self, Path(folder), **parts)


def conclude(
    audits: Mapping[str, AnyAudit],
    blinds: Mapping[str, AnyAudit],
    permuted: Mapping[str, NDArray[np.float64]],
    *,
    seed: int,
    plain: Mapping[str, AnyAudit] | None = None,
    slices: Sequence[Slice] = (),
    **context: Any,
) -> Evaluation:
    """Make the claims of audited attacks and the controls they stand beside.

    Parameters
    ----------
    audits, blinds : Mapping[str, audit]
        By attack (the primary one first) and by blind baseline.
    permuted : Mapping[str, ndarray]
        For each attack, the speakers' scores from attackers trained on permuted labels: (permutations, speakers) or
        (permutations, speakers, k), the speakers in the order of `AnyAudit.speaker_scores`.
    seed : int
        Of the permutations of the private labels.
    plain : Mapping[str, audit], optional
        For each attack, what the permuted scores are held against; by default `audits`.
    slices : sequence of Slice
        Parts of the evidence to make claims of.
    **context
        Further fields of every claim.
    """
    plain = plain or audits
    evaluation = Evaluation(dict(audits), dict(blinds), dict(permuted), dict(plain), tuple(slices))
    primary = next(iter(audits))
    for name, audit in audits.items():
        whose = {**context, "attacker": "static"} if name.endswith(STATIC) else context
        shared = {**whose, "primary": name == primary}
        if name != primary and not audit.evidence.any():
            evaluation.claims += silence(audit, **shared)
            continue
        evaluation.claims += audit.claims(**shared)
        evaluation.claims.append(against_blind(audit, blinds, **shared))
        evaluation.claims += [claim for part in slices if part.attack == name for claim in part.claims(**shared)]
        evaluation.controls += permutation_controls(audit, plain[name], permuted[name], seed, **whose)
    for name, audit in blinds.items():
        evaluation.controls += [Control(**vars(claim), control=name, of=primary) for claim in audit.claims(**context)]
    evaluation.controls += majority_controls(audits[primary], primary, **context)
    return evaluation


def silence(audit: AnyAudit, **shared: Any) -> list[Claim]:
    """Say in place of numbers that an attack could read none of the updates."""
    reason = "the attack can read none of these updates"
    claims = [claim for claim in audit.claims(**shared) if claim.unit == "speaker"]
    return [replace(claim, value=None, low=None, high=None, reason=reason) for claim in claims]


def against_blind(audit: AnyAudit, blinds: Mapping[str, AnyAudit], **shared: Any) -> Claim:
    """Claim how far an attack's headline lies above the best blind baseline's, paired over speakers."""
    best = best_blind(blinds.values())
    difference = paired_difference(audit, blinds.get(best) or chance(audit))
    conditions = {**shared.pop("conditions", {}), "best_blind": best}
    metric = f"{audit.headline}_over_best_blind"
    return Claim(
        **{"attack": audit.name, **shared}, unit="speaker", metric=metric, **vars(difference), conditions=conditions
    )


def permutation_controls(
    audit: AnyAudit, plain: AnyAudit, permuted: NDArray[np.float64], seed: int, **shared: Any
) -> list[Control]:
    """Hold an attack's headline against permuted labels, on the attacker's side (if any) and on the private one.

    The private speakers' labels are permuted under the very scores of the headline. Attackers that are trained on
    permuted labels are not calibrated, so what they give is held against what the attack gives before it is.
    """
    _, scores, truth = audit.speaker_scores()
    null_private = permutation_null(
        lambda labels: audit.headline_value(scores, labels),
        np.arange(len(scores)),
        truth,
        n=_PRIVATE_PERMUTATIONS,
        seed=seed,
    )
    nulls = {"permuted-private-labels": np.asarray(null_private)}
    if len(permuted):
        order = plain.speaker_scores()[2]
        own = np.array([plain.headline_value(row, order) for row in permuted])
        nulls = {"permuted-auxiliary-labels": own, **nulls}
    controls, counts = [], cast(dict[str, Any], audit.counts())
    for name, null in nulls.items():
        observed = (plain if name == "permuted-auxiliary-labels" else audit).headline_value()
        p = permutation_p_value(observed, null)
        low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
        controls.append(
            Control(
                attack=audit.name,
                unit="speaker",
                metric=audit.headline,
                value=float(null.mean()),
                low=low,
                high=high,
                confidence=0.95,
                **counts,
                control=name,
                of=audit.name,
                n_permutations=p.n,
                p_value=p.value,
                observed=observed,
                **shared,
            )
        )
    return controls


def majority_controls(audit: AnyAudit, of: str, **shared: Any) -> list[Control]:
    """Say what the best answer that is the same for everybody gives."""
    counts = cast(dict[str, Any], audit.counts())
    return [
        Control(attack="majority", unit="speaker", metric=m, value=v, control="majority", of=of, **counts, **shared)
        for m, v in audit.majority().items()
    ]
