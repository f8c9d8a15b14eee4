from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fl_privacy.audit import intervals, metrics
from fl_privacy.errors import UserError

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=20)
RIGHT = st.lists(st.booleans(), min_size=2, max_size=30)


def assert_sound(interval, value, least=0.0, most=1.0):
    low, high = interval
    assert least <= low <= value + 1e-9
    assert value - 1e-9 <= high <= most
    assert high - low > 1e-3


@given(SCORES, SCORES)
def test_auc_interval_contains_the_value_and_has_width(positive, negative):
    assert_sound(intervals.auc_interval(positive, negative), metrics.auc(positive, negative))


@given(SCORES, SCORES)
def test_auc_interval_mirrors_when_the_classes_swap(positive, negative):
    low, high = intervals.auc_interval(positive, negative)
    swapped = intervals.auc_interval(negative, positive)
    assert swapped == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(SCORES, SCORES)
def test_eer_interval_contains_the_value_and_has_width(positive, negative):
    assert_sound(intervals.eer_interval(positive, negative), metrics.eer(positive, negative))


@given(RIGHT)
def test_proportion_interval_is_clopper_and_pearsons(right):
    expected = binomtest(sum(right), len(right)).proportion_ci(method="exact")
    assert intervals.proportion_interval(right) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(RIGHT, RIGHT)
def test_uar_interval_contains_the_value_and_has_width(positive, negative):
    value = (np.mean(positive) + np.mean(negative)) / 2
    assert_sound(intervals.uar_interval(positive, negative), value)


@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_difference_interval_contains_the_value_and_has_width(positive, negative, shuffler):
    other_positive = shuffler.sample(positive, len(positive))
    other_negative = [-value for value in negative]
    value = metrics.auc(positive, negative) - metrics.auc(other_positive, other_negative)
    found = intervals.difference_interval(positive, negative, other_positive, other_negative)
    assert_sound(found, value, -1.0, 1.0)


@given(SCORES, SCORES)
def test_difference_of_an_attack_from_itself_keeps_some_width(positive, negative):
    low, high = intervals.difference_interval(positive, negative, positive, negative)
    assert low < -1e-3
    assert high > 1e-3


def test_difference_from_constant_scores_is_the_auc_less_a_half():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 20), rng.normal(size=15)
    low, high = intervals.auc_interval(positive, negative)
    found = intervals.difference_interval(positive, negative, np.zeros(20), np.zeros(15))
    assert found == pytest.approx((low - 0.5, high - 0.5))


def test_difference_gains_from_pairing():
    rng = np.random.default_rng(1)
    shared, apart = rng.normal(1, 1, (2, 40)), rng.normal(size=(2, 40))
    near = shared + 0.2 * rng.normal(size=(2, 40))
    paired = intervals.difference_interval(shared[0], apart[0], near[0], apart[0] + 0.2 * rng.normal(size=40))
    unpaired = intervals.difference_interval(shared[0], apart[0], shared[1], apart[1])
    assert paired[1] - paired[0] < 0.7 * (unpaired[1] - unpaired[0])


def test_auc_interval_solves_newcombes_equation():
    # All scores normal with equal spreads and no extra spread among speakers: the model variance alone is at work.
    positive, negative = np.arange(12) + 0.5, np.arange(12) - 3.0
    value = metrics.auc(positive, negative)
    m = n = 12
    star = (m + n) / 2 - 1

    def distance(theta):
        spread = 1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(value - theta) / math.sqrt(theta * (1 - theta) * spread / (m * n))

    low, high = intervals.auc_interval(positive, negative)
    assert distance(low) == pytest.approx(distance(high), rel=1e-6)
    assert distance(low) >= 1.959963


