"""What a run of swapped roles found: audits of every attack, as claims, controls and a table; several runs merged."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.audit import Privacy, SwappedAudit
from fl_privacy.audit.claims import Claim, Control, jsonable
from fl_privacy.audit.controls import permutation_p_value
from fl_privacy.audit.reading import STATIC, SWAPPED
from fl_privacy.training.speaker_private import NAME

if TYPE_CHECKING:
    from fl_privacy.sims.speaker_membership import SpeakerMembership

_ROWS = ("scores", "members", "speakers", "targets", "decisions")
"""Columns of an audit."""

_FACTS = ("utility", "queries", "excluded", "imposters", "candidates", "seed")


@dataclass(frozen=True)
class SpeakerMembershipResult:
    """What a run found.

    Attributes
    ----------
    audits : mapping of (str, float) to SwappedAudit
        By attack and mixing ratio; decisions are positive log-odds.
    at_threshold : mapping of (str, float) to SwappedAudit
        The same with decisions at the threshold that shadows set; without attacks whose shadows were too few.
    utility : mapping of str to float
        Mean equal error rates over targets: ``eer_members`` on members' unseen voices, ``eer_nonmembers``.
    queries : int
        Voices sent to a target to judge all its candidates, imposters' included.
    excluded : tuple of (str, str)
        Speakers left out, and why.
    settings : SpeakerMembership
    reduced : mapping of (Budget, float) to SwappedAudit
        The primary attack with fewer queries, by budget and mixing ratio.
    imposters : mapping of str to sequence of str
        Ids of the imposters' voices.
    candidates : int
        Of a target: the speakers of its pool.
    seed : int
        Of the run; of several, the first.
    privacy : tuple of Privacy
        What a defense promises.
    runs : tuple of SpeakerMembershipResult
        What this was merged from; empty for one run alone.
    """

    audits: Mapping[tuple[str, float], SwappedAudit]
    at_threshold: Mapping[tuple[str, float], SwappedAudit]
    utility: Mapping[str, float]
    queries: int
    excluded: tuple[tuple[str, str], ...]
    settings: SpeakerMembership
    reduced: Mapping[tuple[Budget, float], SwappedAudit]
    imposters: Mapping[str, Sequence[str]]
    candidates: int
    seed: int
    privacy: tuple[Privacy, ...] = ()
    runs: tuple[SpeakerMembershipResult, ...] = ()

    def claims(self) -> list[Claim]:
        """The rows of result.json.

        Beside each attack's own metrics, how far its AUC lies above one half and above that of `pair.mean` alone.
        """
        found = []
        for (name, r), audit in self.audits.items():
            shared = self._shared(r, name)
            found += audit.claims(**shared, primary=name == self.settings.attacks[0])
            beside = {"auc_over_best_blind": (audit.over_chance(), {"best_blind": "chance"})}
            static = STATIC if name.endswith(STATIC) else ""
            one = self.audits.get((f"pair.mean{static}", r))
            if one is not None and one is not audit:
                beside["auc_over_pair_mean"] = (audit.difference(one), {})
            found += [
                Claim(
                    **shared | {"conditions": shared["conditions"] | more},
                    attack=name,
                    primary=name == self.settings.attacks[0],
                    unit="speaker",
                    attribute="membership",
                    metric=metric,
                    **vars(estimate),
                )
                for metric, (estimate, more) in beside.items()
            ]
        for (budget, r), audit in self.reduced.items():
            sent = self.candidates * budget.voices
            less = budget_conditions(budget, sent, self.imposters)
            found.append(
                Claim(
                    **self._shared(r, "") | {"conditions": self._shared(r, "")["conditions"] | less},
                    attack=self.settings.attacks[0],
                    unit="speaker",
                    attribute="membership",
                    metric="auc",
                    **vars(audit.auc()),
                )
            )
        return found

    def controls(self) -> list[Control]:
        """The controls of result.json: the AUC of each attack's scores with speakers' roles permuted."""
        rows = []
        for (name, r), audit in self.audits.items():
            # Roles are drawn anew in every run, and so are permutations of them.
            runs = self.runs or (self,)
            nulls = [run.audits[name, r].permuted(self.settings.permutations, run.seed) for run in runs]
            null = np.mean(nulls, axis=0)
            p = permutation_p_value(audit.auc().value or 0.0, null)
            low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
            estimate = replace(audit.auc(), value=float(null.mean()), low=low, high=high, confidence=0.95)
            rows.append(
                Control(
                    **self._shared(r, name),
                    **vars(estimate),
                    attack=name,
                    of=name,
                    unit="speaker",
                    attribute="membership",
                    metric="auc",
                    control="permuted-private-labels",
                    n_permutations=p.n,
                    p_value=p.value,
                )
            )
        return rows

    def scores_csv(self) -> str:
        """The scores of every speaker before every target, as CSV text."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["attack", "unit", "r", "target", "speaker", "label", "score", "decision"])
        for (name, r), audit in self.audits.items():
            labels = np.where(audit.members, "member", "non-member")
            for row in zip(audit.targets, audit.speakers, labels, audit.scores, audit.decisions, strict=True):
                writer.writerow([name, "speaker before target", r, *row])
        return out.getvalue()

    def _shared(self, r: float, attack: str) -> dict[str, Any]:
        settings, defended = self.settings, self.settings.training.dp is not None
        knows = None if not defended else "static" if attack.endswith(STATIC) else "adaptive"
        return {
            "target": settings.training.encoder,
            "protocol": SWAPPED,
            "seeds": tuple(run.seed for run in self.runs or (self,)),
            "defense": NAME if defended else None,
            "attacker": knows,
            "conditions": {"private": settings.corpus, "r": r, "voices": settings.voices, "access": settings.access},
        }

    def table(self) -> str:
        """One line for each attack and ratio."""
        s, eer = self.settings, self.utility
        kind = s.training.encoder if s.shadow is None else f"{s.training.encoder} (shadows {s.shadow.encoder})"
        targets = 4 * s.swaps * len(self.runs or (self,))
        what = f"{s.corpus}: {kind}, {s.training.loss}, {targets} targets, {s.voices} voices a speaker"
        errors = f"EER {eer['eer_members']:.3f} on members' unseen voices, {eer['eer_nonmembers']:.3f} on non-members"
        heads = f"{'r':<6}{'attack':<28}{'AUC':<24}{'accuracy':<24}{'TPR at FPR .01':<24}"
        promised = "; ".join(_told(promise) for promise in self.privacy)
        lines = [f"{what}; {errors}", *([promised] if promised else []), f"{heads}TPR, FPR at shadows' {s.fpr:g}"]
        for (name, r), audit in self.audits.items():
            at = self.at_threshold.get((name, r))
            rates = "unresolved" if at is None else f"{at.rates()[0].value:.3f}, {at.rates()[1].value:.3f}"
            tpr = str(audit.tpr_at_fpr(0.01))
            lines.append(f"{r:<6g}{name:<28}{audit.auc()!s:<24}{audit.accuracy()!s:<24}{tpr:<24}{rates}")
        if self.reduced:
            lines.append(f"\n{s.attacks[0]} with fewer queries\n{'r':<6}{'sent to a target':<52}{'voices':<10}AUC")
        for (budget, r), audit in self.reduced.items():
            sent = budget.sent(self.candidates, self.imposters)
            lines.append(f"{r:<6g}{budget!s:<52}{sent:<10}{audit.auc()}")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write what several runs are merged from to an .npz file, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {}
        told: list[dict[str, Any]] = []
        for part in ("audits", "at_threshold", "reduced"):
            for (key, r), audit in getattr(self, part).items():
                arrays |= {f"{len(told)}/{field}": getattr(audit, field) for field in _ROWS}
                named = {"name": audit.name, "budget": asdict(key) if isinstance(key, Budget) else None}
                told.append({"part": part, "r": r, "confidence": audit.confidence, **named})
        facts = {name: getattr(self, name) for name in _FACTS}
        facts["privacy"] = [promise.to_dict() for promise in self.privacy]
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            np.savez(file, told=np.array(json.dumps([told, jsonable(facts)])), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path, settings: SpeakerMembership) -> SpeakerMembershipResult:
        """Read what `save` wrote, of a run with these settings."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        told, facts = json.loads(str(arrays["told"]))
        parts: dict[str, Any] = {"audits": {}, "at_threshold": {}, "reduced": {}}
        for number, entry in enumerate(told):
            rows = {field: arrays[f"{number}/{field}"] for field in _ROWS}
            key = entry["name"] if entry["budget"] is None else Budget(**entry["budget"])
            audit = SwappedAudit(**rows, name=entry["name"], confidence=entry["confidence"])
            parts[entry["part"]][key, entry["r"]] = audit
        facts["privacy"] = tuple(Privacy.from_dict(row) for row in facts["privacy"])
        facts["excluded"] = tuple((name, why) for name, why in facts["excluded"])
        return cls(**parts, **facts, settings=settings)


def budget_conditions(budget: Budget, candidates: int, imposters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what a claim says of a trial with fewer queries.

    Parameters
    ----------
    budget : Budget
    candidates : int
        Voices of candidates that are sent.
    imposters : mapping of str to sequence of str
        Ids of the imposters' voices.
    """
    return {
        "voices": budget.voices,
        "imposters": budget.imposters,
        "imposter_voices": budget.imposter_voices,
        "grouped": budget.grouped,
        "queries": candidates + budget.sent(0, imposters),
        "scores_a_candidate": budget.scores(imposters),
    }


