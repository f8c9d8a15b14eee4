"""The basic scores against the double sums that they stand for, and the improved attacks' networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_privacy.attacks.membership.ssl import pair_mean, speaker_score, utterance_score
from fl_privacy.attacks.membership.ssl.matching import match_durations
from fl_privacy.attacks.membership.ssl.pooling import AttentionPooling, SpeakerNet, UtteranceNet, padded
from fl_privacy.attacks.membership.ssl.pseudo_labels import (
    Learning,
    answer,
    both_ends,
    train_speaker_net,
    train_utterance_net,
)
from fl_privacy.errors import UserError

matrices = st.tuples(st.integers(2, 12), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-1e3, 1e3, width=32))
)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else 0.0


@settings(deadline=None, max_examples=80)
@given(matrices)
def test_closed_forms_are_the_double_sums(rows):
    pairs = list(itertools.combinations(rows, 2))
    distances = [1 - cosine(a, b) for a, b in pairs]
    assert utterance_score(rows) == pytest.approx(np.mean(distances), abs=1e-6)
    assert speaker_score(rows) == pytest.approx(1 - np.mean(distances), abs=1e-6)
    expected = np.mean([a @ b for a, b in pairs])
    assert pair_mean(rows) == pytest.approx(expected, abs=1e-9 * max(1.0, np.square(rows).sum()))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_scale_of_frames_says_nothing(scale):
    frames = np.random.default_rng(0).standard_normal((30, 8))
    assert utterance_score(scale * frames) == pytest.approx(utterance_score(frames))


def test_the_closed_form_is_linear_in_frames():
    """A double sum over 200,000 frames would take 2e10 products."""
    frames = np.random.default_rng(0).standard_normal((200_000, 16))
    assert utterance_score(frames) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("frames", "message"),
    [(np.ones((1, 4)), "two frames at least"), (np.ones(4), "shape"), (np.full((3, 2), np.nan), "not finite")],
)
def test_too_little_is_refused(frames, message):
    with pytest.raises(UserError, match=message):
        utterance_score(frames)


def utterances(lengths, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, dim, generator=generator) for length in lengths]


@pytest.mark.parametrize("make", [UtteranceNet, SpeakerNet])
def test_a_score_is_the_same_alone_and_in_any_batch(make):
    torch.manual_seed(0)
    net = make(6).eval()
    given_ = utterances([3, 50, 1, 20, 7])
    net.standardise(given_)
    alone = torch.stack([net([frames])[0] for frames in given_])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0], [1, 3]):
        torch.testing.assert_close(net([given_[n] for n in order]), alone[order], atol=1e-6, rtol=1e-5)


def test_attention_is_a_softmax_over_the_frames_that_are_there():
    torch.manual_seed(1)
    pooling = AttentionPooling(6)
    given_ = utterances([4, 9])
    pooled = pooling(*padded(given_))
    for frames, found in zip(given_, pooled, strict=True):
        weights = np.exp((frames @ pooling.logit.weight[0] + pooling.logit.bias).detach().numpy().astype(float))
        np.testing.assert_allclose(found.detach().numpy(), weights @ frames.numpy() / weights.sum(), rtol=1e-5)


def test_the_public_codes_mask_tells_how_short_an_utterance_is_beside_its_batch():
    torch.manual_seed(2)
    pooling = AttentionPooling(6, compat=True)
    torch.nn.init.zeros_(pooling.logit.weight)
    short, long = utterances([10, 40])
    alone, beside = pooling(*padded([short]))[0], pooling(*padded([short, long]))[0]
    # 10 frames of weight 1 and 30 of padding of weight e.
    torch.testing.assert_close(beside, alone * 10 / (10 + 30 * np.e), rtol=1e-5, atol=1e-6)


def test_ends_are_labelled_and_the_next_ones_validate():
    ends = both_ends([5, 1, 4, 2, 3, 6, 0, 7], 2)
    assert sorted(ends.train[ends.train_labels == 1]) == [5, 7] and sorted(ends.train[ends.train_labels == 0]) == [1, 6]
    assert sorted(ends.validate[ends.validate_labels == 1]) == [0, 2]
    assert sorted(ends.validate[ends.validate_labels == 0]) == [3, 4]
    assert len(both_ends(range(9), 500).train) == 4, "a quarter of what there is, at each end"
    with pytest.raises(UserError, match="four auxiliary speakers at least; got 3"):
        both_ends([1, 2, 3], 1, "speakers")


def test_the_utterance_network_learns_the_pseudo_labels_and_is_the_same_again():
    rng = np.random.default_rng(3)
    scores = rng.permutation(40) / 40.0
    frames = [(rng.standard_normal((20, 4)) + [3 * s, 0, 0, 0]).astype(np.float32) for s in scores]
    learning = Learning(utterances=8, epochs=30, learning_rate=1e-2)
    before = torch.get_rng_state()
    net = train_utterance_net(frames.__getitem__, scores, 4, learning, 0)
    assert torch.equal(before, torch.get_rng_state())
    found = [float(answer(net, one)) for one in frames]
    assert np.corrcoef(found, scores)[0, 1] > 0.7
    again = train_utterance_net(frames.__getitem__, scores, 4, learning, 0)
    assert [float(answer(again, one)) for one in frames] == found


def test_the_speaker_network_learns_which_speakers_look_like_members():
    rng = np.random.default_rng(4)
    people, frames = [], []
    for speaker in range(8):
        people.append(list(range(len(frames), len(frames) + 5)))
        frames += [(rng.standard_normal((15, 4)) + (speaker > 3)).astype(np.float32) for _ in range(5)]
    learning = Learning(speakers=2, epochs=40, learning_rate=1e-2)
    net = train_speaker_net(frames.__getitem__, people, np.arange(8.0), 4, learning, 0)
    told = [pair_mean(np.stack([answer(net, frames[n]) for n in mine])) for mine in people]
    assert min(told[4:]) > max(told[:4])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=9),
    st.lists(st.integers(0, 15), min_size=1, max_size=9),
    st.integers(0, 3),
)
def test_matching_pairs_as_many_as_can_be(mine, theirs, tolerance):
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    near = np.abs(np.subtract.outer(mine, theirs)) <= tolerance
    most = int((maximum_bipartite_matching(csr_matrix(near), perm_type="column") >= 0).sum())
    if most == 0:
        with pytest.raises(UserError, match="equally long"):
            match_durations(mine, theirs, tolerance, 0)
        return
    first, second = match_durations(mine, theirs, tolerance, 0)
    assert len(first) == most and len(set(first)) == most and len(set(second)) == most
    assert near[first, second].all()
