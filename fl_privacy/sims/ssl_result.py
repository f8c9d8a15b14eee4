"""What a run on encoders found: claims, controls, scores and a table, for either design."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.audit import SwappedAudit
from fl_privacy.audit.claims import Claim, Control, Estimate
from fl_privacy.audit.controls import permutation_p_value
from fl_privacy.audit.reading import AS_PUBLISHED, LAYER

Floats = NDArray[np.float64]

RANDOM_ENCODER = "random-encoder"

BLIND = ("duration", "log-mel-frames", RANDOM_ENCODER, "wrong-encoder", "log-mel-classifier")
"""Controls that never look at what pre-training did with the candidates."""


def through(control: str, attack: str) -> str:
    """Return the name of a control that stands beside an attack other than the primary one, with its statistic."""
    return f"{control} ({attack})"


@dataclass(frozen=True)
class Reading:
    """Attacks and controls on the same rows, by one protocol.

    Attributes
    ----------
    audits : mapping of (str, str) to SwappedAudit
        By attack, the primary one first, and unit.
    blind : mapping of (str, str) to SwappedAudit
        By control out of `BLIND` and unit; those with the statistic of another attack than the primary one are named
        by `through`.
    layers : mapping of (str, str, int) to SwappedAudit
        By attack, unit and layer: a sweep.
    shared : mapping
        Fields of every claim.
    details : mapping of (str, str) to mapping
        Further conditions of a control.
    runs : tuple of Reading
        What this was merged from; empty for one run alone.
    """

    audits: Mapping[tuple[str, str], SwappedAudit]
    blind: Mapping[tuple[str, str], SwappedAudit]
    layers: Mapping[tuple[str, str, int], SwappedAudit]
    shared: Mapping[str, Any]
    details: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    runs: tuple[Reading, ...] = ()

    @property
    def primary(self) -> str:
        """The attack that is named first."""
        return next(iter(self.audits))[0]

    def best_blind(self, attack: str, unit: str) -> str:
        """The control with the highest AUC of those that stand beside an attack; "chance" where none exceeds one half.

        A control with the attack's own statistic takes the place of the primary one's.
        """
        beside = {name: through(name, attack) for name in BLIND}
        names = [own if (own, unit) in self.blind else name for name, own in beside.items()]
        found = {name: self.blind[name, unit].auc().value or 0.0 for name in names if (name, unit) in self.blind}
        best = max(found, key=lambda name: found[name], default="chance")
        return best if found.get(best, 0.0) > 0.5 else "chance"

    def over_blind(self, attack: str, unit: str) -> tuple[Estimate, str]:
        """AUC of an attack less that of the best blind control, paired over speakers; and which that is."""
        audit, best = self.audits[attack, unit], self.best_blind(attack, unit)
        return (audit.over_chance() if best == "chance" else audit.difference(self.blind[best, unit])), best

    def claims(self) -> list[Claim]:
        """The rows of result.json."""
        found = []
        for (name, unit), audit in self.audits.items():
            # By the rules of a published study there is no claim to headline.
            first = name == self.primary and self.shared["protocol"] != AS_PUBLISHED
            shared = {**self.shared, "primary": first}
            found += audit.claims(**shared)
            over, best = self.over_blind(name, unit)
            conditions = {**self.shared["conditions"], "best_blind": best}
            more = {**shared, "attack": name, "unit": unit, "attribute": "membership", "conditions": conditions}
            found.append(Claim(**more, metric="auc_over_best_blind", **vars(over)))
        for (name, unit, layer), audit in self.layers.items():
            conditions = {**self.shared["conditions"], LAYER: layer}
            more = {**self.shared, "attack": name, "unit": unit, "attribute": "membership", "conditions": conditions}
            found.append(Claim(**more, metric="auc", **vars(audit.auc())))
        return found

    def controls(self, permutations: int) -> list[Control]:
        """Blind controls, and each attack's AUC with roles permuted."""
        rows = []
        for (name, unit), audit in self.audits.items():
            # Roles are drawn anew in every run, and so are permutations of them.
            runs = self.runs or (self,)
            nulls = [run.audits[name, unit].permuted(permutations, run.shared["seeds"][0]) for run in runs]
            null = np.mean(nulls, axis=0)
            estimate = audit.auc()
            p = permutation_p_value(estimate.value or 0.0, null)
            low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
            spread = replace(estimate, value=float(null.mean()), low=low, high=high, confidence=0.95)
            rows.append(
                Control(
                    **self.shared,
                    **vars(spread),
                    attack=name,
                    of=name,
                    unit=unit,
                    attribute="membership",
                    metric="auc",
                    control="permuted-private-labels",
                    n_permutations=p.n,
                    p_value=p.value,
                )
            )
        for (name, unit), audit in self.blind.items():
            rows += self._control(name, unit, audit)
        return rows

    def lacking(self, control: str, reason: str) -> list[Control]:
        """Rows of a control of the primary attack that could not be made: no value, and why."""
        rows = []
        for (name, unit), audit in self.audits.items():
            if name == self.primary:
                nothing = replace(audit.auc(), value=None, low=None, high=None, reason=reason)
                what: dict[str, Any] = {"attack": control, "unit": unit, "attribute": "membership", "metric": "auc"}
                rows.append(Control(**self.shared, **vars(nothing), **what, control=control, of=name))
        return rows

    def _control(self, name: str, unit: str, audit: SwappedAudit) -> list[Control]:
        conditions = {**self.shared["conditions"], **self.details.get((name, unit), {})}
        each = list(audit.by_target().values())
        if len(each) > 1:
            # What one target alone would have shown: how far a design that swaps nothing may be off.
            conditions |= {"lowest_target": min(each), "highest_target": max(each)}
        shared = {**self.shared, "conditions": conditions}
        attacks = dict.fromkeys(attack for attack, _ in self.audits)
        of = next((attack for attack in attacks if name.endswith(through("", attack))), self.primary)
        return [Control(**vars(c), control=name, of=of) for c in audit.claims(**shared) if c.metric == "auc"]

    def rows(self) -> list[list[Any]]:
        """The scores of every unit before every target."""
        found: list[list[Any]] = []
        for (name, unit), audit in [*self.audits.items(), *self.blind.items()]:
            several = np.unique(audit.targets).size > 1
            told = f"{unit} before target" if several else unit
            labels = np.where(audit.members, "member", "non-member")
            ids = audit.speakers if audit.utterances is None else audit.utterances
            for row in zip(audit.targets, audit.speakers, ids, labels, audit.scores, audit.decisions, strict=True):
                found.append([name, told, *row])
        return found

    def table(self) -> list[str]:
        """One line for each attack and control."""
        lines = [f"{'unit':<11}{'attack or control':<28}{'AUC':<24}{'TPR at FPR .01':<24}over best blind"]
        for unit in dict.fromkeys(unit for _, unit in self.audits):
            for (name, of), audit in self.audits.items():
                if of == unit:
                    over, best = self.over_blind(name, unit)
                    tpr = str(audit.tpr_at_fpr(0.01))
                    lines.append(f"{unit:<11}{name:<28}{audit.auc()!s:<24}{tpr:<24}{over} ({best})")
            for (name, of), audit in self.blind.items():
                if of == unit:
                    each = list(audit.by_target().values())
                    span = f"one target: {min(each):.3f} to {max(each):.3f}" if len(each) > 1 else ""
                    lines.append(f"{unit:<11}- {name:<26}{audit.auc()!s:<24}{span}")
        swept = {(name, unit) for name, unit, _ in self.layers}
        for name, unit in sorted(swept):
            mine = [(layer, audit) for (a, u, layer), audit in self.layers.items() if (a, u) == (name, unit)]
            lines.append(f"{unit:<11}{name} by layer: " + ", ".join(f"{n}: {audit.auc()}" for n, audit in mine))
        return lines


