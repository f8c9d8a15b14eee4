"""Epsilon and noise against Opacus' own accountant and calibration."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from fl_privacy.errors import UserError
from fl_privacy.training.accounting import Ledger, noise_multiplier_for

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:opacus")

NOISE, RATES = st.sampled_from([0.4, 1.0, 3.7]), st.sampled_from([1.0, 0.35, 0.01])


def of_opacus(rounds, delta):
    accountant = RDPAccountant()
    for noise, rate, steps in rounds:
        for _ in range(steps):
            accountant.step(noise_multiplier=noise, sample_rate=rate)
    return accountant.get_epsilon(delta)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(NOISE, RATES, st.integers(1, 5)), min_size=1, max_size=12), st.sampled_from([1e-3, 1e-5, 1e-9])
)
def test_epsilon_over_many_rounds_is_that_of_opacus(rounds, delta):
    memory: dict = {}
    for noise, rate, steps in rounds:  # kept and read again in every round, as a client does
        Ledger.read(memory, "example").added(noise, rate, steps).write(memory)
    assert Ledger.read(memory, "example").epsilon(delta) == pytest.approx(of_opacus(rounds, delta), rel=1e-12)


def test_nothing_spent_is_nothing_and_a_step_without_noise_is_everything():
    assert Ledger("example").epsilon(1e-5) == 0.0
    assert Ledger("example").added(0.0, 0.5, 0).epsilon(1e-5) == 0.0
    assert Ledger("example").added(1.0, 0.5, 3).added(0.0, 0.5, 1).epsilon(1e-5) == math.inf


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [(0.5, 1e-3, 0.3, 40), (1.0, 1e-5, 0.02, 2000), (8.0, 1e-5, 1.0, 3), (50.0, 1e-5, 0.77, 10), (0.2, 1e-5, 0.1, 1)],
)
def test_the_noise_is_the_least_that_stays_within_the_target(target, delta, rate, steps):
    noise = noise_multiplier_for(target, delta, rate, steps)
    assert of_opacus_at_once(noise, rate, steps, delta) <= target
    assert of_opacus_at_once(noise * 0.9998, rate, steps, delta) > target


def of_opacus_at_once(noise, rate, steps, delta):
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return accountant.get_epsilon(delta)


def test_it_is_what_opacus_would_choose_and_takes_no_second():
    asked = {"target_epsilon": 8.0, "target_delta": 1e-5, "sample_rate": 0.41, "steps": 150}
    theirs = get_noise_multiplier(**asked, epsilon_tolerance=0.05)
    began = time.process_time()
    ours = noise_multiplier_for(8.0, 1e-5, 0.41, 150)
    assert time.process_time() - began < 1.0
    assert theirs * 0.99 <= ours <= theirs
    assert noise_multiplier_for(math.inf, 1e-5, 0.41, 150) == 0.0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((0.05, 1e-5, 0.4, 10), "target_epsilon = 0.05 cannot be reached in 10 steps at delta = 1e-05"),
        ((0.0, 1e-5, 0.4, 10), "target_epsilon is 0.0: it must be above 0"),
        ((-1.0, 1e-5, 0.4, 10), "target_epsilon is -1.0"),
        ((math.nan, 1e-5, 0.4, 10), "target_epsilon is nan"),
        ((1.0, 0.0, 0.4, 10), "delta is 0.0"),
        ((1.0, 1.0, 0.4, 10), "delta is 1.0"),
        ((1.0, 1e-5, 0.0, 10), "rate is 0.0"),
        ((1.0, 1e-5, 1.1, 10), "rate is 1.1"),
        ((1.0, 1e-5, 0.4, 0), "there are 0 steps"),
    ],
)
def test_what_no_noise_can_give_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        noise_multiplier_for(*asked)


def test_the_refusal_says_what_could_be_reached():
    with pytest.raises(UserError, match=r"the accountant says 0\.103 however") as refused:
        noise_multiplier_for(0.05, 1e-5, 0.4, 10)
    assert noise_multiplier_for(0.105, 1e-5, 0.4, 10) < 1e5, refused
    with pytest.raises(UserError, match="delta is 2"):
        Ledger("example").added(1.0, 0.5, 1).epsilon(2.0)
