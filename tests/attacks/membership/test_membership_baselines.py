"""What other attacks look at."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fl_privacy.attacks.membership import FEATURES
from fl_privacy.attacks.membership.baselines import WITHIN, hardest_pairs, learned_similarity, pair_quantiles
from fl_privacy.audit.metrics import auc
from fl_privacy.errors import UserError


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_all_pairs_sorted():
    voices = np.random.default_rng(0).standard_normal((5, 8))
    expected = sorted(cosine(a, b) for a, b in itertools.combinations(voices, 2))
    np.testing.assert_allclose(pair_quantiles(voices, 10), expected)
    fewer = pair_quantiles(voices[:3], 10)
    assert fewer.shape == (10,) and (np.diff(fewer) >= 0).all()
    assert (fewer[0], fewer[-1]) == pytest.approx(
        (min(cosine(a, b) for a, b in itertools.combinations(voices[:3], 2)),
         max(cosine(a, b) for a, b in itertools.combinations(voices[:3], 2)))
    )  # fmt: skip


def test_pairs_that_look_least_alike():
    rng = np.random.default_rng(1)
    voices, inputs = rng.standard_normal((5, 8)), rng.standard_normal((5, 3))
    pairs = sorted(
        (cosine(inputs[i], inputs[j]), cosine(voices[i], voices[j])) for i, j in itertools.combinations(range(5), 2)
    )
    np.testing.assert_allclose(
        hardest_pairs(voices, inputs), [similar for _, similar in pairs[:5]] + [alike for alike, _ in pairs[:5]]
    )
    assert hardest_pairs(voices[:2], inputs[:2]).tolist() == pytest.approx(
        [cosine(*voices[:2])] * 5 + [cosine(*inputs[:2])] * 5
    )


def test_a_learned_similarity_ranks_steady_speakers_first():
    rng = np.random.default_rng(2)

    def person(spread):
        return rng.standard_normal(16) + spread * rng.standard_normal((10, 16))

    auxiliary = [person(0.1), person(1.0), person(3.0)]
    speakers = [person(0.1) for _ in range(6)] + [person(3.0) for _ in range(6)]
    scores = learned_similarity(auxiliary, speakers, epochs=3)
    assert auc(scores[:6], scores[6:]) > 0.85
    with pytest.raises(UserError, match="two auxiliary speakers"):
        learned_similarity([person(1.0)], [])


def test_one_voice_has_no_pairs():
    with pytest.raises(UserError, match="two voices"):
        pair_quantiles(np.ones((1, 4)), 3)


def test_columns_without_imposters():
    assert len(WITHIN) == 21 and {FEATURES[i].split(".")[0].split("_")[0] for i in WITHIN} == {"c", "pair"}
