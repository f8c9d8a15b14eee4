from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from fl_privacy.audit import metrics
from fl_privacy.errors import UserError

# Few distinct values, so that ties within and across classes are common.
TIED = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)


def joined(positive: list[float], negative: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([1] * len(positive) + [0] * len(negative)), np.array(positive + negative)


@given(TIED, TIED)
def test_auc_agrees_with_sklearn_and_mann_whitney(positive, negative):
    labels, scores = joined(positive, negative)
    found = metrics.auc(positive, negative)
    assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    pairs = len(positive) * len(negative)
    assert found == pytest.approx(mannwhitneyu(positive, negative).statistic / pairs, abs=1e-12)


@given(TIED, TIED)
def test_auc_of_swapped_classes_is_the_complement(positive, negative):
    assert metrics.auc(positive, negative) == pytest.approx(1 - metrics.auc(negative, positive), abs=1e-15)


@given(TIED, TIED)
def test_auc_depends_on_the_order_alone(positive, negative):
    warped = metrics.auc(np.exp(np.array(positive)) * 5 - 3, np.exp(np.array(negative)) * 5 - 3)
    assert metrics.auc(positive, negative) == warped


@given(TIED, TIED)
def test_roc_is_sklearns_and_its_area_is_the_auc(positive, negative):
    labels, scores = joined(positive, negative)
    fpr, tpr = metrics.roc(positive, negative)
    theirs = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, theirs[0], atol=1e-12)
    np.testing.assert_allclose(tpr, theirs[1], atol=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(positive, negative))


@given(TIED, TIED, st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5]))
def test_tpr_at_fpr_is_the_best_point_of_the_roc(positive, negative, fpr):
    found = metrics.tpr_at_fpr(positive, negative, fpr)
    if len(negative) * fpr < 1 - 1e-9:
        assert found.value is None
        assert str(len(negative)) in found.reason
    else:
        labels, scores = joined(positive, negative)
        rates, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
        assert found.value == pytest.approx(hits[rates <= fpr + 1e-9].max())
        assert np.mean(np.array(negative) > found.threshold) <= fpr + 1e-9


def test_tpr_needs_exactly_one_over_fpr_negatives():
    assert metrics.tpr_at_fpr([5.0], np.arange(99), 0.01).value is None
    assert "100" in metrics.tpr_at_fpr([5.0], np.arange(99), 0.01).reason
    # One of a hundred negatives may pass, so 98.5 is enough and 98 is not.
    assert metrics.tpr_at_fpr([98.5, 98.0], np.arange(100), 0.01).value == 0.5
    # 0.07 * 100 is a little over 7, and 0.29 * 100 a little under 29 in floating point: whole counts are meant.
    assert metrics.tpr_at_fpr([70.5], np.arange(100), 0.29).value == 1.0


@given(TIED, TIED)
def test_eer_lies_where_the_error_rates_cross(positive, negative):
    fpr, tpr = metrics.roc(positive, negative)
    along = np.linspace(0, 1, 20001)
    position = np.linspace(0, 1, fpr.size)
    curve_fpr, curve_fnr = np.interp(along, position, fpr), 1 - np.interp(along, position, tpr)
    nearest = np.argmin(np.abs(curve_fpr - curve_fnr))
    assert metrics.eer(positive, negative) == pytest.approx(curve_fpr[nearest], abs=2e-3)


def test_eer_of_perfect_and_useless_scores():
    assert metrics.eer([2, 3], [0, 1]) == 0.0
    assert metrics.eer([0, 1], [2, 3]) == 1.0
    assert metrics.eer([1, 1], [1, 1]) == 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_uar_agrees_with_sklearn(pairs):
    predicted, labels = (np.array(column) for column in zip(*pairs, strict=True))
    assert metrics.accuracy(predicted, labels) == pytest.approx(np.mean(predicted == labels))
    if len(set(labels.tolist())) == 2:
        assert metrics.uar(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], [1.0, float("nan")], [float("inf")]])
def test_scores_that_mean_nothing_are_refused(scores):
    with pytest.raises(UserError, match="scores"):
        metrics.auc(scores, [1.0])


def test_unequal_lengths_and_bad_rates_are_refused():
    with pytest.raises(UserError, match="equally long"):
        metrics.uar([1, 0], [1])
    with pytest.raises(UserError, match="between 0 and 1"):
        metrics.tpr_at_fpr([1.0], [0.0], 1.0)
