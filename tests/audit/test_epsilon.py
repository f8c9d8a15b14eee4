"""Epsilon from below: never above the truth beyond its confidence, nothing out of nothing, and close with many canaries."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import beta, norm

from fl_privacy.audit import Privacy
from fl_privacy.audit.epsilon import (
    clopper_pearson_bound,
    epsilon_bounds,
    one_run_bound,
    one_run_p_value,
    with_lower_bound,
)
from fl_privacy.errors import UserError

BOUNDS = [clopper_pearson_bound, one_run_bound]
SEEDS = 400


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Of a Gaussian mechanism of sensitivity mu times its noise (Balle and Wang, 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        low, high = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(norm.cdf(low) - math.exp(epsilon + norm.logcdf(high))) - delta

    return 0.0 if excess(0.0) <= 0 else brentq(excess, 0.0, 200.0)


def gaussian(mu: float, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of m canaries: N(mu, 1) where the coin let them in, N(0, 1) where not."""
    rng = np.random.default_rng(seed)
    included = rng.random(m) < 0.5
    return rng.normal(size=m) + mu * included, included


def too_often(failures: int, times: int, error: float) -> bool:
    """Whether as many failures would be seen once in a thousand times at most, were each as likely as `error`."""
    return failures > error * times + 3.1 * math.sqrt(error * (1 - error) * times)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("mu", "delta"), [(0.5, 1e-5), (1.0, 1e-2), (3.0, 1e-5)])
