"""Canaries in a federation: the bound never passes what is true, and comes near it where the attacker can see all."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fl_privacy.audit import Privacy
from fl_privacy.audit.epsilon import epsilon_bounds
from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.errors import UserError
from fl_privacy.sims.canaries import EpsilonAudit, audit_epsilon
from fl_privacy.sims.shadow_training import plan_of
from fl_privacy.training import ClientData, write_federation
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.federation import federate
from fl_privacy.updates import ThreatModel, UpdateStore

INPUTS, CLASSES, CLIENTS, ROUNDS = 10, ("neutral", "happy", "sad"), 4, 6
CONFIG = {
    "seed": 3,
    "algorithm": "fedsgd",
    "num-server-rounds": ROUNDS,
    "clients-per-round": 3,
    "batch-size": 8,
    "learning-rate": 0.0,
    "local-epochs": 1,
    "dropout": 0.2,
    "fraction-evaluate": 0.0,
    "defenses": "[]",
}
CLIENT_DP = [{"name": "client-dp", "placement": "client", "clipping_norm": 0.5}]
WITH_NOISE = [{**CLIENT_DP[0], "noise_multiplier": 2.0}]


class AddNoise(Defense):
    """Noise on what leaves a client, of any strength, and no clipping."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        return {name: u + client.rng.normal(0.0, self.deviation, u.shape) for name, u in update.items()}


