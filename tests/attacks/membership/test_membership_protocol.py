"""Who trains what, and which voices are heard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.attacks.membership.protocol import Voices, chunks, split_voices, swap_design
from fl_privacy.errors import UserError


@settings(deadline=None, max_examples=50)
@given(st.integers(9, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_five_disjoint_sets_for_every_target(people, imposters, pairs, seed):
    names = [f"p{i}" for i in range(people)]
    if (people - imposters) // 4 < 2:
        return
    design = swap_design(names, imposters, pairs, seed)
    assert len(design.recognisers) == 4 * pairs and len(design.imposters) >= imposters
    roles = {name: [0, 0] for name in names}
    for number, target in enumerate(design.recognisers):
        assert len(target.members) == len(target.nonmembers)
        for name in target.speakers:
            roles[name][name in target.nonmembers] += 1
        shadows = design.shadows(number)
        assert len(shadows) == 2 * pairs
        for shadow in shadows:
            sets = [
                target.members,
                target.nonmembers,
                *(design.recognisers[shadow].members,),
                design.recognisers[shadow].nonmembers,
                design.imposters,
            ]
            assert len(set().union(*sets)) == sum(map(len, sets)) == people
    for name, (member, nonmember) in roles.items():
        assert (member, nonmember) == ((0, 0) if name in design.imposters else (pairs, pairs))
    for one, other in zip(design.recognisers[::2], design.recognisers[1::2], strict=True):
        assert one.members == other.nonmembers and one.nonmembers == other.members


def test_designs_are_drawn_by_their_seed():
    names = [f"p{i}" for i in range(40)]
    assert swap_design(names, 4, 2, 1) == swap_design(names[::-1], 4, 2, 1)
    assert swap_design(names, 4, 2, 1) != swap_design(names, 4, 2, 2)


def test_too_few_speakers_for_a_design():
    with pytest.raises(UserError, match="8 speakers, 2 of them imposters: too few"):
        swap_design([f"p{i}" for i in range(8)], 2, 1, 0)
    with pytest.raises(UserError, match="an imposter and a swap"):
        swap_design([f"p{i}" for i in range(80)], 0, 1, 0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.integers(1, 12), st.integers(0, 99))
def test_a_draw_keeps_its_mixing_ratio(old, new, r, n, seed):
    voices = Voices(tuple(f"o{i}" for i in range(old)), tuple(f"n{i}" for i in range(new)))
    drawn = voices.draw(r, n, np.random.default_rng(seed))
    assert len(set(drawn)) == len(drawn) <= n
    from_old = sum(name.startswith("o") for name in drawn)
    if len(drawn) > 1:
        assert from_old == round(r * len(drawn))
    if round(r * n) <= old and n - round(r * n) <= new:
        assert len(drawn) == n


def test_a_draw_says_what_is_wrong():
    with pytest.raises(UserError, match=r"r must lie in \[0, 1\]"):
        Voices(("a",), ("b",)).draw(1.5, 2, np.random.default_rng(0))


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1), st.integers(0, 99))
def test_voices_are_halved(counts, seed):
    voices = {name: [f"{name}{i}" for i in range(n)] for name, n in counts.items()}
    for name, part in split_voices(voices, seed).items():
        assert sorted(part.trained + part.unseen) == sorted(voices[name])
        assert len(part.trained) == -(-len(voices[name]) // 2)


def test_a_session_is_on_one_side():
    ids = [f"v{i}" for i in range(12)]
    sessions = {name: f"s{i // 3}" for i, name in enumerate(ids)}
    seen = set()
    for seed in range(20):
        part = split_voices({"a": ids}, seed, sessions)["a"]
        assert not {sessions[v] for v in part.trained} & {sessions[v] for v in part.unseen}
        assert len(part.trained) == len(part.unseen) == 6
        seen.add(frozenset(sessions[v] for v in part.trained))
    assert len(seen) > 3
    alone = split_voices({"a": ids}, 1, dict.fromkeys(ids, "one"))["a"]
    assert len(alone.trained) == len(alone.unseen) == 6


def published_chunks(frames, length):
    """Starts of chunks by the public code's rule: half overlapping; the last where 75 % of it is covered."""
    starts = [0]
    while starts[-1] + length < frames:
        start = starts[-1] + length // 2
        if min(frames, start + length) - start < 0.75 * length:
            break
        starts.append(start)
    return starts


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 60), st.sampled_from([4, 8, 16]))
def test_chunks_follow_the_published_rule(frames, length):
    wave = np.arange(frames * 160, dtype=np.float32)
    found = chunks(wave, length)
    assert [int(chunk[0]) // 160 for chunk in found] == published_chunks(frames, length)
    assert all(len(chunk) == length * 160 for chunk in found[:-1])
    padded = chunks(wave, length, pad=True)
    assert len(padded) == len(found) and {len(chunk) for chunk in padded} == {length * 160}
    np.testing.assert_array_equal(padded[-1][: len(found[-1])], found[-1])
    assert not padded[-1][len(found[-1]) :].any()
