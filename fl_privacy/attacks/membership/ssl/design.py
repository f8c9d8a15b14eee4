"""Who pre-trains which encoder: one corpus parted at random, by speaker or by utterance, with swapped roles.

Some speakers are the attacker's own and train nothing. The others are parted into two pools, each pool is parted into
two halves several times, and each half trains an encoder. What is a member of one is a non-member of the other, so that
nothing about an utterance or a speaker alone says which. The encoders of the other pool know neither: they are the
references that calibrated scores are held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fl_privacy.attacks.membership.protocol import swap_design
from fl_privacy.errors import UserError

SPLITS = ("speaker", "utterance")


@dataclass(frozen=True, slots=True)
class PretrainedHalf:
    """One encoder of a design.

    Attributes
    ----------
    pool : int
    members, nonmembers : tuple of str
        Ids of the utterances that pre-train it, and of those that pre-train the other half's encoder.
    unsent : tuple of str
        Ids of further utterances that pre-train it, but are too short to be sent: no attack is judged on them.
    """

    pool: int
    members: tuple[str, ...]
    nonmembers: tuple[str, ...]
    unsent: tuple[str, ...] = ()

    @property
    def heard(self) -> tuple[str, ...]:
        """All utterances that pre-train it."""
        return (*self.members, *self.unsent)


@dataclass(frozen=True, slots=True)
class EncoderDesign:
    """Utterances in their roles.

    Attributes
    ----------
    split : str
        "speaker": all utterances of a speaker are on one side; "utterance": half of them is on either.
    auxiliary : tuple of str
        Speakers who train no encoder, known to the attacker.
    encoders : tuple of PretrainedHalf
        Each the target once; two in a row have each other's members as non-members.
    """

    split: str
    auxiliary: tuple[str, ...]
    encoders: tuple[PretrainedHalf, ...]

    def references(self, target: int) -> tuple[int, ...]:
        """Numbers of the encoders that none of a target's candidates trained."""
        pool = self.encoders[target].pool
        return tuple(number for number, other in enumerate(self.encoders) if other.pool != pool)

    def wrong_target(self, target: int) -> int:
        """Return the encoder that stands in a target's place as a control: the same for both of a pair."""
        others = self.references(target)
        return others[(target // 2 * 2) % len(others)]


def encoder_design(
    utterances: Mapping[str, Sequence[str]],
    split: str,
    auxiliary: int,
    swaps: int,
    seed: int,
    unsent: Mapping[str, Sequence[str]] | None = None,
) -> EncoderDesign:
    """Draw a design.

    Parameters
    ----------
    utterances : mapping of str to sequence of str
        Ids by speaker.
    split : str
        One of `SPLITS`.
    auxiliary : int
        Speakers, at least, who train no encoder.
    swaps : int
        How often each of the two pools is halved: 4 times as many encoders.
    seed : int
    unsent : mapping of str to sequence of str, optional
        Further ids of these speakers, which pre-train encoders alone. They change nothing about who is where.

    Raises
    ------
    UserError
        For another split, or where there are too few speakers, or utterances of one.
    """
    if split not in SPLITS:
        raise UserError(f"protocol.split: {split!r} is none of {', '.join(SPLITS)}")
    drawn = swap_design(tuple(utterances), auxiliary, swaps if split == "speaker" else 1, seed)
    more = unsent or {}
    if split == "speaker":
        halves = [
            PretrainedHalf(
                one.pool, _of(utterances, one.members), _of(utterances, one.nonmembers), _of(more, one.members)
            )
            for one in drawn.recognisers
        ]
        return EncoderDesign(split, drawn.imposters, tuple(halves))
    found: list[PretrainedHalf] = []
    for pool in (0, 1):
        for swap in range(swaps):
            sides: tuple[list[str], list[str]] = ([], [])
            short: tuple[list[str], list[str]] = ([], [])
            for number, speaker in enumerate(drawn.speakers(pool)):
                if len(utterances[speaker]) < 2:
                    raise UserError(f"speaker {speaker!r} has one utterance; a split by utterance takes two of each")
                rng = np.random.default_rng([seed, 3, pool, swap, number])
                for ids, into in ((utterances[speaker], sides), (more.get(speaker, ()), short)):
                    for side, part in zip(into, _halved(ids, (number + swap) % 2, rng), strict=True):
                        side.extend(part)
            first, second = (tuple(sorted(side)) for side in sides)
            one, other = (tuple(sorted(side)) for side in short)
            found += [PretrainedHalf(pool, first, second, one), PretrainedHalf(pool, second, first, other)]
    return EncoderDesign(split, drawn.imposters, tuple(found))


def _halved(ids: Sequence[str], over: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Part ids at random; of an odd number the one that is over goes to the first side where `over` is 1."""
    mine = sorted(ids)
    order = [mine[place] for place in rng.permutation(len(mine))]
    cut = (len(order) + over) // 2
    return order[:cut], order[cut:]


def _of(utterances: Mapping[str, Sequence[str]], speakers: Sequence[str]) -> tuple[str, ...]:
    return tuple(id for speaker in speakers for id in sorted(utterances.get(speaker, ())))
