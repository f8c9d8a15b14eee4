"""Every attack on every target of a design, held against what never asks the target, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.ssl.attacks import FrameAttack, frame_attacks, loss_of, statistic
from fl_privacy.attacks.membership.ssl.design import EncoderDesign
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.audit import SwappedAudit
from fl_privacy.sims.ssl_result import Reading, Rows, standardised_mean, through

Floats = NDArray[np.float64]

Units = Mapping[str, Sequence[str]]
"""The utterances of each speaker or utterance that is attacked."""
Score = Callable[[int, Units], Floats]
"""Scores of units before a target, by its number."""


@dataclass(frozen=True)
class Seen:
    """What there is to attack, and what attacks are held against.

    Attributes
    ----------
    design : EncoderDesign
        Who is a member of which target; all its utterances are in every look.
    speakers : mapping of str to str
        Of each utterance.
    seconds : mapping of str to float
        How long each utterance is, as far as an attacker may see.
    looks : sequence of Look
        Of each target.
    log_mel : Look
        Of log-mel frames.
    untrained : sequence of Look
        Of networks that were never trained.
    wrong : sequence of Look
        For each target, of an encoder that other people's speech trained; empty where there is none.
    references : sequence of Look
        Of encoders that none of the candidates trained; by default those of the design.
    """

    design: EncoderDesign
    speakers: Mapping[str, str]
    seconds: Mapping[str, float]
    looks: Sequence[Look]
    log_mel: Look
    untrained: Sequence[Look] = ()
    wrong: Sequence[Look] = ()
    references: Sequence[Look] = ()


def read(
    seen: Seen,
    attacks: Sequence[str],
    units: Sequence[str],
    layer: int,
    confidence: float,
    shared: Mapping[str, Any],
    *,
    controlled: int = 1,
    sweep: bool = True,
    further: Mapping[tuple[str, str], Score] | None = None,
) -> Reading:
    """Attack every target, and hold the attacks against controls on the same rows.

    Parameters
    ----------
    seen : Seen
    attacks : sequence of str
        Names out of `fl_privacy.attacks.membership.ssl.attacks.frame_attacks`, the primary one first.
    units : sequence of str
        What is attacked.
    layer : int
        Whose frames.
    confidence : float
    shared : mapping
        Fields of every claim.
    controlled : int
        With the statistics of how many of the attacks log-mel frames and other encoders are asked. With swapped roles
        they get one half whatever the statistic is: the first one's will do.
    sweep : bool
        Whether the basic attacks are made on every layer too.
    further : mapping of (str, str) to callable, optional
        Further controls, by name and unit.
    """
    known = frame_attacks()

    def gathered(name: str, unit: str, score: Score) -> SwappedAudit:
        rows = Rows()
        for target, half in enumerate(seen.design.encoders):
            members = frozenset(half.members)
            groups = units_of([*half.members, *half.nonmembers], seen.speakers, unit)
            speakers = [seen.speakers[ids[0]] for ids in groups.values()]
            roles = np.array([ids[0] in members for ids in groups.values()])
            rows.add(score(target, groups), roles, list(groups), speakers, target)
        return rows.audit(name, unit, confidence)

    def attacked(attack: FrameAttack, unit: str, layer: int) -> Score:
        def score(target: int, groups: Units) -> Floats:
            references = seen.references or [seen.looks[number] for number in seen.design.references(target)]
            return attack.scores(seen.looks[target], references, groups, unit, layer)

        return score

    audits = {
        (name, unit): gathered(name, unit, attacked(known[name], unit, layer)) for name in attacks for unit in units
    }
    depth = seen.looks[0].basic.shape[1]
    layers = {
        (name, unit, number): gathered(name, unit, attacked(known[name], unit, number))
        for name in attacks
        for unit in units
        for number in range(depth)
        if sweep and depth > 1 and known[name].statistic == "basic"
    }
    found: dict[tuple[str, str], Score] = {("duration", unit): _lasting(seen) for unit in units}
    details: dict[tuple[str, str], Mapping[str, Any]] = {}
    for number, name in enumerate(attacks[:controlled]):
        for unit in units:
            for control, score in _before_others(seen, known[name], unit, layer).items():
                if number and control == "log-mel-frames" and known[name].grey_box:
                    continue  # no loss there: it stands by `basic` already
                found[control if number == 0 else through(control, name), unit] = score
            if seen.untrained:
                control = "random-encoder" if number == 0 else through("random-encoder", name)
                what = _without_target(known[name], seen.untrained)
                alone = [gathered(control, unit, _under([look], what, unit, layer)) for look in seen.untrained]
                each = [audit.auc().value or 0.0 for audit in alone]
                spread = {"networks": len(each), "lowest_network": min(each), "highest_network": max(each)}
                details[control, unit] = spread
    blind = {(name, unit): gathered(name, unit, score) for (name, unit), score in (found | dict(further or {})).items()}
    return Reading(audits, blind, layers, shared, details)


def _without_target(attack: FrameAttack, looks: Sequence[Look]) -> str:
    """Return an attack's statistic before networks that are not the target, or "basic" where they have no such loss."""
    has = not attack.grey_box or all(np.isfinite(loss_of(look, attack.statistic)).any() for look in looks)
    return attack.statistic if has else "basic"


def _before_others(seen: Seen, attack: FrameAttack, unit: str, layer: int) -> dict[str, Score]:
    """An attack's statistic where the target is not asked, by control."""
    found = {"log-mel-frames": _under([seen.log_mel], _without_target(attack, [seen.log_mel]), unit, -1)}
    if seen.untrained:
        found["random-encoder"] = _under(seen.untrained, _without_target(attack, seen.untrained), unit, layer)
    if seen.wrong:
        found["wrong-encoder"] = lambda target, groups: statistic(
            attack.statistic, seen.wrong[target], groups, unit, layer
        )
    return found


def _under(looks: Sequence[Look], what: str, unit: str, layer: int) -> Score:
    """A statistic that is the same for every target, averaged over encoders."""

    def score(_: int, groups: Units) -> Floats:
        found = [statistic(what, look, groups, unit, layer) for look in looks]
        return standardised_mean(found) if len(found) > 1 else found[0]

    return score


def _lasting(seen: Seen) -> Score:
    # Rounded: the mean of three times 0.4 lies an ulp above that of four times, which would tell who has how many.
    return lambda _, groups: np.array([round(np.mean([seen.seconds[id] for id in ids]), 9) for ids in groups.values()])


def units_of(ids: Sequence[str], speakers: Mapping[str, str], unit: str) -> dict[str, tuple[str, ...]]:
    """Return the utterances of each unit: one each, or all of a speaker's."""
    if unit == "utterance":
        return {id: (id,) for id in ids}
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(speakers[id], []).append(id)
    return {name: tuple(mine) for name, mine in found.items()}
