"""Who is judged before an encoder that is there already, on which recordings, and who is the attacker's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fl_privacy.attacks.membership.ssl.matching import match_durations
from fl_privacy.errors import UserError
from fl_privacy.sims.ssl_given_settings import AUXILIARY, MEMBERS, NONMEMBERS, GivenMembership
from fl_privacy.sims.ssl_recordings import ALONE, Inputs, Recordings, too_short, usable_utterances

UNPAIRED = "no recording of the other side lasts as long"
"""Why a recording is left out where members and non-members are paired by duration."""


def refuse_speakers_on_both_sides(held: Recordings) -> None:
    """Refuse a speaker who is a member and something else."""
    sides: dict[str, set[str]] = {MEMBERS: set(), NONMEMBERS: set(), AUXILIARY: set()}
    for name in set(held.speakers.values()):
        side, _, speaker = name.partition("/")
        sides[f"{side}/"].add(speaker)
    both = sorted(sides[MEMBERS] & sides[NONMEMBERS])
    if both:
        raise UserError(f"speaker {both[0]!r} is among the members and among the non-members")
    known = sorted(sides[AUXILIARY] & sides[MEMBERS])
    if known:
        raise UserError(f"auxiliary: speaker {known[0]!r} is a member; the attacker owns other people's speech")


def chosen(
    held: Recordings, side: str, inputs: Inputs, settings: GivenMembership, left_out: dict[str, str]
) -> dict[str, list[str]]:
    """Return the ids of each speaker's recordings on one side, as many as the settings say; note who is left out."""
    usable, lost = usable_utterances(held, inputs, decode=False, side=side)
    left_out |= lost
    if not settings.per_speaker:
        return usable
    found = {}
    for number, name in enumerate(sorted(usable)):
        rng = np.random.default_rng([settings.seed, 4, number])
        ids = sorted(usable[name])
        found[name] = sorted(ids[place] for place in rng.permutation(len(ids))[: max(settings.per_speaker, 2)])
    return found


def parted(
    sides: Mapping[str, dict[str, list[str]]], settings: GivenMembership, left_out: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, list[str]], dict[str, dict[str, list[str]]]]:
    """Return the attacker's own speakers, and those who are judged."""
    judged = {side: sides[side] for side in (MEMBERS, NONMEMBERS)}
    theirs = AUXILIARY if settings.auxiliary is not None else NONMEMBERS
    needed = dict.fromkeys(sides, 2) | {theirs: 4 if theirs == AUXILIARY else 8}
    for side, people in sides.items():
        if len(people) < needed[side]:
            half = side == theirs == NONMEMBERS
            why = "; half of them are the attacker's own, who needs four" if half else ""
            raise UserError(
                f"{side.rstrip('/')}: {len(people)} speakers with two usable recordings"
                f"{too_short(left_out[side], settings.inputs)}{why}: give {needed[side]} or more"
                f"{', or [auxiliary]' if half else ''}"
            )
    if settings.auxiliary is not None:
        return sides[AUXILIARY], judged
    names = sorted(judged[NONMEMBERS])
    order = [names[place] for place in np.random.default_rng([settings.seed, 5]).permutation(len(names))]
    cut = max(4, len(order) // 2)
    own = {name: judged[NONMEMBERS][name] for name in sorted(order[:cut])}
    return own, {MEMBERS: judged[MEMBERS], NONMEMBERS: {name: judged[NONMEMBERS][name] for name in sorted(order[cut:])}}


def matched(
    held: Recordings,
    judged: Mapping[str, dict[str, list[str]]],
    settings: GivenMembership,
    left_out: Mapping[str, dict[str, str]],
) -> dict[str, dict[str, list[str]]]:
    """Return, of members and non-members, recordings in pairs of one duration; note who is left out."""
    flat = {side: [id for ids in people.values() for id in ids] for side, people in judged.items()}
    seconds = {side: [held.seconds(id) for id in ids] for side, ids in flat.items()}
    kept = match_durations(seconds[MEMBERS], seconds[NONMEMBERS], settings.match, settings.seed)
    found = {}
    for side, numbers in zip((MEMBERS, NONMEMBERS), kept, strict=True):
        chosen = {flat[side][number] for number in numbers}
        left_out[side] |= {id: UNPAIRED for id in flat[side] if id not in chosen}
        people = {name: [id for id in ids if id in chosen] for name, ids in judged[side].items()}
        left_out[side] |= {ids[0]: ALONE for ids in people.values() if len(ids) == 1}
        found[side] = {name: ids for name, ids in people.items() if len(ids) > 1}
    return found
