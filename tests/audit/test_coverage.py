"""The short form of `python -m benchmarks coverage`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import _coverage_attributes as attributes
from benchmarks import coverage
from fl_privacy.audit import Audit

REPEATS = 600
# A simulated coverage of 600 has a standard error of .01 at most; the aim itself is held against the long form.
SLACK = 0.012


@pytest.mark.parametrize(("m", "n"), [(5, 5), (12, 12), (20, 20), (45, 45), (5, 20)])
@pytest.mark.parametrize("auc", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("shape", ["normal, spreads 2 to 1", "exponential, shifted"])
def test_auc_interval_covers(m, n, auc, shape):
    assert coverage.auc_coverage(m, n, auc, shape, REPEATS) >= coverage.AIM - SLACK


@pytest.mark.parametrize("auc", [0.5, 0.9])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_auc_interval_over_updates_covers(auc, share):
    assert coverage.update_coverage(12, 10, share, auc, REPEATS) >= coverage.AIM - SLACK


@pytest.mark.parametrize(("m", "n"), [(5, 5), (20, 20), (45, 45)])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.9, 0.7), (0.99, 0.9)])
def test_difference_interval_covers(m, n, a, b):
    assert coverage.difference_coverage(m, n, a, b, 0.8, REPEATS) >= coverage.AIM - SLACK


@pytest.mark.parametrize(("m", "n"), [(5, 5), (10, 9), (12, 12), (15, 15), (5, 20)])
@pytest.mark.parametrize("recall", [0.5, 0.8, 0.94, 0.98, 1.0])
def test_uar_interval_covers_exactly(m, n, recall):
    assert coverage.uar_coverage(m, n, recall, 0.0) >= coverage.AIM
    assert coverage.uar_coverage(m, n, recall, 2 * (1 - recall)) >= coverage.AIM


@pytest.mark.parametrize("auc", [0.7, 0.95])
def test_tpr_interval_covers(auc):
    assert coverage.tpr_coverage(45, 150, auc, 300) >= coverage.AIM


@pytest.mark.parametrize("auc", [0.5, 0.95])
def test_eer_interval_covers(auc):
    assert coverage.eer_coverage(5, 20, auc, 2.0, 300) >= coverage.AIM


def test_scores_without_signal_give_intervals_that_cover_a_half():
    rng = np.random.default_rng(0)
    labels = np.repeat(["female", "male"], 12)
    found = [Audit(rng.normal(size=24), labels).auc() for _ in range(500)]
    assert np.mean([estimate.low <= 0.5 <= estimate.high for estimate in found]) >= 0.93
    # And they say something: not so wide that a strong attack would be missed.
    assert np.mean([estimate.high - estimate.low for estimate in found]) < 0.5


@pytest.mark.parametrize("sizes", [(5,) * 3, (20,) * 3, (5, 20, 8), (5,) * 5])
@pytest.mark.parametrize("distance", [0.0, 1.5, 4.0])
@pytest.mark.parametrize(
    ("model", "noise"),
    [("independent", "normal"), ("uneven classes", "exponential"), ("a fifth lost", "t with 3 degrees")],
)
def test_hand_till_interval_covers(sizes, distance, model, noise):
    assert attributes.hand_till_coverage(sizes, distance, model, noise, 120) >= coverage.AIM


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1.5, 0.7), (4.0, 1.5)])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_hand_till_difference_interval_covers(a, b, correlation):
    assert attributes.hand_till_difference_coverage((5, 5, 5), a, b, correlation, 120) >= coverage.AIM


@pytest.mark.parametrize("distance", [0.0, 1.0, 4.0])
def test_auc_of_candidates_covers(distance):
    assert attributes.candidates_coverage(12, distance, 1.0, 150) >= coverage.AIM


@pytest.mark.parametrize("sizes", [(5,) * 3, (20,) * 3, (5, 20, 8), (5,) * 5, (1,) * 24])
@pytest.mark.parametrize("recall", [0.3, 0.8, 0.98])
def test_mean_recall_interval_covers(sizes, recall):
    assert attributes.mean_recall_coverage(sizes, recall, 0.0, 200) >= coverage.AIM
    assert attributes.mean_recall_coverage(sizes, recall, min(0.2, 1 - recall), 200) >= coverage.AIM


@pytest.mark.parametrize("metric", ["correlation", "spearman", "mean_absolute_error", "r_squared"])
@pytest.mark.parametrize("n", [5, 12, 45])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("shape", ["normal", "skewed errors"])
def test_intervals_of_numbers_cover(metric, n, correlation, shape):
    assert attributes.number_coverage(metric, n, correlation, shape, 500) >= coverage.AIM - 2 * SLACK


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.9, 0.6)])
def test_difference_of_correlations_covers(a, b):
    assert attributes.number_difference_coverage(8, a, b, 0.5, 200) >= coverage.AIM


def test_fishers_interval_alone_would_not_do():
    assert attributes.number_coverage("fisher", 24, 0.9, "skewed errors", 300) < 0.9
