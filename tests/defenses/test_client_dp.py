"""Client-level DP on the client, and what is promised for both placements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from by_hand import AVG, SGD, Work, features_of, flat
from opacus.accountants import RDPAccountant
from scipy import stats

from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.defenses.base import Accounted
from fl_privacy.defenses.client_dp import client_dp
from fl_privacy.errors import UserError
from fl_privacy.training.accounting import Ledger

LOCAL = {"name": "client-dp", "placement": "client", "clipping_norm": 0.02}


def opacus_epsilon(multiplier: float, steps: int, delta: float = 1e-5) -> float:
    accountant = RDPAccountant()
    accountant.history = [(multiplier, 1.0, steps)]
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("settings", [SGD, AVG])
def test_without_noise_the_whole_update_is_clipped(settings):
    plain = flat(Work(settings=settings).update())
    small, large = 0.3 * np.linalg.norm(plain), 3 * np.linalg.norm(plain)
    for norm, expected in ((small, 0.3 * plain), (large, plain)):
        found = Work({**LOCAL, "clipping_norm": norm, "noise_multiplier": 0.0}, settings=settings).update()
        np.testing.assert_allclose(flat(found), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", [SGD, AVG])
def test_the_noise_is_gaussian_of_the_deviation_that_is_told(settings):
    work = Work({**LOCAL, "noise_multiplier": 1.5}, settings=settings)
    (defense,) = make_defenses(work.entries)
    clipped = flat(Work({**LOCAL, "noise_multiplier": 0.0}, settings=settings).update())
    noise = flat(work.update()).astype(float) - clipped
    deviation = defense.noise(settings, 1.0)
    assert deviation == pytest.approx(1.5 * 0.02)
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-3
    again = flat(work.update(server_round=2)).astype(float)
    assert abs(np.corrcoef(noise, again)[0, 1]) < 0.05


def test_every_client_weighs_the_same_and_keeps_its_ledger():
    work = Work({**LOCAL, "noise_multiplier": 3.0})
    for server_round in (1, 2, 5):
        work.answer(0, server_round)
        assert work.examples == 1
    work.answer(1, 1)
    assert Ledger.read(work.memories[0], "client") == Ledger("client", (1.5,), (1.0,), (3,))
    assert Ledger.read(work.memories[1], "client").steps == (1,)


def test_what_cannot_be_sent_spends_nothing():
    work = Work({**LOCAL, "noise_multiplier": 3.0})
    x, y = features_of(0)
    with pytest.raises(Exception, match="not finite"):
        work.answer(data=(x * float("nan"), y))
    assert work.memories[0] == {}


def accounted(settings=SGD, *ledgers: Ledger, rounds: int = 7) -> Accounted:
    return Accounted(settings, ledgers, clients=9, clients_per_round=4, rounds=rounds)


def test_the_promise_is_that_of_the_client_asked_most():
    (defense,) = make_defenses([{**LOCAL, "noise_multiplier": 8.0}])
    ledgers = [Ledger("client").added(4.0, 1.0, steps) for steps in (2, 6, 1)]
    (row,) = defense.promises(accounted(SGD, *ledgers, Ledger("client"), Ledger("example").added(0.1, 1.0, 99)))
    assert row.unit == "client"
    assert row.protects_from.startswith("server")
    assert row.epsilon_accountant == pytest.approx(opacus_epsilon(4.0, 6), rel=0.01)
    assert row.delta == 1e-5
    (nothing,) = make_defenses([{**LOCAL, "noise_multiplier": 0.0}])
    assert nothing.promises(accounted())[0].epsilon_accountant is None


def test_a_target_is_met_by_whoever_takes_part_in_most_rounds():
    (defense,) = make_defenses([{**LOCAL, "target_epsilon": 12.0}])
    settings = replace(SGD, participations=5)
    z = defense.noise(settings, None) / 0.02
    assert 11.8 < opacus_epsilon(z / 2, 5) <= 12.0 * 1.001
    work = Work(*[{**LOCAL, "target_epsilon": 12.0}], settings=settings)
    for server_round in range(1, 6):
        work.answer(0, server_round)
    (row,) = defense.promises(accounted(settings, Ledger.read(work.memories[0], "client")))
    assert row.epsilon_accountant <= 12.0
    with pytest.raises(UserError, match="how often a client takes part"):
        defense.noise(replace(SGD, participations=0), None)


def test_a_target_that_cannot_be_reached_is_refused():
    (defense,) = make_defenses([{**LOCAL, "target_epsilon": 1e-9}])
    with pytest.raises(UserError):
        defense.noise(SGD, None)


def test_no_bound_on_epsilon_means_clipping_only():
    entry = {**LOCAL, "target_epsilon": float("inf")}
    clipped = Work({**LOCAL, "noise_multiplier": 0.0}).update()
    np.testing.assert_array_equal(flat(Work(entry).update()), flat(clipped))
    assert make_defenses([entry])[0].promises(accounted())[0].epsilon_accountant is None
    assert client_dp("server", 1.0, target_epsilon=float("inf"), rounds=3).multiplier == 0.0


@pytest.mark.parametrize("rounds", [1, 30])
def test_epsilon_in_the_server_is_flowers_and_opacus(rounds):
    made = client_dp("server", 0.5, noise_multiplier=1.3)
    nothing, other = made.promises(accounted(rounds=rounds))
    assert nothing.epsilon_accountant == pytest.approx(opacus_epsilon(1.3, rounds), rel=0.01)
    assert other.epsilon_accountant == pytest.approx(opacus_epsilon(0.65, rounds), rel=0.01)
    for row in (nothing, other):
        assert "not the server" in row.protects_from
        assert row.unit == "client"
    assert made.noise(SGD, 1.0) == 0.0  # of what the server sees


def test_a_target_in_the_server_is_met():
    made = client_dp("server", 0.5, target_epsilon=3.0, rounds=12)
    assert 2.99 < made.promises(accounted(rounds=12))[0].epsilon_accountant <= 3.0
    assert made.promises(accounted(rounds=24))[0].epsilon_accountant > 4.0
    with pytest.raises(UserError, match="cannot be reached"):
        client_dp("server", 0.5, target_epsilon=1e-12, rounds=10**6).multiplier  # noqa: B018


def test_only_the_server_placement_touches_the_strategy():
    """A strategy of its own makes shadow federations run under Flower, which takes long."""
    assert type(client_dp("client", 1.0, 1.0)).strategy is Defense.strategy
    assert type(client_dp("server", 1.0, 1.0)).strategy is not Defense.strategy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "both"}, "placement must be"),
        ({"clipping_norm": 0.0}, "clipping_norm must be positive"),
        ({"noise_multiplier": None}, "one of noise_multiplier and target_epsilon"),
        ({"target_epsilon": 3.0}, "one of noise_multiplier and target_epsilon"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be positive"),
        ({"noise_multiplier": None, "target_epsilon": 0.0}, "target_epsilon must be positive"),
        ({"delta": 1.0}, "delta must be between 0 and 1"),
        ({"delta": True}, "delta must be between 0 and 1"),
        ({"rounds": 3}, "rounds is for placement 'server'"),
        ({"placement": "server", "rounds": 3}, "takes rounds with target_epsilon"),
        ({"placement": "server", "noise_multiplier": None, "target_epsilon": 1.0}, "takes rounds with target_epsilon"),
        ({"sigma": 3}, "sigma"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make_defenses([{**LOCAL, "noise_multiplier": 1.0, **settings}])
