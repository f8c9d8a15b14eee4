"""How much speech trains the encoders of a design: an equal part of either half, so that roles stay swapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fl_privacy.attacks.membership.ssl.design import EncoderDesign, PretrainedHalf
from fl_privacy.errors import UserError

FEWEST = 2
"""Speakers or utterances that train an encoder."""


def of_size(design: EncoderDesign, speakers: Mapping[str, str], training: int, seed: int) -> EncoderDesign:
    """Return a design whose encoders are trained on fewer speakers or utterances, the same number each.

    What is drawn from a half trains its encoder and is a non-member of the other half's; what is not drawn trains
    nothing and is not judged. A smaller number draws a part of what a larger one draws.

    Parameters
    ----------
    design : EncoderDesign
    speakers : mapping of str to str
        Of each utterance.
    training : int
        Split by speaker: speakers, with all of their utterances. Split by utterance: utterances that are sent to the
        encoder; as many of each speaker on either side, and none of those that are too short to be sent.
    seed : int

    Raises
    ------
    UserError
        For fewer than `FEWEST`, or more than a half has.
    """
    if training < FEWEST:
        raise UserError(f"protocol.training: {training} is too few; {FEWEST} or more, or 0 for all")
    draw = _speakers if design.split == "speaker" else _utterances
    found: list[PretrainedHalf] = []
    for number in range(0, len(design.encoders), 2):
        first, second = design.encoders[number : number + 2]
        one, other = draw(first, second, speakers, training, [seed, 6, number])
        found += [
            replace(first, members=one.members, nonmembers=other.members, unsent=one.unsent),
            replace(second, members=other.members, nonmembers=one.members, unsent=other.unsent),
        ]
    return replace(design, encoders=tuple(found))


def _speakers(
    first: PretrainedHalf, second: PretrainedHalf, speakers: Mapping[str, str], training: int, seed: Sequence[int]
) -> tuple[PretrainedHalf, PretrainedHalf]:
    def part(half: PretrainedHalf, side: int) -> PretrainedHalf:
        people = sorted({speakers[id] for id in half.members})
        _check(training, len(people), "speaker")
        order = np.random.default_rng([*seed, side]).permutation(len(people))
        drawn = {people[place] for place in order[:training]}

        def theirs(ids: Sequence[str]) -> tuple[str, ...]:
            return tuple(id for id in ids if speakers[id] in drawn)

        return replace(half, members=theirs(half.members), unsent=theirs(half.unsent))

    return part(first, 0), part(second, 1)


def _utterances(
    first: PretrainedHalf, second: PretrainedHalf, speakers: Mapping[str, str], training: int, seed: Sequence[int]
) -> tuple[PretrainedHalf, PretrainedHalf]:
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = []
    for name in sorted({speakers[id] for id in first.members}):
        # Chance parted a speaker's utterances, so that any of one side may stand beside any of the other.
        sides = [rng.permutation([id for id in half.members if speakers[id] == name]) for half in (first, second)]
        pairs += [(str(one), str(other)) for one, other in zip(*sides, strict=False)]
    _check(training, len(pairs), "utterance")
    drawn = [pairs[place] for place in rng.permutation(len(pairs))[:training]]
    one, other = (tuple(sorted(side)) for side in zip(*drawn, strict=True))
    return replace(first, members=one, unsent=()), replace(second, members=other, unsent=())


def _check(training: int, there: int, unit: str) -> None:
    if training > there:
        raise UserError(
            f"protocol.training: {training} {unit}s an encoder; a half has {there}. Lower it or protocol.auxiliary, or "
            f"give more speech"
        )