def scores_csv(readings: Sequence[Reading]) -> str:
    """Return the scores of readings as CSV text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["attack", "unit", "target", "speaker", "utterance", "label", "score", "decision"])
    for reading in readings:
        writer.writerows(reading.rows())
    return out.getvalue()


@dataclass
class Rows:
    """Scores of units before targets, gathered for an audit."""

    scores: list[Floats] = field(default_factory=list)
    members: list[NDArray[np.bool_]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(
        self, scores: Floats, members: NDArray[np.bool_], names: Sequence[str], speakers: Sequence[str], target: int
    ) -> None:
        """Add the units of one target."""
        self.scores.append(scores)
        self.members.append(members)
        self.names += names
        self.speakers += speakers
        self.targets += [target] * len(scores)

    def audit(self, name: str, unit: str, confidence: float) -> SwappedAudit:
        """Audit them; a unit is called a member where it lies above the middle of a target's.

        Scores are told from there too: those of two encoders lie at two levels, which one threshold would not suit.
        """
        centred = np.concatenate([scores - np.median(scores) for scores in self.scores])
        return SwappedAudit(
            centred,
            np.concatenate(self.members),
            self.speakers,
            self.targets,
            utterances=self.names if unit == "utterance" else None,
            name=name,
            confidence=confidence,
        )


def standardised_mean(scores: Sequence[Floats]) -> Floats:
    """Return the mean of several scores of the same units, each brought to mean 0 and variance 1."""
    return np.asarray(np.mean([(s - s.mean()) / max(float(s.std()), 1e-12) for s in scores], axis=0))
