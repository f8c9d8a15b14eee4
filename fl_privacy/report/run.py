"""What a report is made of: a run's claims, controls and scores, looked up by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from fl_privacy.audit import Claim, Control, Privacy, metrics
from fl_privacy.audit.files import SCHEMA
from fl_privacy.audit.reading import guessing, main_claims, over_blind, quoted_metric
from fl_privacy.errors import UserError
from fl_privacy.report.rows import Floats, SpeakerScore, mean_auc, read_rows, scores_of

C = TypeVar("C", bound=Claim)

RATIO = "r"
"""Condition of a membership claim: the share of the voices heard that were trained on, where they were."""

PERMUTATIONS = {
    "permuted-auxiliary-labels": "attacker's own speakers",
    "permuted-private-labels": "private speakers",
}
"""Permutation controls and whose labels they permute."""

# What XML 1.0 cannot hold; a name in a user's file may have it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Run:
    """A result.json and a scores.csv, read.

    Attributes
    ----------
    result : mapping
        As in result.json, text made printable.
    claims : tuple of Claim
    controls : tuple of Control
    scores : mapping of str to tuple of SpeakerScore
        By attack or blind baseline, of the unit and at the mixing ratio of the headline; with swapped roles one for
        each target that a speaker was judged before.
    """

    result: Mapping[str, Any]
    claims: tuple[Claim, ...]
    controls: tuple[Control, ...]
    scores: Mapping[str, tuple[SpeakerScore, ...]]

    @classmethod
    def of(cls, result: Mapping[str, Any], scores: Iterable[Mapping[str, str]]) -> Run:
        """Read both parts.

        Parameters
        ----------
        result : mapping
            Content of a result.json.
        scores : iterable of mapping
            Rows of a scores.csv; see `fl_privacy.report.rows.read_rows`.

        Raises
        ------
        UserError
            For another schema, or rows that are not what they should be.
        """
        if result.get("schema") != SCHEMA:
            raise UserError(
                f"result.json is of schema {result.get('schema')!r}, this version reads {SCHEMA}: "
                "use the fl-privacy that made it, or run again"
            )
        clean = printable(result)
        run = cls(
            clean,
            tuple(Claim.from_dict(row) for row in clean.get("claims") or ()),
            tuple(Control.from_dict(row) for row in clean.get("controls") or ()),
            {},
        )
        return replace(run, scores=read_rows(printable(list(scores)), run.unit, run.ratio))

    @cached_property
    def privacy(self) -> tuple[Privacy, ...]:
        """What defenses promise, and what canaries show of it."""
        return tuple(Privacy.from_dict(row) for row in self.result.get("privacy") or ())

    def part(self, name: str) -> Mapping[str, Any]:
        """Return a part of the result that is a mapping, empty where there is none."""
        return self.result.get(name) or {}

    @cached_property
    def main(self) -> tuple[Claim, ...]:
        """Claims on all of the evidence under the controlled protocol; the other claims have sections of their own."""
        return tuple(self._of_first_ratio(main_claims(self.claims)))

    @cached_property
    def main_controls(self) -> tuple[Control, ...]:
        """What `main` is held against."""
        return tuple(self._of_first_ratio(main_claims(self.controls)))

    @cached_property
    def ratio(self) -> float | None:
        """The mixing ratio that a run of speaker membership names first: that of the headline."""
        return next((c.conditions[RATIO] for c in self.claims if RATIO in c.conditions), None)

    def _of_first_ratio(self, claims: Sequence[C]) -> list[C]:
        """Of speaker membership, claims at the mixing ratio of the headline; of all else, all."""
        return [c for c in claims if c.conditions.get(RATIO) == self.ratio]

    @cached_property
    def unit(self) -> str:
        """What the headline is about: "speaker", or "utterance" where the run says nothing of speakers."""
        told = {claim.unit for claim in self.main}
        return "utterance" if "utterance" in told and "speaker" not in told else "speaker"

    @cached_property
    def metric(self) -> str:
        """The metric that is quoted: "auc", "uar" (more than two classes) or "correlation" (a numeric attribute)."""
        return quoted_metric(self.main or self.claims)

    @property
    def over_blind(self) -> str:
        """The metric of the difference to the best blind baseline."""
        return over_blind(self.metric)

    @property
    def guessing(self) -> float | None:
        """What guessing gets of the quoted metric."""
        return guessing(self.metric, self.main_controls)

    @cached_property
    def primary(self) -> str | None:
        """The attack whose claim is the headline: the one marked, else the first; None without claims."""
        claims = self.main or self.claims
        marked = [c.attack for c in claims if c.primary] or [c.attack for c in claims]
        return marked[0] if marked else None

    @property
    def attacks(self) -> list[str]:
        """Attacks in the order of the run, the primary one first."""
        return sorted(dict.fromkeys(c.attack for c in self.main), key=lambda name: name != self.primary)

    @property
    def baselines(self) -> list[str]:
        """Controls that are attackers of their own: blind baselines and the majority."""
        return list(dict.fromkeys(c.control for c in self.main_controls if c.control not in PERMUTATIONS))

    def claim(self, attack: str | None, metric: str) -> Claim | None:
        """Return an attack's claim on the unit of the headline."""
        return next((c for c in self.main if (c.attack, c.unit, c.metric) == (attack, self.unit, metric)), None)

    def quoted(self, attack: str | None) -> Claim | None:
        """Return the claim to quote of an attack."""
        return self.claim(attack, self.metric)

    def baseline(self, name: str | None, metric: str) -> Control | None:
        """Return a baseline's number."""
        wanted = (name, self.unit, metric)
        return next((c for c in self.main_controls if (c.control, c.unit, c.metric) == wanted), None)

    def permuted(self, attack: str | None, name: str) -> Control | None:
        """Return an attack's quoted metric under permuted labels."""
        wanted = (name, attack, self.unit, self.metric)
        return next((c for c in self.main_controls if (c.control, c.of, c.unit, c.metric) == wanted), None)

    @property
    def best_blind(self) -> str | None:
        """The blind baseline that the primary attack is held against; "chance" for guessing."""
        over = self.claim(self.primary, self.over_blind)
        best = over.conditions.get("best_blind") if over else None
        return None if best is None else str(best)

    @property
    def useful(self) -> tuple[str, float | None]:
        """What says how good the target is at its task, more being better, and how much of it there is.

        Of a speaker recogniser one minus the equal error rate on people whom it was not trained on: its users. Of a
        frame encoder minus the pre-training loss on recordings that it was not trained on.
        """
        part = self.part("utility")
        if part.get("eer_nonmembers") is not None:
            return "1 \N{MINUS SIGN} EER", 1.0 - float(part["eer_nonmembers"])
        if part.get("loss_nonmembers") is not None:
            return "\N{MINUS SIGN}loss", -float(part["loss_nonmembers"])
        return "UAR", part.get("uar")

    @cached_property
    def classes(self) -> tuple[str, str] | None:
        """The negative and the positive label; None where the scores do not tell.

        As in an audit, the positive one is what the simulation names or what sorts last; a claim that only the other
        reading gives overrules that.
        """
        mine = self.scores.get(self.primary or "", ())
        labels = sorted({s.label for s in mine})
        if len(labels) != 2:
            return None
        low, high = labels
        named = (self.part("simulation").get("private") or {}).get("positive")
        orders = [(high, low), (low, high)] if named == low else [(low, high), (high, low)]
        told = self.claim(self.primary, "auc")
        if told is None or told.value is None:
            return orders[0]
        for negative, positive in orders:
            found = mean_auc(mine, negative, positive)
            if found is not None and math.isclose(found, told.value, abs_tol=1e-9):
                return negative, positive
        return None

    @cached_property
    def targets(self) -> int:
        """How many targets the primary attack was judged before; 0 where its scores are not told by target."""
        return len({s.target for s in self.scores.get(self.primary or "", ())} - {""})

    def split(self, attack: str | None) -> tuple[Floats, Floats] | None:
        """Scores of the negative and the positive rows; None where they are not told apart."""
        mine = self.scores.get(attack or "")
        if mine is None or self.classes is None or {s.label for s in mine} != set(self.classes):
            return None
        return scores_of(mine, self.classes[0]), scores_of(mine, self.classes[1])

    def roc(self, attack: str | None) -> tuple[Floats, Floats] | None:
        """False and true positive rates from (0, 0) to (1, 1), over all rows at one threshold."""
        split = self.split(attack)
        return None if split is None else metrics.roc(split[1], split[0])


def printable(value: Any) -> Any:
    """Return a value with what XML cannot hold replaced in every text of it."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return value
