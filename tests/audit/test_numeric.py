from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from fl_privacy.audit import (
    Claim,
    NumericAudit,
    best_blind,
    chance,
    metrics,
    paired_difference,
    permutation_null,
    permutation_p_value,
    standardise_runs,
)
from fl_privacy.audit import numeric_intervals as intervals
from fl_privacy.audit.files import read_units, units_csv
from fl_privacy.errors import UserError

NUMBERS = st.lists(st.integers(-4, 4).map(float), min_size=5, max_size=20)


def example(n=24, rows=6, error=12.0, seed=0, **settings):
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n), rows)
    ages = np.random.default_rng(99).integers(20, 75, n)[speakers]
    return NumericAudit(0.5 * ages + 20 + error * rng.normal(size=ages.size), ages, speakers, **settings)


def slow_jackknife(statistic, x, y, groups):
    return np.array([statistic(x[groups != g], y[groups != g]) for g in np.unique(groups)])


def test_predictions_are_averaged_over_a_speakers_rows():
    audit = NumericAudit([1.0, 3.0, 8.0, 5.0], [20, 20, 40, 30], ["b", "b", "a", "c"])
    speakers, predictions, values = audit.speaker_scores()
    assert speakers.tolist() == ["a", "b", "c"]
    assert predictions.tolist() == [8.0, 2.0, 5.0]
    assert values.tolist() == [40.0, 20.0, 30.0]


