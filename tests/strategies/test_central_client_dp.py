"""`client-dp` in the server, through a real small federation on the local engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy
from numpy_apps import norm, server, sgd_app, weights_app

from fl_privacy.defenses.base import Accounted
from fl_privacy.defenses.client_dp import client_dp
from fl_privacy.errors import UserError
from fl_privacy.sims.local import run_simulation
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.training.participation import ClientSettings
from fl_privacy.updates import Update, UpdateStore

CLIENTS, CLIP = 4, 0.4
ALL = {"fraction_train": 1e-9, "fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
SETTINGS = ClientSettings(1, "fedavg", 8, 0.1, 1)


def told_one(inner: ClientApp, defense: Any) -> ClientApp:
    """The clients of another app, which report what the defense has them report."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = inner(message, context)
        metrics = answer.content["metrics"]
        metrics["num-examples"] = defense.weight(int(metrics["num-examples"]), None)
        return answer

    return app


def run(strategy: Strategy, app: ClientApp, store: Path, rounds: int) -> UpdateStore:
    app_, _ = server(lambda: CaptureUpdates(strategy, UpdateStore(store)), rounds)
    run_simulation(app_, app, CLIENTS, seed=3)
    return UpdateStore(store)


def moves(store: UpdateStore) -> list[tuple[dict[str, np.ndarray], list[Update]]]:
    """By how much each round moved the model, and the updates of that round."""
    found = []
    for one, two in zip(store.rounds, store.rounds[1:], strict=False):
        updates = [u for u in store.updates() if u.round == one]
        before, after = store.sent(one, updates[0].client), store.sent(two, updates[0].client)
        found.append(({n: after[n].astype(float) - before[n] for n in before}, updates))
    return found


KINDS = {
    "fedavg": (lambda: FedAvg(**ALL), lambda: weights_app()[0]),
    "fedsgd": (lambda: FedSGD(0.1, reply="step", **ALL), sgd_app),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_update_is_clipped_and_all_weigh_the_same(kind, tmp_path):
    strategy, app = KINDS[kind]
    defense = client_dp("server", CLIP, noise_multiplier=0.0)
    store = run(defense.strategy(strategy()), told_one(app(), defense), tmp_path / "s", 3)
    assert {u.num_examples for u in store.updates()} == {1.0}
    assert max(norm(dict(u.arrays)) for u in store.updates() if u.round == 1) > CLIP  # the server sees raw updates
    for moved, updates in moves(store):
        scales = [min(1.0, CLIP / norm(dict(u.arrays))) for u in updates]
        for name, change in moved.items():
            mean = sum(s * u.arrays[name].astype(float) for s, u in zip(scales, updates, strict=True)) / CLIENTS
            np.testing.assert_allclose(change, mean, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_on_the_mean_is_z_c_over_n(kind, tmp_path):
    strategy, app = KINDS[kind]
    defense = client_dp("server", CLIP, noise_multiplier=2.0)
    store = run(defense.strategy(strategy()), told_one(app(), defense), tmp_path / "s", 60)
    noise = []
    for moved, updates in moves(store):
        scales = [min(1.0, CLIP / norm(dict(u.arrays))) for u in updates]
        for name, change in moved.items():
            mean = sum(s * u.arrays[name].astype(float) for s, u in zip(scales, updates, strict=True)) / CLIENTS
            noise.append((change - mean).ravel())
    assert np.concatenate(noise).std() == pytest.approx(2.0 * CLIP / CLIENTS, rel=0.1)


def test_flowers_accountant_goes_with_fedavg_and_says_what_is_promised(tmp_path):
    defense = client_dp("server", CLIP, noise_multiplier=2.0)
    wrapped: Any = defense.strategy(FedAvg(**ALL))
    run(wrapped, told_one(weights_app()[0], defense), tmp_path / "s", 5)
    spent = wrapped.privacy_spent()
    assert spent.num_releases == 5
    row = defense.promises(Accounted(SETTINGS, (), CLIENTS, CLIENTS, 5))[0]
    assert row.epsilon_accountant == pytest.approx(spent.epsilon, rel=1e-6)
    assert defense.strategy(flower.FedProx(**ALL, proximal_mu=0.1)).accountant is not None
    # Flower's accountant does not take FedSGD; its epsilon is computed after the run.
    assert defense.strategy(FedSGD(0.1, reply="step", **ALL)).accountant is None


def test_clients_of_different_weight_are_noticed(tmp_path):
    defense = client_dp("server", CLIP, noise_multiplier=2.0)
    with pytest.raises(ValueError, match="equal client weights"):
        run(defense.strategy(FedAvg(**ALL)), weights_app()[0], tmp_path / "s", 1)


def test_strategies_that_cannot_be_wrapped_are_refused():
    defense = client_dp("server", CLIP, noise_multiplier=2.0)
    with pytest.raises(UserError, match="reply = 'step'"):
        defense.strategy(FedSGD(0.1, **ALL))
    with pytest.raises(UserError, match="not around CaptureUpdates"):
        defense.strategy(CaptureUpdates(FedAvg(**ALL), UpdateStore("unused")))