def add_noise(deviation: float) -> list[dict[str, Any]]:
    return [{"name": "test_canaries:AddNoise", "deviation": deviation}]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Of a Gaussian mechanism of sensitivity mu times its noise (Balle and Wang, 2018, theorem 8)."""
    gap = lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e + norm.logcdf(-mu / 2 - e / mu)) - delta  # noqa: E731
    return 0.0 if gap(0.0) <= 0 else float(brentq(gap, 0.0, 500.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(n, INPUTS)).astype(np.float32), rng.integers(0, len(CLASSES), n)

    folder = tmp_path_factory.mktemp("canaries") / "data"
    clients = [ClientData(*draw(24), *draw(2), train_private=np.zeros(24, dtype=np.int64)) for _ in range(CLIENTS)]
    write_federation(folder, clients, CLASSES, *draw(6))
    return folder


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.fixture(scope="module")
def capture(data, tmp_path_factory):
    """Run a federation once for each configuration; return (store, run configuration)."""

    @functools.cache
    def run(told: str, observe: str) -> tuple[UpdateStore, dict[str, Any]]:
        config = {**CONFIG, **json.loads(told), "data": str(data)}
        store = UpdateStore(tmp_path_factory.mktemp("store") / "updates")
        hooks = functools.partial(make_defenses, json.loads(config["defenses"]))
        federate(plan_of(config), store, ThreatModel(), observe, make_hooks=hooks)
        return store, config

    def captured(defenses: Any = (), observe: str = "each", **changes: Any) -> tuple[UpdateStore, dict[str, Any]]:
        return run(json.dumps({**changes, "defenses": json.dumps(list(defenses))}), observe)

    return captured


@pytest.fixture
def audit(capture, data):
    def audited(unit: Any, defenses: Any = (), changes: Any = None, **how: Any) -> EpsilonAudit:
        store, config = capture(defenses, **(changes or {}))
        return audit_epsilon(store, data, config, unit, **{"canaries": 200, "delta": 1e-3, **how})

    return audited


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_scores_of_canary_clients_are_those_of_the_gaussian_mechanism(audit, algorithm):
    """Two updates 2 C apart under noise of 2 C, seen T times: N(+-C T, 2^2 C^2 T)."""
    found = audit("client", WITH_NOISE, {"algorithm": algorithm}, canaries=400, participations=3)
    t, clip = found.participations, 0.5
    standard = found.scores / (2.0 * clip * math.sqrt(t))
    for sign, mine in ((1, standard[found.included]), (-1, standard[~found.included])):
        assert mine.mean() == pytest.approx(sign * math.sqrt(t) / 2.0, abs=4 / math.sqrt(len(mine)))
        assert mine.std() == pytest.approx(1.0, abs=0.2)
    assert 0 < found.best.value < gaussian_epsilon(math.sqrt(t), 1e-3)


def test_the_bound_passes_the_true_epsilon_no_more_often_than_it_says(audit):
    """True here: T Gaussian mechanisms in closed form. The audit is of other noise each time."""
    times, error = 20, 0.2
    found = [
        audit("client", WITH_NOISE, canaries=40, participations=2, seed=s, confidence=1 - error) for s in range(times)
    ]
    truth = gaussian_epsilon(math.sqrt(found[0].participations), 1e-3)
    passed = sum(one.best.value > truth for one in found)
    assert passed <= error * times + 3.1 * math.sqrt(error * (1 - error) * times)
    assert len({one.best.value for one in found}) > 1


@pytest.mark.parametrize("unit", ["client", "example"])
@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_under_boundless_noise_nothing_is_shown(audit, unit, algorithm):
    found = [
        audit(unit, add_noise(1e9), {"algorithm": algorithm}, canaries=30, participations=2, seed=s).best.value
        for s in range(6)
    ]
    assert np.mean(np.array(found) > 0) < 0.3


@pytest.mark.parametrize("unit", ["client", "example"])
@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_without_a_defense_the_canaries_are_told_apart(audit, unit, algorithm):
    found = audit(unit, (), {"algorithm": algorithm})
    inside, outside = found.scores[found.included], found.scores[~found.included]
    assert np.mean(inside[:, None] > outside[None]) > 0.9
    assert found.best.value > 1.5


@pytest.mark.parametrize("unit", ["client", "example"])
def test_the_bound_grows_when_the_noise_shrinks(audit, unit):
    # What a canary client sends without clipping has a norm of 10^4, an example's gradient one of a few.
    scale = 1e4 if unit == "client" else 1.0
    found = [audit(unit, add_noise(scale * noise)).best.value for noise in (1000.0, 1.0, 0.01)]
    assert found[0] == 0.0
    assert found[0] <= found[1] < found[2]


def dp_sgd(noise: float) -> list[dict[str, Any]]:
    return [{"name": "dp-sgd", "noise_multiplier": noise, "clipping_norm": 1.0}]


def accounted(noise: float, participations: int, algorithm: str, delta: float) -> float:
    """By the accountant: clients have 24 examples and batches of 8, an epoch has three."""
    steps = participations * (1 if algorithm == "fedsgd" else 3)
    return Ledger("example").added(noise, 8 / 24, steps).epsilon(delta)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_what_examples_show_under_dp_sgd_stays_below_its_accountant_and_grows_with_less_noise(audit, algorithm):
    how = {"seed": 1, "canaries": 150, "participations": 3}
    found = {n: audit("example", dp_sgd(n), {"algorithm": algorithm}, **how) for n in (0.05, 1.0, 50.0)}
    for noise, one in found.items():
        assert one.best.value < accounted(noise, 3, algorithm, 1e-3)
    assert found[50.0].best.value == 0.0
    assert found[1.0].best.value < found[0.05].best.value
    # Adam weakens it: it divides by what the other examples do.
    assert found[0.05].best.value > (0.6 if algorithm == "fedsgd" else 0.1)


def test_under_dp_sgd_the_bound_passes_the_accountant_no_more_often_than_it_says(audit):
    times, error, noise = 12, 0.2, 4.0
    how = {"canaries": 40, "participations": 2, "confidence": 1 - error}
    found = [audit("example", dp_sgd(noise), seed=seed, **how) for seed in range(times)]
    passed = sum(one.best.value > accounted(noise, 2, "fedsgd", 1e-3) for one in found)
    assert passed <= error * times + 3.1 * math.sqrt(error * (1 - error) * times)


def test_likelihood_ratios_of_canaries_that_were_out_are_those_of_pure_noise(audit):
    """E[exp(score)] is 1 for who was out, whatever was in the batch besides: the canary is known to be alone."""
    found = audit("example", dp_sgd(2.0), participations=1, canaries=300)
    ratios = np.exp(found.scores[~found.included])
    assert ratios.mean() == pytest.approx(1.0, abs=4 * ratios.std() / math.sqrt(len(ratios)) + 0.05)
    assert found.scores[found.included].mean() > found.scores[~found.included].mean()


def test_dp_sgd_is_no_promise_to_clients(audit):
    with pytest.raises(UserError, match="audit unit 'example'"):
        audit("client", dp_sgd(1.0), canaries=1)


def test_more_participations_show_more_and_the_most_that_took_part_are_audited(audit, capture):
    once, all_of_them = (audit("client", WITH_NOISE, participations=t) for t in (1, None))
    store, _ = capture(WITH_NOISE)
    clients = [update.client for update in store.updates()]
    assert once.participations == 1
    assert all_of_them.participations == max(map(clients.count, clients)) > 3
    assert once.best.value < all_of_them.best.value


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_under_the_published_udp_it_is_the_gradients_that_are_crafted_and_its_accountant_holds(audit, algorithm):
    """Clipped gradients, Adam's steps, noise for a labelled epsilon: well above the label, below Adam's reach."""
    udp = [{"name": "udp-published", "epsilon": 1.0}]
    found = audit("client", udp, {"algorithm": algorithm}, delta=1e-5, participations=2)
    assert found.best.value > 1.0
    # Nobody can move an update farther than the defense itself says.
    (defense,) = make_defenses(udp)
    reach = 0.25 if algorithm == "fedsgd" else 5e-4 * math.sqrt(sum(p.numel() for p in _network().parameters())) * 3.2
    noise = defense.sigma(8 if algorithm == "fedsgd" else 24)  # type: ignore[attr-defined]
    spread = found.scores[found.included].std()
    assert spread == pytest.approx(noise * math.sqrt(found.participations), rel=0.25)
    assert found.scores.max() < found.participations * reach + 5 * spread


def _network():
    from fl_privacy.models.ser import SERNet

    return SERNet(INPUTS, len(CLASSES))


def test_processes_change_nothing_and_another_seed_does(audit):
    one, two = (audit("example", WITH_NOISE, canaries=6, processes=n, seed=1) for n in (1, 2))
    assert np.array_equal(one.scores, two.scores)
    assert np.array_equal(one.included, two.included)
    assert not np.array_equal(one.scores, audit("example", WITH_NOISE, canaries=6, seed=2).scores)


def test_a_step_is_read_as_the_gradient_that_it_is_of(audit):
    gradient, step = (audit("example", (), changes, canaries=20) for changes in ({}, {"reply": "step"}))
    assert np.allclose(gradient.scores, step.scores, rtol=1e-2, atol=1e-3)


def test_it_is_saved_read_and_put_beside_a_promise_at_the_promises_delta(audit, tmp_path):
    found = audit("client", WITH_NOISE)
    found.save(tmp_path / "audit.npz")
    read = EpsilonAudit.load(tmp_path / "audit.npz")
    assert read.to_dict() == found.to_dict()
    assert json.loads(json.dumps(found.to_dict()))["canaries"] == 200
    promise = Privacy(unit="client", mechanism="client-dp", protects_from="server", epsilon_accountant=9.0, delta=1e-2)
    row = read.beside(promise)
    assert (row.delta, row.canaries, row.confidence, row.epsilon_accountant) == (1e-2, 200, 0.95, 9.0)
    at_its_delta = epsilon_bounds(found.scores, found.included, delta=1e-2)
    assert row.epsilon_lower_bound == max(bound.value for bound in at_its_delta) > 0
    assert "opposite" in row.conditions["audited"]
    with pytest.raises(UserError, match="for the unit 'example', the audit for 'client'"):
        read.beside(Privacy(unit="example", mechanism="dp-sgd", protects_from="server"))
    (tmp_path / "audit.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no audit"):
        EpsilonAudit.load(tmp_path / "audit.npz")


def test_seeds_are_pooled_and_show_more_together(audit):
    seeds = [audit("client", WITH_NOISE, seed=seed) for seed in (1, 2, 3)]
    pooled = EpsilonAudit.pooled(seeds)
    assert len(pooled.scores) == sum(len(one.scores) for one in seeds)
    assert pooled.best.value > np.mean([one.best.value for one in seeds])
    with pytest.raises(UserError, match="joined where"):
        EpsilonAudit.pooled([seeds[0], audit("example", WITH_NOISE, canaries=3)])


def test_what_cannot_be_audited_is_refused(capture, data, audit, tmp_path):
    store, config = capture((), "sum")
    with pytest.raises(UserError, match="sums over clients"):
        audit_epsilon(store, data, config, "client")
    store, config = capture()
    with pytest.raises(UserError, match="unit must be 'client' or 'example'"):
        audit_epsilon(store, data, config, "speaker")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one"):
        audit_epsilon(store, data, config, "client", canaries=0)
    other = tmp_path / "data"
    arrays = [array for _ in range(3) for array in (np.zeros((1, INPUTS), np.float32), np.zeros(1, np.int64))]
    write_federation(other, [ClientData(*arrays[:4])], CLASSES, *arrays[4:])
    with pytest.raises(UserError, match="not those of the data"):
        audit_epsilon(store, other, config, "client")
