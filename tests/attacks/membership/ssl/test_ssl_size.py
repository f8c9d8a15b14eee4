"""Encoders that are trained on less: still in swapped roles, equally many each, and a part of what more would be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fl_privacy.attacks.membership.ssl.design import EncoderDesign, encoder_design
from fl_privacy.attacks.membership.ssl.size import of_size
from fl_privacy.errors import UserError

PEOPLE = {f"p{n:02d}": [f"p{n:02d}-{k}" for k in range(4 + n % 4)] for n in range(24)}
SHORT = {name: [f"{name}-s"] for name in PEOPLE}
SPEAKERS = {id: name for held in (PEOPLE, SHORT) for name, ids in held.items() for id in ids}


def drawn(split: str, training: int) -> tuple[EncoderDesign, EncoderDesign]:
    whole = encoder_design(PEOPLE, split, 4, 2, 7, SHORT)
    return whole, of_size(whole, SPEAKERS, training, 7)


@pytest.mark.parametrize("split", ["speaker", "utterance"])
def test_roles_stay_swapped_and_the_attackers_own_speech_is_untouched(split: str) -> None:
    whole, part = drawn(split, 3)
    assert part.auxiliary == whole.auxiliary and len(part.encoders) == len(whole.encoders) == 8
    assert part == drawn(split, 3)[1]
    for number, (half, before) in enumerate(zip(part.encoders, whole.encoders, strict=True)):
        other = part.encoders[number ^ 1]
        assert (half.members, half.nonmembers) == (other.nonmembers, other.members)
        assert {*half.heard} < {*before.heard} and half.pool == before.pool


def test_a_number_of_speakers_comes_with_all_they_said() -> None:
    _, part = drawn("speaker", 3)
    for half in part.encoders:
        names = {SPEAKERS[id] for id in half.members}
        assert len(names) == 3 and {*half.members} == {id for name in names for id in PEOPLE[name]}
        assert {*half.unsent} == {id for name in names for id in SHORT[name]}
    assert part.encoders[0].members != part.encoders[2].members, "each halving is drawn from by itself"


def test_a_number_of_utterances_has_as_many_of_each_speaker_on_either_side() -> None:
    _, part = drawn("utterance", 9)
    for half in part.encoders:
        assert len(half.members) == len(half.nonmembers) == 9 and half.unsent == ()
        mine, theirs = (sorted(SPEAKERS[id] for id in side) for side in (half.members, half.nonmembers))
        assert mine == theirs


@pytest.mark.parametrize(("split", "sizes"), [("speaker", (2, 3, 5)), ("utterance", (2, 9, 20))])
def test_less_speech_is_a_part_of_more(split: str, sizes: tuple[int, ...]) -> None:
    designs = [drawn(split, size)[1] for size in sizes]
    for less, more in pairwise(designs):
        for one, other in zip(less.encoders, more.encoders, strict=True):
            assert {*one.members} < {*other.members}


@pytest.mark.parametrize(
    ("split", "training", "message"),
    [
        ("speaker", 6, "6 speakers an encoder; a half has 5"),
        ("utterance", 999, r"999 utterances an encoder; a half has \d\d\. Lower it"),
        ("speaker", 1, "1 is too few; 2 or more, or 0 for all"),
    ],
)
def test_sizes_that_cannot_be_are_refused(split: str, training: int, message: str) -> None:
    with pytest.raises(UserError, match=f"protocol.training: {message}"):
        drawn(split, training)