def test_metrics_are_those_of_scipy_and_scikit_learn():
    audit = example(clients=np.arange(144) // 3)
    for unit, key in (("update", np.arange(144)), ("client", np.arange(144) // 3), ("speaker", audit.groups)):
        predictions = np.bincount(key, weights=audit.predictions) / np.bincount(key)
        values = np.array([audit.values[key == k][0] for k in np.unique(key)])
        found = {metric: estimate.value for metric, estimate in audit.estimates(unit).items()}
        assert found == pytest.approx(
            {
                "correlation": stats.pearsonr(predictions, values).statistic,
                "spearman": stats.spearmanr(predictions, values).statistic,
                "mean_absolute_error": mean_absolute_error(values, predictions),
                "r_squared": r2_score(values, predictions),
            }
        )


def test_fishers_interval_is_the_least_there_is():
    rng = np.random.default_rng(0)
    # Numbers with thin tails: leaving speakers out says less than Fisher's variance does.
    values = np.tile([-1.0, 1.0], 20)
    predictions = values + rng.uniform(-1, 1, 40)
    expected = stats.pearsonr(predictions, values).confidence_interval(0.95)
    assert intervals.correlation_interval(predictions, values) == pytest.approx((expected.low, expected.high), abs=1e-6)
    # One speaker who makes the correlation: Fisher does not see it.
    values = np.append(rng.normal(size=30), 12.0)
    predictions = np.append(rng.normal(size=30), 12.0)
    narrow = stats.pearsonr(predictions, values).confidence_interval(0.95)
    low, high = intervals.correlation_interval(predictions, values)
    assert narrow.low > 0.6
    assert low < 0.3


@given(st.integers(4, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_leaving_speakers_out_is_done_as_written(n, rows, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n), rows))
    y = rng.integers(0, 3, n)[groups].astype(float) + 1000
    x = 0.5 * y + rng.normal(size=y.size)
    speakers = intervals.Clusters.of(groups, x.size, "rows")
    if np.unique(y).size > 1:
        found = intervals._correlation_without_each(x - x.mean(), y - y.mean(), speakers)
        np.testing.assert_allclose(found, slow_jackknife(metrics.pearson, x, y, groups), atol=1e-9)


def test_widths_come_from_leaving_speakers_out():
    rng = np.random.default_rng(3)
    y = rng.normal(size=15)
    x = y + rng.standard_t(3, size=15)
    left = np.log(slow_jackknife(metrics.mean_absolute_error, x, y, np.arange(15)))
    moves = left - left.mean()
    # Satterthwaite: the degrees of freedom of a variance whose own variance is (kurtosis - (n - 3) / (n - 1)) / n.
    kurtosis = np.mean(moves**4) / np.mean(moves**2) ** 2
    t = stats.t.ppf(0.975, min(14, 30 / (kurtosis - 12 / 14)))
    half = t * math.sqrt(14 / 15 * np.sum(moves**2))
    value = metrics.mean_absolute_error(x, y)
    assert intervals.absolute_error_interval(x, y) == pytest.approx((value * math.exp(-half), value * math.exp(half)))
    left = np.log(1 - slow_jackknife(metrics.r_squared, x, y, np.arange(15)))
    moves = left - left.mean()
    kurtosis = np.mean(moves**4) / np.mean(moves**2) ** 2
    half = stats.t.ppf(0.975, min(14, 30 / (kurtosis - 12 / 14))) * math.sqrt(15 / 13 * 14 / 15 * np.sum(moves**2))
    share = 1 - metrics.r_squared(x, y)
    expected = 1 - share * math.exp(half), 1 - share * 14 / 15 * math.exp(-half)
    assert intervals.r_squared_interval(x, y) == pytest.approx(expected)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_every_estimate_lies_in_its_interval(values, shuffler):
    predictions = [v + shuffler.choice([0, 0, 1, 5]) for v in values]
    if len(set(values)) > 1:
        for metric, found in NumericAudit(predictions, values).estimates().items():
            if found.low is None:
                assert metric == "r_squared"
                assert "but for one speaker" in found.reason
            else:
                assert found.low - 1e-9 <= found.value <= found.high + 1e-9
                assert found.high - found.low > 1e-3 or metric == "mean_absolute_error"
                assert found.high > found.low


def test_perfect_and_equal_predictions_keep_a_width():
    values = np.arange(10.0)
    for n in (5, 10, 40):
        low, high = intervals.correlation_interval(np.arange(float(n)), np.arange(float(n)))
        assert high == 1.0
        assert low == pytest.approx(stats.binomtest(n, n).proportion_ci(method="exact").low)
        mirrored = intervals.correlation_interval(np.arange(float(n)), -np.arange(float(n)))
        assert mirrored == pytest.approx((-high, -low))
    perfect = NumericAudit(values, values)
    assert perfect.mean_absolute_error().low == 0.0
    assert 0.3 < perfect.mean_absolute_error().high < 1.5
    assert 0.5 < perfect.r_squared().low < perfect.r_squared().high == 1.0
    shifted = NumericAudit(values + 3, values).mean_absolute_error()
    assert shifted.low < 2.5 and shifted.high > 3.5
    nothing = NumericAudit(np.zeros(10), values)
    assert nothing.correlation().value == nothing.spearman().value == 0.0
    assert nothing.correlation().low == pytest.approx(-nothing.correlation().high)
    # Six speakers of whom any five are as spread as the others.
    even = NumericAudit(np.full(6, 0.5), [0, 0, 0, 1, 1, 1]).r_squared()
    assert even.low < 0 == even.value < even.high


def test_repeating_every_row_changes_no_interval():
    one = example(n=9, rows=1, error=20)
    many = NumericAudit(*(np.repeat(a, 100) for a in (one.predictions, one.values, one.groups)))
    for metric, found in many.estimates("update").items():
        expected = one.estimates("update")[metric]
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert many.correlation("update").n_speakers == 9


def test_units_do_not_matter_but_for_the_error():
    audit = example()
    months = NumericAudit(12 * audit.predictions, 12 * audit.values, audit.groups)
    for metric, found in months.estimates().items():
        expected = audit.estimates()[metric]
        scale = 12 if metric == "mean_absolute_error" else 1
        assert (found.value, found.low, found.high) == pytest.approx(
            tuple(scale * x for x in (expected.value, expected.low, expected.high))
        )


def test_too_few_speakers_give_values_without_intervals():
    audit = NumericAudit([1.0, 2.0, 4.0, 5.0], [1, 2, 3, 3], ["a", "b", "c", "c"])
    for unit in ("update", "speaker"):
        for found in audit.estimates(unit).values():
            assert found.value is not None
            assert (found.low, found.high) == (None, None)
            assert "fewer than 5 speakers" in found.reason
    assert paired_difference(audit, chance(audit)).low is None
    one = NumericAudit([1.0, 2.0, 3.0, 4.0, 5.0], [1, 1, 1, 1, 2])
    assert one.r_squared().low is None
    assert one.correlation().low is not None
    with pytest.raises(UserError, match="at least 5 speakers; got 3"):
        intervals.correlation_interval([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])


def test_what_one_guess_for_everybody_gets():
    values = np.array([20.0, 20.0, 30.0, 70.0])
    audit = NumericAudit([1.0, 2.0, 3.0, 4.0], values)
    guesses = np.linspace(0, 100, 2001)
    least = min(np.abs(values - guess).mean() for guess in guesses)
    assert audit.majority() == pytest.approx(
        {"correlation": 0.0, "spearman": 0.0, "mean_absolute_error": least, "r_squared": 0.0}
    )
    assert chance(audit).r_squared().value == pytest.approx(0.0)


def test_difference_to_a_blind_baseline():
    strong, weak, none = example(error=8), example(error=60, seed=1), example(error=1e4, seed=3)
    found = paired_difference(strong, weak)
    assert found.value == pytest.approx(strong.correlation().value - weak.correlation().value)
    assert found.low < found.value < found.high
    assert found.n_speakers == 24
    against_chance = paired_difference(strong, chance(strong))
    expected = strong.correlation()
    assert (against_chance.low, against_chance.high) == pytest.approx((expected.low, expected.high))
    itself = paired_difference(strong, strong)
    assert itself.low < 0 < itself.high
    assert best_blind([weak, strong, none]) == weak.name
    wrong = strong.with_scores(-strong.predictions, name="wrong")
    assert best_blind([wrong]) == "chance"


def test_difference_gains_from_pairing():
    rng = np.random.default_rng(1)
    values = rng.normal(size=60)
    error, other = rng.normal(size=(2, 60))
    alike = intervals.correlation_difference_interval(values + error, values + error + 0.3 * other, values)
    apart = intervals.correlation_difference_interval(values + error, values + other, values)
    assert alike[1] - alike[0] < 0.6 * (apart[1] - apart[0])


def test_permuted_values_give_a_null_around_zero():
    audit = example(n=12)
    speakers, predictions, values = audit.speaker_scores()
    null = permutation_null(lambda v: audit.headline_value(truth=v), speakers, values, 400, 0)
    assert abs(null.mean()) < 0.05
    assert null.std() == pytest.approx(1 / math.sqrt(11), rel=0.15)
    assert permutation_p_value(audit.headline_value(), null).value < 0.02
    slow = [stats.pearsonr(predictions, v).statistic for v in [values[::-1]]]
    assert audit.headline_value(truth=values[::-1]) == pytest.approx(slow[0])
    assert audit.headline_value(scores=-predictions) == pytest.approx(-audit.headline_value())


def test_merged_runs_average_what_they_predict():
    runs = [example(seed=seed) for seed in range(3)]
    merged = standardise_runs(runs)
    expected = np.mean([run.speaker_scores()[1] for run in runs], axis=0)
    np.testing.assert_allclose(merged.speaker_scores()[1], expected)
    assert merged.mean_absolute_error().value < runs[0].mean_absolute_error().value
    with pytest.raises(UserError, match="Speaker 0 has two values"):
        standardise_runs([runs[0], NumericAudit(runs[0].predictions, runs[0].values[::-1], runs[0].groups)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1.0, 2.0]}, "3 predictions, but 2 values"),
        ({"predictions": [1.0, float("nan"), 0.0]}, "predictions: 1 of 3 are NaN"),
        ({"values": [1.0, float("inf"), 0.0]}, "values: 1 of 3 are NaN or infinite"),
        ({"values": [30, 30, 30]}, "two distinct values; all are 30"),
        ({"groups": ["p", "p", "q"]}, "Speaker p has two values: 20.0 and 30.0"),
        ({"clients": [1, 1, 2]}, "Client 1 has two speakers"),
        ({"confidence": 95}, "confidence"),
    ],
)
def test_mistakes_are_named(arguments, message):
    given_arguments = {"predictions": [1.0, 2.0, 3.0], "values": [20, 30, 30], "groups": ["a", "b", "c"], **arguments}
    with pytest.raises(UserError, match=message):
        NumericAudit(**given_arguments)


def test_claims_round_trip():
    claims = example(clients=np.arange(144) // 3, name="ridge").claims(attribute="age")
    assert {claim.unit for claim in claims} == {"update", "client", "speaker"}
    assert {c.metric for c in claims} == {"correlation", "spearman", "mean_absolute_error", "r_squared"}
    assert all((c.n_positive, c.n_negative, c.n_speakers) == (None, None, 24) for c in claims)
    assert [Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) for claim in claims] == claims


def test_what_is_written_can_be_read_again():
    audits = [example(name="ridge", clients=np.arange(144) // 3), example(seed=4, name="blind")]
    found = read_units(csv.DictReader(io.StringIO(units_csv(audits))))
    for audit in audits:
        assert found[audit.name].headline_value() == pytest.approx(audit.headline_value())
        assert found[audit.name].mean_absolute_error().low == pytest.approx(audit.mean_absolute_error().low)
    assert audits[0].table().startswith("ridge: a number from 25 to 73, 24 speakers")


@given(st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=30))
def test_ranks_are_scipys(values):
    assert metrics.ranks(np.array(values)).tolist() == stats.rankdata(values).tolist()
