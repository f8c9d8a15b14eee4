from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.attacks.membership.conformal import beyond_the_input, closeness, conformal_p_values
from fl_privacy.errors import UserError


@pytest.mark.parametrize("known", [3, 19, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_non_members_are_never_too_small_too_often(known, ties):
    """Uniform on the steps without ties, larger with them: of 40,000, five standard errors of room."""
    rng, runs = np.random.default_rng(known), 40_000
    drawn = rng.integers(4, size=(runs, known + 1)) if ties else rng.standard_normal((runs, known + 1))
    p = (1 + np.sum(drawn[:, 1:] >= drawn[:, :1], axis=1)) / (1 + known)
    found = np.array([conformal_p_values(row[:1], row[1:])[0] for row in drawn[:200]])
    np.testing.assert_allclose(found, p[:200])
    for step in range(1, known + 2):
        alpha = step / (known + 1)
        room = 5 * np.sqrt(alpha * (1 - alpha) / runs) + 1e-9
        rate = np.mean(p <= alpha + 1e-12)
        assert rate <= alpha + room
        if not ties:
            assert rate >= alpha - room


def test_residuals_keep_the_p_values_valid():
    """A line through everybody, the person in question too, treats all alike."""
    rng, runs, known = np.random.default_rng(1), 3000, 9
    p = []
    for _ in range(runs):
        inputs = rng.standard_normal(known + 1)
        scores = beyond_the_input(2 * inputs + 0.1 * rng.standard_normal(known + 1), inputs)
        p.append(conformal_p_values(scores[:1], scores[1:])[0])
    for alpha in (0.1, 0.3, 0.5):
        rate = np.mean(np.array(p) <= alpha + 1e-12)
        assert abs(rate - alpha) < 5 * np.sqrt(alpha * (1 - alpha) / runs)


def test_residuals_are_those_of_a_line():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(12), rng.standard_normal(12)
    np.testing.assert_allclose(beyond_the_input(y, x), y - np.polyval(np.polyfit(x, y, 1), x), atol=1e-10)
    np.testing.assert_allclose(beyond_the_input(y, np.ones(12)), y - y.mean())


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.lists(st.integers(-3, 3), min_size=1, max_size=8))
@settings(deadline=None)
def test_p_values_count(scores, known):
    slow = [(1 + sum(k >= s for k in known)) / (1 + len(known)) for s in scores]
    assert conformal_p_values(scores, known).tolist() == slow


def test_closeness_is_the_mean_over_pairs():
    rng = np.random.default_rng(3)
    table = rng.standard_normal((5, 7))
    slow = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(table) for b in table[i + 1 :]]
    assert closeness(table) == pytest.approx(np.mean(slow))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_p_values([1.0], []), "known not to be a member"),
        (lambda: conformal_p_values([np.nan], [1.0]), "finite scores"),
        (lambda: closeness(np.ones((1, 3))), "two at least"),
        (lambda: beyond_the_input([1.0, 2.0], [1.0, 2.0]), "three people at least"),
    ],
)
def test_what_cannot_be_told_is_said(call, message):
    with pytest.raises(UserError, match=message):
        call()
