"""The short form of `python -m benchmarks coverage`."""

from __future__ import annotations

import numpy as np
import pytest

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
