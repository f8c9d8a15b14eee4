"""Two proportions of the same speakers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from fl_privacy.audit.paired import mean_difference, proportion, proportion_difference
from fl_privacy.errors import UserError


@given(st.integers(2, 60), st.data())
def test_a_proportion_has_clopper_and_pearsons_interval(n, data):
    hits = data.draw(st.integers(0, n))
    found = proportion(np.arange(n) < hits)
    wanted = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, wanted.low, wanted.high))
    assert found.n_speakers == n


@pytest.mark.parametrize(("both", "only_a", "only_b"), [(0.5, 0.3, 0.05), (0.05, 0.85, 0.0), (0.0, 0.1, 0.1)])
def test_the_interval_of_a_paired_difference_covers(both, only_a, only_b):
    rng = np.random.default_rng(5)
    covered, trials = 0, 400
    for _ in range(trials):
        kind = rng.choice(4, size=40, p=[both, only_a, only_b, 1 - both - only_a - only_b])
        found = proportion_difference(kind <= 1, (kind == 0) | (kind == 2))
        assert found.low is not None and found.high is not None and found.low < found.high
        covered += found.low <= only_a - only_b <= found.high
    assert covered / trials >= 0.93


def test_pairs_are_narrower_than_strangers_and_a_known_number_has_no_error():
    rng = np.random.default_rng(6)
    a = rng.random(60) < 0.6
    b = a & (rng.random(60) < 0.9)
    paired, shuffled = proportion_difference(a, b), proportion_difference(a, rng.permutation(b))
    width = [e.high - e.low for e in (paired, shuffled)]
    assert width[0] < 0.8 * width[1]
    alone, known = proportion(a), proportion_difference(a, 0.1)
    assert (known.value, known.low, known.high) == pytest.approx((alone.value - 0.1, alone.low - 0.1, alone.high - 0.1))


def test_other_speakers_are_refused():
    with pytest.raises(UserError, match="same speakers; got 3 and 2"):
        proportion_difference([0, 1, 1], [0, 1])


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 2), min_size=2, max_size=30), st.sampled_from([0.8, 0.95]))
def test_a_mean_difference_has_students_interval_or_says_why_not(pairs, confidence):
    a, b = np.array(pairs).T / 20
    found = mean_difference(a, b, confidence=confidence)
    assert found.value == pytest.approx(np.mean(a - b))
    if len({x - y for x, y in pairs}) == 1:
        assert found.low is found.high is None
        assert "same difference" in found.reason
        return
    half = t.ppf((1 + confidence) / 2, len(a) - 1) * np.std(a - b, ddof=1) / np.sqrt(len(a))
    wanted = np.clip([np.mean(a - b) - half, np.mean(a - b) + half], -1, 1)
    assert (found.low, found.high) == pytest.approx(tuple(wanted))


def test_the_interval_of_a_mean_difference_covers_with_eight_speakers_of_twenty_trials():
    rng = np.random.default_rng(3)
    covered, trials = 0, 2000
    for _ in range(trials):
        own = rng.beta(6, 3, size=8)  # speakers differ in how well they are served, and in what they lose
        rates = rng.binomial(20, [own, own * rng.beta(6, 3, size=8)]) / 20
        found = mean_difference(rates[1], rates[0])
        covered += found.low <= (2 / 3) * (2 / 3) - 2 / 3 <= found.high
    assert 0.93 < covered / trials < 0.97


def test_a_mean_difference_wants_the_same_speakers():
    with pytest.raises(UserError, match="got 2 and 3"):
        mean_difference([0.1, 0.2], [0.1, 0.2, 0.3])