def merged(runs: Sequence[SpeakerMembershipResult]) -> SpeakerMembershipResult:
    """Merge runs that differ in their seed: each has targets of its own, and a speaker is one unit over all of them.

    Parameters
    ----------
    runs : sequence of SpeakerMembershipResult

    Returns
    -------
    SpeakerMembershipResult
        Its AUCs are means over all targets; what some run lacks (a threshold that its shadows were too few for) is left
        out.
    """
    parts: dict[str, Any] = {}
    for part in ("audits", "at_threshold", "reduced"):
        held: list[Mapping[tuple[Any, float], SwappedAudit]] = [getattr(run, part) for run in runs]
        parts[part] = {key: _joined([of[key] for of in held]) for key in held[0] if all(key in of for of in held)}
    utility = {key: float(np.mean([run.utility[key] for run in runs])) for key in runs[0].utility}
    excluded = tuple(dict.fromkeys(pair for run in runs for pair in run.excluded))
    promises = zip(*(run.privacy for run in runs), strict=True)
    privacy = tuple(max(same, key=lambda p: _epsilon_of(p)) for same in promises)
    return replace(runs[0], **parts, utility=utility, excluded=excluded, privacy=privacy, runs=tuple(runs))


def _joined(audits: Sequence[SwappedAudit]) -> SwappedAudit:
    first = audits[0]
    rows = {field: np.concatenate([getattr(audit, field) for audit in audits]) for field in _ROWS}
    rows["targets"] = np.concatenate(
        [np.char.add(f"{number}/", audit.targets.astype(str)) for number, audit in enumerate(audits)]
    )
    return SwappedAudit(**rows, name=first.name, confidence=first.confidence)


def _epsilon_of(promise: Privacy) -> float:
    return math.inf if promise.epsilon_accountant is None else promise.epsilon_accountant


def _told(promise: Privacy) -> str:
    epsilon = _epsilon_of(promise)
    many = promise.conditions.get("voices_of_a_speaker")
    whose = promise.unit if many is None else f"{promise.unit} of {many} recordings"
    return f"{promise.mechanism}: epsilon {epsilon:.3g} for one {whose} (delta {promise.delta:g})"