def test_perfect_separation_gives_newcombes_limit():
    # Solved by bisection on the formula in the paper: theta with (1 - theta)^2 = z^2 V(theta) for 5 + 5.
    low, high = intervals.auc_interval([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert high == 1.0
    theta, z = low, 1.959964
    spread = 1 + 4 * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    assert (1 - theta) ** 2 == pytest.approx(z**2 * theta * (1 - theta) * spread / 25, rel=1e-5)


def test_wider_spread_among_few_positives_is_seen_as_the_bootstrap_sees_it():
    # The model variance alone gives a width of .36 here; resampled speakers spread half as wide again.
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(0.3, 4, 10), rng.normal(size=60)
    draws = [metrics.auc(rng.choice(positive, 10), rng.choice(negative, 60)) for _ in range(4000)]
    low, high = intervals.auc_interval(positive, negative)
    assert high - low > 0.9 * 2 * 1.96 * np.std(draws)


@pytest.mark.parametrize(
    "interval",
    [
        lambda n: intervals.auc_interval(np.arange(n) + n / 4, np.arange(n)),
        lambda n: intervals.eer_interval(np.arange(n) + n / 4, np.arange(n)),
        lambda n: intervals.uar_interval(np.arange(n) < 0.7 * n, np.arange(n) < 0.6 * n),
        lambda n: intervals.proportion_interval(np.arange(n) < 0.7 * n),
        lambda n: intervals.difference_interval(np.arange(n) + n / 4, np.arange(n), np.arange(n)[::-1], np.arange(n)),
        lambda n: intervals.tpr_interval(np.arange(10 * n) + 5 * n, np.arange(10 * n), 0.1),
        lambda n: intervals.auc_interval(np.arange(n) + n, np.arange(n)),
    ],
)
def test_width_shrinks_with_more_speakers(interval):
    widths = [high - low for low, high in map(interval, (10, 20, 40, 80))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.6 * widths[0]


def test_width_grows_with_confidence():
    narrow, wide = (intervals.auc_interval(np.arange(9) + 2, np.arange(9), confidence=level) for level in (0.8, 0.99))
    assert wide[0] < narrow[0]
    assert narrow[1] < wide[1]


@pytest.mark.parametrize("function", [intervals.auc_interval, intervals.eer_interval])
def test_repeating_every_row_of_a_speaker_changes_nothing(function):
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(1, 1, 10), rng.normal(size=8)
    groups = [np.repeat(np.arange(10), 50), np.repeat(np.arange(8), 50)]
    repeated = function(np.repeat(positive, 50), np.repeat(negative, 50), *groups)
    assert repeated == pytest.approx(function(positive, negative), abs=1e-6)


def test_a_speaker_with_most_rows_widens_the_interval():
    even = intervals.proportion_interval([1, 0, 1, 1, 0, 1], [10] * 6)
    uneven = intervals.proportion_interval([1, 0, 1, 1, 0, 1], [55, 1, 1, 1, 1, 1])
    assert uneven[1] - uneven[0] > even[1] - even[0]


def test_tpr_interval_is_honest_about_few_negatives():
    rng = np.random.default_rng(4)
    positive = rng.normal(2.5, 1, 400)
    few = intervals.tpr_interval(positive, rng.normal(size=100), 0.01)
    many = intervals.tpr_interval(positive, rng.normal(size=20000), 0.01)
    assert few[1] - few[0] > 0.3
    assert many[1] - many[0] < 0.15
    assert_sound(many, metrics.tpr_at_fpr(positive, rng.normal(size=20000), 0.01).value)
    with pytest.raises(UserError, match="100 are needed"):
        intervals.tpr_interval(positive, rng.normal(size=99), 0.01)


def test_what_cannot_have_an_interval_is_refused():
    with pytest.raises(UserError, match="at least 2 speakers"):
        intervals.auc_interval([1.0, 2.0], [0.0])
    with pytest.raises(UserError, match="at least 2 speakers"):
        intervals.auc_interval([1.0, 2.0], [0.0, 1.0], ["a", "a"], ["b", "c"])
    with pytest.raises(UserError, match="groups"):
        intervals.auc_interval([1.0, 2.0], [0.0, 1.0], ["a"], ["b", "c"])
    with pytest.raises(UserError, match="same speakers"):
        intervals.difference_interval([1.0, 2.0], [0.0, 1.0], [1.0, 2.0, 3.0], [0.0, 1.0])
    with pytest.raises(UserError, match="fractions"):
        intervals.proportion_interval([0.5, 1.5])
    with pytest.raises(UserError, match="weights"):
        intervals.proportion_interval([0.5, 0.5], [1.0, 0.0])
    with pytest.raises(UserError, match="confidence"):
        intervals.auc_interval([1.0, 2.0], [0.0, 1.0], confidence=95)
