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
    """

    pool: int
    members: tuple[str, ...]
    nonmembers: tuple[str, ...]


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
    utterances: Mapping[str, Sequence[str]], split: str, auxiliary: int, swaps: int, seed: int
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

    Raises
    ------
    UserError
        For another split, or where there are too few speakers, or utterances of one.
    """
    if split not in SPLITS:
        raise UserError(f"protocol.split: {split!r} is none of {', '.join(SPLITS)}")
    drawn = swap_design(tuple(utterances), auxiliary, swaps if split == "speaker" else 1, seed)
    if split == "speaker":
        halves = [
            PretrainedHalf(one.pool, _of(utterances, one.members), _of(utterances, one.nonmembers))
            for one in drawn.recognisers
        ]
        return EncoderDesign(split, drawn.imposters, tuple(halves))
    found: list[PretrainedHalf] = []
    for pool in (0, 1):
        for swap in range(swaps):
            sides: tuple[list[str], list[str]] = ([], [])
            for number, speaker in enumerate(drawn.speakers(pool)):
                ids = sorted(utterances[speaker])
                if len(ids) < 2:
                    raise UserError(f"speaker {speaker!r} has one utterance; a split by utterance takes two of each")
                rng = np.random.default_rng([seed, 3, pool, swap, number])
                order = [ids[place] for place in rng.permutation(len(ids))]
                # Of an odd number the one that is over goes to either side in turn.
                cut = (len(order) + (number + swap) % 2) // 2
                sides[0].extend(order[:cut])
                sides[1].extend(order[cut:])
            first, second = (tuple(sorted(side)) for side in sides)
            found += [PretrainedHalf(pool, first, second), PretrainedHalf(pool, second, first)]
    return EncoderDesign(split, drawn.imposters, tuple(found))


def _of(utterances: Mapping[str, Sequence[str]], speakers: Sequence[str]) -> tuple[str, ...]:
    return tuple(id for speaker in speakers for id in sorted(utterances[speaker]))
