"""The published UDP: its formula to the figures of the paper's code, and what its noise really buys."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import AVG, SGD, Work, flat, participation
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy import stats

from fl_privacy.defenses import make_defenses
from fl_privacy.defenses.base import Accounted
from fl_privacy.defenses.udp import PublishedUDP, adam_reach
from fl_privacy.errors import UserError
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.local import ADAM

PUBLISHED = {23: (0.0229, 0.01145, 0.00458, 0.00229), 42: (0.01254, 0.00627, 0.00251, 0.00125)}


def entry(epsilon: float = 5.0, **more) -> dict:
    return {"name": "udp-published", "epsilon": epsilon, **more}


@pytest.mark.parametrize("examples", PUBLISHED)
def test_sigma_is_the_published_one(examples):
    for epsilon, expected in zip((5, 10, 25, 50), PUBLISHED[examples], strict=True):
        made = PublishedUDP(epsilon)
        assert made.sigma(examples) == pytest.approx(expected, rel=5e-3)
        # FedAvg reports each example once an epoch, FedSGD those of the batch.
        assert made.noise(replace(AVG, local_epochs=3), 3.0 * examples) == pytest.approx(made.sigma(examples))
        assert made.noise(SGD, float(examples)) == pytest.approx(made.sigma(examples))
    slow = 2 * 0.3 / 10 * math.sqrt(2 * 0.2 * 50 * math.log(1 / 0.1)) / 7
    assert PublishedUDP(7, clipping_norm=0.3, q=0.2, rounds=50, delta=0.1).sigma(10) == pytest.approx(slow)


def test_the_gradient_of_each_batch_is_clipped():
    rng = np.random.default_rng(0)
    gradient = {"w": torch.from_numpy(rng.normal(size=(5, 4))), "b": torch.from_numpy(rng.normal(size=5))}
    norm = float(torch.cat([g.ravel() for g in gradient.values()]).norm())
    for size in (0.1, 0.25, 3.0):
        scaled = {name: g * (size / norm) for name, g in gradient.items()}
        found = PublishedUDP(5).gradient(scaled, participation())
        for name, g in scaled.items():
            torch.testing.assert_close(found[name], g / max(1.0, size / 0.25))


@pytest.mark.parametrize(("settings_", "examples"), [(SGD, 8), (AVG, 20)])
def test_noise_comes_upon_clipped_training(settings_, examples):
    """The update less that of no noise (epsilon without end) is Gaussian of sigma_k on every weight."""
    clipped = flat(Work(entry(1e12), settings=settings_).update()).astype(float)
    if settings_.algorithm == "fedsgd":
        assert np.linalg.norm(clipped) == pytest.approx(0.25, rel=1e-5)
        plain = flat(Work(settings=settings_).update())
        np.testing.assert_allclose(clipped, plain * 0.25 / np.linalg.norm(plain), atol=1e-6)
    noisy = flat(Work(entry(5.0), settings=settings_).update())
    sigma = PublishedUDP(5).sigma(examples)
    assert stats.kstest((noisy - clipped) / sigma, "norm").pvalue > 1e-3


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 12), wild=st.floats(0, 8))
def test_adam_cannot_reach_further_than_is_said(seed, steps, wild):
    """PyTorch's own Adam on gradients of all sizes; the first step reaches it."""
    rng = np.random.default_rng(seed)
    weight = torch.zeros(60, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=1.0, betas=ADAM["betas"], eps=ADAM["eps"])
    for _ in range(steps):
        weight.grad = torch.from_numpy(rng.normal(size=60) * np.exp(wild * rng.normal(size=60)))
        optimiser.step()
    assert weight.abs().max() <= adam_reach(steps) * (1 + 1e-9)
    assert adam_reach(1) == pytest.approx(1.0)


def test_the_worst_gradients_come_near_adams_reach():
    """The bound is no idle one: gradients in the proportions of Cauchy and Schwarz reach that of the last step."""
    one, two = ADAM["betas"]
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=1.0, betas=ADAM["betas"], eps=0.0)
    for step in range(6):
        before = float(weight.detach())
        weight.grad = torch.tensor([(two / one) ** step], dtype=torch.float64)
        optimiser.step()
    assert abs(float(weight.detach()) - before) == pytest.approx(adam_reach(6) - adam_reach(5), rel=1e-6)


@pytest.mark.parametrize("settings_", [SGD, AVG])
def test_it_promises_nothing_under_its_name_and_says_what_the_noise_buys(settings_):
    work = Work(entry(5.0), settings=settings_)
    for server_round in (1, 2):
        work.answer(0, server_round)
    ledger = Ledger.read(work.memories[0], "client")
    coordinates = sum(array.size for array in work.start.arrays.values())
    furthest = 2 * 0.25
    if settings_.algorithm == "fedavg":  # 20 examples in batches of 8, twice: 6 steps
        furthest = 2 * math.sqrt(coordinates) * settings_.learning_rate * adam_reach(6)
    z = PublishedUDP(5).sigma(8 if settings_.algorithm == "fedsgd" else 20) / furthest
    assert ledger.noise_multipliers == pytest.approx([z])
    assert ledger.steps == (2,)
    run = Accounted(settings_, [ledger, Ledger("client")], clients=9, clients_per_round=4, rounds=2)
    published, bought = PublishedUDP(5).promises(run)
    assert published.epsilon_accountant is None
    assert published.delta == 0.5
    assert "labelled epsilon 5: no guarantee" in published.mechanism
    accountant = RDPAccountant()
    accountant.history = [(z, 1.0, 2)]
    assert bought.epsilon_accountant == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert bought.epsilon_accountant > 20 * 5
    assert (bought.unit, bought.delta) == ("client", 1e-5)
    times = float(re.search(r"would take ([\d.e+]+) times the noise", bought.mechanism).group(1))
    accountant.history = [(z * times, 1.0, 2)]
    assert accountant.get_epsilon(1e-5) == pytest.approx(5.0, rel=0.02)
    nobody = PublishedUDP(5).promises(replace(run, ledgers=[]))[1]
    assert (nobody.epsilon_accountant, "times the noise" in nobody.mechanism) == (0.0, False)
    assert "would take inf times" in PublishedUDP(1e-9).promises(run)[1].mechanism
    assert PublishedUDP(math.inf).promises(run)[0].epsilon_accountant is None


def test_noise_of_unknown_examples_is_not_guessed():
    with pytest.raises(UserError, match="number of examples"):
        PublishedUDP(5).noise(AVG, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0}, "epsilon must be positive"),
        ({"clipping_norm": -1}, "clipping_norm must be positive"),
        ({"q": 1.5}, "q must be a share"),
        ({"rounds": 0}, "rounds must be a whole number"),
        ({"delta": 1.0}, "delta must be between"),
        ({"sigma": 1.0}, "sigma"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        make_defenses([{**entry(), **wrong}])
