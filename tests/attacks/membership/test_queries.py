from __future__ import annotations

import itertools

import numpy as np
import pytest

from fl_privacy.attacks.membership.baselines import norms
from fl_privacy.attacks.membership.queries import Budget, centroid
from fl_privacy.errors import UserError

IMPOSTERS = {"a": ("a0", "a1", "a2"), "b": ("b0",), "c": ("c0", "c1")}


def test_a_budget_takes_the_first_and_counts_them():
    budget = Budget(3, 2, 2)
    assert budget.of(IMPOSTERS) == {"a": ("a0", "a1"), "b": ("b0",)}
    assert budget.sent(10, IMPOSTERS) == 10 * 3 + 3


@pytest.mark.parametrize("grouped", [False, True])
def test_scores_are_counted_as_they_are_asked_for(grouped):
    budget = Budget(4, 3, 2, grouped)
    mine = [f"me{n}" for n in range(4)]
    asked = [*itertools.combinations(mine, 2)]
    enrolled = [voice for ids in budget.of(IMPOSTERS).values() for voice in ids]
    asked += [(voice, "everybody") for voice in mine] if grouped else [*itertools.product(mine, enrolled)]
    assert budget.scores(IMPOSTERS) == len(asked)


def test_enrolment_weighs_voices_alike():
    voices = np.array([[10.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(centroid(voices), [[0.5, 0.5]])


def test_norms_are_lengths():
    np.testing.assert_allclose(norms([[3.0, 4.0], [0.0, 1.0]]), [3.0, 2.0, 5.0, 1.0])


@pytest.mark.parametrize("wrong", [(1, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_budgets_are_checked(wrong):
    with pytest.raises(UserError, match="at least"):
        Budget(*wrong)


def test_more_imposters_than_there_are():
    with pytest.raises(UserError, match="there are 3"):
        Budget(2, 4, 1).of(IMPOSTERS)
