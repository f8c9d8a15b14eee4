"""Judges of inversions: verdicts, thresholds, distances, labels, against slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fl_privacy.attacks.inversion.distances import distances
from fl_privacy.attacks.inversion.gender import AttributeReader
from fl_privacy.attacks.inversion.judges import EncoderJudge, Thresholds, Verdicts, unit
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 9))
def test_verdicts_are_what_counting_gives(seed, identities, n):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n, identities)).astype(float)  # full of ties
    whose = rng.integers(0, identities, n)
    found = Verdicts(scores, whose)
    for row, (mine, who) in enumerate(zip(scores, whose, strict=True)):
        others = [s for k, s in enumerate(mine) if k != who]
        assert found.ranks[row] == 1 + sum(s >= mine[who] for s in others)
        assert found.above[row] == pytest.approx(roc_auc_score([1] + [0] * len(others), [mine[who], *others]))
        assert found.among(2)[row] == (found.ranks[row] <= 2)
        assert found.accepted(2.0)[row] == (mine[who] >= 2)
        made = [scores[j, who] >= 2 for j in range(n) if whose[j] != who]
        assert found.accepted_of_others(2.0)[row] == pytest.approx(np.mean(made) if made else 0.0)


def test_a_tie_for_the_first_place_is_no_recognition():
    assert Verdicts([[1.0, 1.0, 0.0]], [0]).among()[0] == 0


def test_permuted_identities_are_recognised_as_often_as_chance():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((30, 30)) + 4 * np.eye(30)
    found = Verdicts(scores, np.arange(30))
    assert found.among().mean() > 0.8
    null = found.permuted_hits(400, 1)
    assert null.mean() == pytest.approx(1 / 30, abs=0.01)
    assert np.array_equal(null, found.permuted_hits(400, 1))


@pytest.mark.parametrize(
    ("scores", "whose", "message"),
    [
        (np.zeros((2, 3)), [0], "one identity each"),
        (np.zeros((2, 1)), [0, 0], "one identity each"),
        ([[np.nan, 1.0]], [0], "NaN"),
        ([[0.0, 1.0]], [2], "none of the columns"),
    ],
)
def test_verdicts_refuse_what_they_cannot_read(scores, whose, message):
    with pytest.raises(UserError, match=message):
        Verdicts(scores, whose)


def test_thresholds_accept_as_many_of_others_as_they_say():
    rng = np.random.default_rng(1)
    identities = np.repeat(np.arange(20), 10)
    scores = rng.standard_normal((200, 20)) + 3 * (np.arange(20) == identities[:, None])
    found, table = Thresholds.of(scores, identities), Verdicts(scores, identities)
    assert np.mean(table.others >= found.eer) == pytest.approx(np.mean(table.own < found.eer), abs=0.01)
    assert found.error == pytest.approx(np.mean(table.own < found.eer), abs=0.01)
    assert found.far_1 is not None
    assert 0.009 < np.mean(table.others >= found.far_1) <= 0.01
    assert found.genuine_at_far_1 == pytest.approx(table.accepted(found.far_1).mean())
    assert Thresholds.of(scores[:4, :4], [0, 1, 2, 3]).far_1 is None, "12 trials do not resolve 1 %"


def test_an_encoder_judges_by_cosine_to_enrolled_means():
    encoder = SpeakerEncoder(lambda waves: [[w[0], w[1]] for w in waves])
    voices = [[np.float32([2, 0]), np.float32([0, 1])], [np.float32([-3, 0])]]
    judge = EncoderJudge(encoder, voices, "two numbers")
    found = judge.scores([np.float32([5, 0]), np.float32([0, -1])])
    half = np.sqrt(0.5)
    assert np.allclose(found, [[half, -1.0], [-half, 0.0]], atol=1e-6)


def test_distances_are_euclidean_between_unit_vectors():
    rng = np.random.default_rng(2)
    inverted, means, unused = (rng.standard_normal((n, 5)) for n in (4, 4, 8))
    owners = [0, 0, 1, 1, 2, 2, 3, 3]
    found = distances(inverted, means, unused, owners)
    length = np.linalg.norm
    for s in range(4):
        v, m = inverted[s] / length(inverted[s]), means[s] / length(means[s])
        others = [means[o] / length(means[o]) for o in range(4) if o != s]
        strangers = [inverted[o] / length(inverted[o]) for o in range(4) if o != s]
        mine = [unused[i] / length(unused[i]) for i in (2 * s, 2 * s + 1)]
        assert found.own[s] == pytest.approx(length(v - m))
        assert found.others[s] == pytest.approx(np.mean([length(v - o) for o in others]))
        assert found.wrong[s] == pytest.approx(np.mean([length(x - m) for x in strangers]))
        assert found.within[s] == pytest.approx(np.mean([length(x - m) for x in mine]))
        assert found.between[s] == pytest.approx(np.mean([length(m - o) for o in others]))
        assert found.nearest[s] == (length(v - m) < min(length(v - o) for o in others))
    assert found.summary()["own"]["mean"] == pytest.approx(found.own.mean())
    with pytest.raises(UserError, match="needs a recording"):
        distances(inverted, means, unused[:6], owners[:6])


def test_an_attribute_is_read_from_vectors_of_other_people():
    rng = np.random.default_rng(3)
    sex = rng.integers(0, 2, 120)
    vectors = rng.standard_normal((120, 12))
    vectors[:, 4] += 6 * (2 * sex - 1)
    reader = AttributeReader.fit(vectors[:60], [("f", "m")[s] for s in sex[:60]])
    assert reader.classes == ("f", "m")
    assert np.mean((reader.decision_function(vectors[60:]) > 0) == sex[60:]) > 0.95
    # Length says nothing; the first axis is the one that matters, and the picture is centred on what was learned from.
    assert np.allclose(reader.decision_function(vectors), reader.decision_function(7 * vectors))
    axis = reader.picture(vectors[60:])[:, 0]
    assert abs(np.corrcoef(axis, sex[60:])[0, 1]) > 0.95
    assert np.allclose(reader.picture(vectors[:60]).mean(axis=0), 0, atol=1e-9)
    with pytest.raises(UserError, match="two values"):
        AttributeReader.fit(vectors[:5], ["f"] * 5)


def test_rows_of_zeros_have_no_direction():
    assert np.array_equal(unit([[0.0, 0.0], [3.0, 4.0]]), [[0.0, 0.0], [0.6, 0.8]])