def test_a_bound_exceeds_the_epsilon_of_a_gaussian_mechanism_no_more_often_than_it_says(bound, mu, delta):
    truth = gaussian_epsilon(mu, delta)
    found = [bound(*gaussian(mu, 300, seed), delta=delta, confidence=0.9).value for seed in range(SEEDS)]
    assert not too_often(sum(value > truth for value in found), SEEDS, 0.1)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_the_same_for_randomised_response_where_the_one_run_bound_has_no_slack(bound, epsilon):
    """A mechanism that tells the coin truly with probability e^eps / (1 + e^eps): no score tells more at epsilon."""
    failures = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        included = rng.random(200) < 0.5
        told = included ^ (rng.random(200) > 1 / (1 + math.exp(-epsilon)))
        failures += bound(told + 0.01 * rng.random(200), included, confidence=0.9).value > epsilon
    assert not too_often(failures, SEEDS, 0.1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_delta_is_given_away_for_nothing_and_never_counted_as_epsilon(bound):
    """With probability delta everything is told, else nothing: that is (0, delta)-private."""
    delta, failures = 0.1, 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        included = rng.random(300) < 0.5
        told = rng.random(300) < delta
        scores = np.where(told, np.where(included, 9.0, -9.0), 0.0) + rng.normal(size=300)
        failures += bound(scores, included, delta=delta, confidence=0.9).value > 0
    assert not too_often(failures, SEEDS, 0.1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_null_scores_give_zero(bound):
    found = [bound(*gaussian(0.0, 200, seed), confidence=0.95).value for seed in range(SEEDS)]
    assert not too_often(sum(value > 0 for value in found), SEEDS, 0.05)
    included = np.arange(100) < 50
    for constant in (np.zeros(100), np.full(100, np.inf)):
        assert bound(constant, included).value == 0.0  # whatever the order of the canaries


def test_both_bounds_hold_at_once():
    truth = gaussian_epsilon(1.0, 1e-2)
    failures = 0
    for seed in range(SEEDS):
        both = epsilon_bounds(*gaussian(1.0, 300, seed), delta=1e-2, confidence=0.9)
        failures += max(b.value for b in both) > truth
        assert all(b.confidence == pytest.approx(0.95) for b in both)
    assert not too_often(failures, SEEDS, 0.1)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_with_many_canaries_both_come_close_to_randomised_response(epsilon):
    rng = np.random.default_rng(0)
    included = rng.random(50_000) < 0.5
    told = included ^ (rng.random(50_000) > 1 / (1 + math.exp(-epsilon)))
    for bound in BOUNDS:
        assert 0.9 * epsilon < bound(told.astype(float), included).value < epsilon


def test_with_many_canaries_the_thresholds_come_close_to_the_gaussian_mechanism():
    truth = gaussian_epsilon(1.0, 1e-2)
    assert 0.75 * truth < clopper_pearson_bound(*gaussian(1.0, 1_000_000, 0), delta=1e-2).value < truth


@pytest.mark.parametrize("bound", BOUNDS)
def test_it_grows_with_what_is_given_away(bound):
    found = [bound(*gaussian(mu, 2000, 0), delta=1e-5).value for mu in (0.0, 1.0, 2.0, 4.0, 50.0)]
    assert found == sorted(found)
    assert found[0] == 0.0
    assert 0 < found[1] < found[-1]
    # All told apart: as much as so many canaries can show, and no more.
    assert 4.0 < found[-1] < math.log(2000)


def test_all_right_is_worth_what_the_closed_forms_say():
    included = np.arange(400) % 2 == 0
    # Of 100 each of either kind that choose no threshold: all above and none.
    value = clopper_pearson_bound(included.astype(float), included, delta=1e-3).value
    low, high = beta.ppf(0.025, 100, 1), beta.ppf(0.975, 1, 100)
    assert value == pytest.approx(math.log((low - 1e-3) / high))
    # r right of r at q^r = error.
    value = one_run_bound(included.astype(float), included, guesses=(200, 200)).value
    q = 0.05 ** (1 / 400)
    assert value == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


@pytest.mark.parametrize("asymmetric", ["few false positives", "few false negatives"])
def test_either_tail_is_found(asymmetric):
    """One canary in five is told for sure, of one kind alone: only one of the two tests sees it."""
    rng = np.random.default_rng(3)
    included = rng.random(2000) < 0.5
    sign = 1.0 if asymmetric == "few false positives" else -1.0
    sure = (included if sign > 0 else ~included) & (rng.random(2000) < 0.2)
    scores = np.where(sure, sign * 9.0, 0.0) + rng.normal(size=2000)
    found = clopper_pearson_bound(scores, included)
    assert found.value > 2.5
    assert f"that were {'in' if sign > 0 else 'out'} are taken to be" in found.meaning


def test_the_p_value_is_the_papers_formula_summed_term_by_term():
    """Steinke, Nasr and Jagielski (2023), theorem 5.2: P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i."""
    for m, r, v, epsilon, delta in product((50,), (10, 40), (0, 1, 7, 10), (0.0, 0.7, 3.0), (0.0, 1e-3, 0.1)):
        q = math.exp(epsilon) / (1 + math.exp(epsilon))
        mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
        worst = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
        expected = min(sum(mass[v:]) + 2 * m * delta * worst, 1.0)
        assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from(BOUNDS), st.floats(0, 0.1))
def test_any_scores_give_a_bound_within_reach_and_only_their_order_counts(m, seed, bound, delta):
    rng = np.random.default_rng(seed)
    included, scores = rng.random(m) < rng.random(), rng.integers(0, 5, m).astype(float)
    found = bound(scores, included, delta=delta)
    assert 0.0 <= found.value <= math.log(m + 1) + 1
    assert bound(np.exp(scores), included, delta=delta).value == found.value
    assert bound(scores, included, delta=min(2 * delta, 0.5)).value <= found.value
    assert (found.n_in, found.n_out) == (included.sum(), m - included.sum())


@pytest.mark.parametrize("bound", BOUNDS)
def test_what_cannot_be_bounded_is_refused(bound):
    coins = np.array([True, False])
    with pytest.raises(UserError, match="1 of 2 scores are no numbers"):
        bound([1.0, math.nan], coins)
    with pytest.raises(UserError, match="booleans"):
        bound([1.0, 2.0], [1, 0])
    with pytest.raises(UserError, match="each has one of both"):
        bound([1.0, 2.0, 3.0], coins)
    with pytest.raises(UserError, match="delta"):
        bound([1.0, 2.0], coins, delta=1.0)
    with pytest.raises(UserError, match="confidence"):
        bound([1.0, 2.0], coins, confidence=1.0)


def test_more_guesses_than_canaries_are_refused():
    with pytest.raises(UserError, match="2 \\+ 1 guesses on 2 canaries"):
        one_run_bound([1.0, 2.0], np.array([True, False]), guesses=(2, 1))


def test_a_promise_takes_the_higher_bound_and_its_confidence():
    promise = Privacy(
        unit="client", mechanism="m", protects_from="server", epsilon_accountant=8.0, delta=1e-2, conditions={"a": 1}
    )
    both = epsilon_bounds(*gaussian(2.0, 500, 1), delta=1e-2)
    row = with_lower_bound(promise, both, confidence=0.95, conditions={"rounds": 3})
    assert row.epsilon_lower_bound == max(b.value for b in both) > 0
    assert (row.epsilon_accountant, row.confidence, row.canaries) == (8.0, 0.95, 500)
    assert row.conditions == {"a": 1, "rounds": 3}
    assert Privacy.from_dict(row.to_dict()) == row
    with pytest.raises(UserError, match="for delta 0.01, the bound for 0.1"):
        with_lower_bound(promise, epsilon_bounds(*gaussian(2.0, 500, 1), delta=0.1), confidence=0.95)
