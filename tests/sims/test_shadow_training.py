"""The plain loop computes and captures what Flower's apps do on the local engine, to the bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.sims.engines import local
from fl_privacy.sims.local import run_simulation
from fl_privacy.sims.shadow import shadow_updates
from fl_privacy.sims.shadow_training import match_shadow, train_shadow
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.training import ClientData, write_federation
from fl_privacy.updates import UpdateStore

INPUTS, CLASSES, CLIENTS, ROUNDS, A_ROUND = 12, ("neutral", "happy", "sad", "angry"), 7, 5, 3
FEDAVG = {"algorithm": "fedavg", "local-epochs": 3}
SETTINGS = {
    "seed": 5,
    "algorithm": "fedsgd",
    "num-server-rounds": ROUNDS,
    "clients-per-round": A_ROUND,
    "batch-size": 8,
    "learning-rate": 0.0,
    "local-epochs": 1,
    "dropout": 0.3,
    "fraction-evaluate": 0.0,
    "defenses": "[]",
    "observe": "each",
    "owns": "a few voices of its own",
    "capture-arrays": "null",
    "capture-clients": "null",
    "capture-every": 1,
    "capture-dtype": "float32",
    "checkpoint": "",
}


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "clients")  # toy_defenses


def defended(*entries: tuple[str, dict]) -> dict[str, str]:
    return {"defenses": json.dumps([{"name": f"toy_defenses:{name}", **settings} for name, settings in entries])}


def dp_sgd(**settings) -> dict[str, str]:
    return {"defenses": json.dumps([{"name": "dp-sgd", "delta": 1e-3, **settings}])}


def draw(rng, n):
    return rng.normal(size=(n, INPUTS)).astype(np.float32), rng.integers(0, len(CLASSES), n)


def private(n: int, client: int) -> np.ndarray | None:
    """The attribute of a client's one person; nobody has told it to one of them."""
    return None if client == 2 else np.full(n, client % 2)


def built_in(*entries: dict) -> dict[str, str]:
    return {"defenses": json.dumps(entries), "participations": ROUNDS}


@pytest.fixture
def data(tmp_path):
    """Clients of different sizes, one of them without validation examples, and held-out speakers."""
    rng = np.random.default_rng(0)
    clients = [ClientData(*draw(rng, 5 + 4 * i), *draw(rng, i), private(5 + 4 * i, i)) for i in range(CLIENTS)]
    write_federation(tmp_path / "data", clients, CLASSES, *draw(rng, 9))
    return tmp_path / "data"


@pytest.fixture
def both(data, tmp_path):
    """Run the same federation on the local engine and as a loop; return (settings, store, utility) of each."""

    def run(**changes):
        ends = []
        for name, engine in (("flower", local), ("loop", train_shadow)):
            place = tmp_path / name
            place.mkdir()
            told = []
            settings = {**SETTINGS, **changes, "data": str(data)}
            settings |= {"store": str(place / "updates"), "utility": str(place / "utility.json")}
            engine(place, CLIENTS, settings, told.append)
            assert told[-1] == settings["num-server-rounds"] * settings["clients-per-round"]
            ends.append((UpdateStore(place / "updates"), json.loads((place / "utility.json").read_text())))
        return ends

    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        FEDAVG,
        {"seed": 6, "dropout": 0.0, "clients-per-round": CLIENTS},
        {**FEDAVG, "learning-rate": 0.01, "fraction-evaluate": 0.6},
        {"fraction-evaluate": 0.01},
        defended(("Noise", {}), ("Affine", {"a": 2.0, "b": 0.5})),
        {**FEDAVG, **defended(("Affine", {"a": 2.0, "b": 0.5}), ("Noise", {}))},
        {**FEDAVG, **defended(("FreezeLast", {}), ("Counter", {}))},
        {**FEDAVG, **defended(("Remembering", {}))},
        {"reply": "step", **defended(("Remembering", {})), "participations": 3},
        {**FEDAVG, **defended(("Against", {})), "participations": 3},
        defended(("Against", {}), ("Noise", {})),
        dp_sgd(noise_multiplier=1.3),
        {**FEDAVG, **dp_sgd(target_epsilon=8.0), "participations": 3},
        {"reply": "step", **dp_sgd(noise_multiplier=0.5, engine="ghost")},
        {"reply": "step"},
        {"observe": "sum"},
        {**FEDAVG, "observe": "sum", "capture-every": 2},
        {"capture-arrays": '["fc2", "fc3.bias"]', "capture-every": 2, "capture-dtype": "bfloat16"},
        {**FEDAVG, "capture-clients": '["1", "4"]'},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "fedsgd",
)
def test_the_loop_captures_what_the_local_engine_does(both, changes):
    (flower, course), (loop, own_course) = both(**changes)
    assert loop.digest() == flower.digest()
    assert own_course == course
    assert loop.updates()
    # The digest says it all; in the terms of the requirement, and against a digest that looks at nothing:
    for theirs, ours in zip(flower.updates(), loop.updates(), strict=True):
        for name, array in theirs.arrays.items():
            np.testing.assert_allclose(ours.arrays[name], array, rtol=1e-6)


LOCAL_DP = {"name": "client-dp", "placement": "client", "clipping_norm": 0.5}


@pytest.mark.parametrize("algorithm", ["fedsgd", "step", "fedavg"])
@pytest.mark.parametrize(
    "entries",
    [
        [{**LOCAL_DP, "target_epsilon": 30.0}],
        [{"name": "udp-published", "epsilon": 10.0}],
        [{"name": "top-k", "fraction": 0.05}, {"name": "quantise", "bits": 4}],
        [{**LOCAL_DP, "noise_multiplier": 0.1}, {"name": "sign"}, {"name": "freeze", "layers": ["second"]}],
        [{"name": "share-upper"}, {**LOCAL_DP, "noise_multiplier": 0.01}],
        [{"name": "adversarial", "strength": 0.5}],
        [{"name": "adversarial", "head": "local"}, {"name": "top-k", "fraction": 0.5}],
    ],
    ids=lambda entries: "+".join(entry["name"] for entry in entries),
)
def test_every_built_in_defense_is_the_same_in_both(both, algorithm, entries):
    changes = {"fedsgd": {}, "step": {"reply": "step"}, "fedavg": FEDAVG}[algorithm]
    (flower, course), (loop, own_course) = both(**changes, **built_in(*entries))
    assert loop.digest() == flower.digest()
    assert own_course == course
    assert len(loop.updates()) == ROUNDS * A_ROUND


@pytest.mark.parametrize("changes", [{"reply": "step"}, FEDAVG], ids=["step", "fedavg"])
def test_dp_in_the_server_runs_under_flower(both, changes):
    """Raw updates reach the server, of equal weight; the model bears its noise."""
    entry = {"name": "client-dp", "placement": "server", "clipping_norm": 0.5, "noise_multiplier": 3.0}
    (flower, _), (loop, _) = both(**changes, **built_in(entry))
    assert loop.digest() == flower.digest()
    assert {update.num_examples for update in loop.updates()} == {1.0}
    first, second = (loop.sent(r, next(u.client for u in loop.updates() if u.round == r)) for r in (1, 2))
    moved = np.concatenate([(second[name] - first[name]).ravel() for name in first])
    assert moved.std() == pytest.approx(3.0 * 0.5 / A_ROUND, rel=0.05)


def test_clients_tell_the_steps_that_they_took(data, tmp_path):
    entry = {**LOCAL_DP, "noise_multiplier": 3.0}
    settings = configuration(data, tmp_path, ledgers=str(tmp_path / "ledgers.json"), **built_in(entry))
    local(tmp_path, CLIENTS, settings, lambda _: None)
    told = json.loads((tmp_path / "ledgers.json").read_text())
    took_part = [update.client for update in UpdateStore(tmp_path / "updates").updates()]
    for client in set(took_part):
        kept = {"noise": [1.5], "rates": [1.0], "steps": [took_part.count(client)]}
        assert told[client] == {f"privacy.client.{name}": value for name, value in kept.items()}
    assert {client for client, ledger in told.items() if ledger} == set(took_part)


def test_another_seed_is_another_federation(both, data, tmp_path):
    _, (store, _) = both()
    settings = {**SETTINGS, "seed": 6, "data": str(data), "store": str(tmp_path / "6"), "utility": str(tmp_path / "u")}
    train_shadow(tmp_path, CLIENTS, settings, lambda _: None)
    assert UpdateStore(tmp_path / "6").digest() != store.digest()


@pytest.mark.parametrize("changes", [{}, FEDAVG])
def test_what_a_client_cannot_send_is_recorded_alike(both, changes):
    (flower, _), (loop, _) = both(**changes, **defended(("Poison", {})))
    assert loop.digest() == flower.digest()
    assert len(loop.failures) == ROUNDS * A_ROUND
    assert "is not finite" in loop.failures[0][2]


def test_one_clients_broken_examples_are_its_own_failure(data, tmp_path, both):
    rng = np.random.default_rng(0)
    clients = [ClientData(*draw(rng, 12), *draw(rng, 2)) for _ in range(CLIENTS)]
    clients[5].train_features[:] = np.nan  # its gradient is not finite
    clients[4].train_labels[:] = 99  # there is no such class
    write_federation(data, clients, CLASSES, *draw(rng, 9))
    (flower, _), (loop, _) = both()
    assert {client: reason.split(":")[0] for _, client, reason in loop.failures} == {
        "5": "error reply",
        "4": "error reply",
    }
    assert [(u.round, u.client) for u in loop.updates()] == [(u.round, u.client) for u in flower.updates()]
    for theirs, ours in zip(flower.updates(), loop.updates(), strict=True):
        assert all(array.tobytes() == ours.arrays[name].tobytes() for name, array in theirs.arrays.items())


def test_a_defense_that_raises_is_an_error_of_its_client_alone(both):
    (flower, _), (loop, _) = both(**defended(("Moody", {})))
    assert loop.digest() == flower.digest()
    assert 0 < len(loop.failures) < ROUNDS * A_ROUND
    assert "RuntimeError: not today" in loop.failures[0][2]


def test_a_defense_in_the_strategy_is_run_under_flower(both):
    (flower, _), (loop, _) = both(**defended(("HalfRate", {})))
    assert loop.digest() == flower.digest()


def test_the_callers_random_streams_are_left_alone(data, tmp_path):
    settings = {**SETTINGS, "data": str(data), "store": str(tmp_path / "s"), "utility": str(tmp_path / "u")}

    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    ends = []
    for run in (lambda: None, lambda: train_shadow(tmp_path, CLIENTS, settings, lambda _: None)):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        run()
        ends.append(drawn())
    assert ends[0] == ends[1]


def test_more_clients_a_round_than_there_are_is_refused(data, tmp_path):
    settings = {**SETTINGS, "clients-per-round": CLIENTS + 1, "data": str(data), "store": str(tmp_path / "s")}
    with pytest.raises(UserError, match="clients_per_round = 8, but .* has 7 clients"):
        train_shadow(tmp_path, CLIENTS, settings, lambda _: None)


def configuration(data, place, **changes):
    return {
        **SETTINGS,
        **changes,
        "data": str(data),
        "store": str(place / "updates"),
        "utility": str(place / "utility"),
    }


class Matched:
    """A victim federation, and the attacker's own clients, run from its models in both ways."""

    def __init__(self, data, tmp_path):
        self.data, self.place = data, tmp_path
        rng = np.random.default_rng(1)
        clients = [ClientData(*draw(rng, 9 + 3 * i), *draw(rng, 2)) for i in range(5)]
        write_federation(tmp_path / "own", clients, CLASSES, *draw(rng, 0))

    def victim(self, **changes) -> UpdateStore:
        train_shadow(self.place, CLIENTS, configuration(self.data, self.place, **changes), lambda _: None)
        return UpdateStore(self.place / "updates")

    def loop(self, victim, name, processes=1, told=None, changes=None, **which):
        settings = {**configuration(self.place / "own", self.place, **(changes or {})), "store": str(self.place / name)}
        return match_shadow(victim, settings, processes=processes, trained=told, **which)

    def flower(self, victim, name, changes=None, **which):
        settings = configuration(self.place / "own", self.place, **(changes or {}))
        return shadow_updates(victim, "fl_privacy.clients.ser:app", 5, self.place / name, run_config=settings, **which)


@pytest.fixture
def matched(data, tmp_path):
    return Matched(data, tmp_path)


@pytest.mark.parametrize(
    ("victim", "own", "which"),
    [
        ({}, {"seed": 9}, {}),
        (FEDAVG, {**FEDAVG, "seed": 9}, {"rounds": [4, 2], "clients_per_round": 2, "seed": 3}),
        ({"capture-dtype": "bfloat16", "capture-arrays": '["fc1"]'}, {}, {"clients_per_round": 4, "seed": 1}),
        ({"observe": "sum"}, defended(("Noise", {}), ("Moody", {})), {}),
        (FEDAVG, {**FEDAVG, **defended(("FreezeLast", {}), ("Affine", {"a": 0.5, "b": 0.1}))}, {"rounds": [5]}),
    ],
)
def test_matched_shadows_are_those_of_the_flower_way(matched, victim, own, which):
    store, told = matched.victim(**victim), []
    flower = matched.flower(store, "flower", own, **which)
    loop = matched.loop(store, "loop", told=told.append, changes=own, **which)
    assert loop.digest() == flower.digest()
    rounds, a_round = which.get("rounds", range(ROUNDS)), which.get("clients_per_round", 5)
    assert len(loop.updates()) + len(loop.failures) == told[-1] == len(rounds) * a_round
    assert loop.check() == []


def test_matched_rounds_over_processes_are_the_same(matched):
    store, told = matched.victim(), []
    alone = matched.loop(store, "alone", clients_per_round=3)
    spread = matched.loop(store, "spread", processes=2, told=told.append, clients_per_round=3)
    assert spread.digest() == alone.digest()
    assert told[-1] == max(told) == 3 * ROUNDS
    assert {p.name for p in matched.place.iterdir()} == {"data", "own", "updates", "utility", "alone", "spread"}


def test_matched_clients_step_where_the_victims_did(matched, data, tmp_path):
    """`FedSGD(reply="step")`, which a federation under a DP wrapper uses."""
    app, settings = ServerApp(), configuration(data, tmp_path)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedSGD(0.2, reply="step", fraction_evaluate=0.0)
        start = ArrayRecord(SERNet(INPUTS, len(CLASSES)).state_dict())
        CaptureUpdates(strategy, UpdateStore(tmp_path / "stepped")).start(grid, start, num_rounds=2)

    run_simulation(app, "fl_privacy.clients.ser:app", CLIENTS, settings)
    store = UpdateStore(tmp_path / "stepped")
    loop = matched.loop(store, "loop")
    assert loop.digest() == matched.flower(store, "flower").digest()
    assert {update.kind for update in loop.updates()} == {"delta"}


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"rounds": [1, 9]}, r"does not hold round\(s\) 9"),
        ({"clients_per_round": 6}, "clients_per_round must be 1 to 5"),
        ({"seed": -1}, "seed must be"),
        ({"processes": 0}, "processes must be at least 1"),
    ],
)
def test_wrong_requests_for_matched_shadows_leave_nothing_behind(matched, which, message):
    store = matched.victim()
    with pytest.raises(UserError, match=message):
        matched.loop(store, "loop", **which)
    assert not (matched.place / "loop").exists()


def test_a_model_of_another_shape_is_refused(matched):
    store, rng = matched.victim(), np.random.default_rng(2)
    wide = [ClientData(np.zeros((9, 24), np.float32), draw(rng, 9)[1], *draw(rng, 0)) for _ in range(5)]
    write_federation(matched.place / "own", wide, CLASSES, *draw(rng, 0))
    with pytest.raises(UserError, match=r"fc1.weight has shape \(256, 12\), the model's is \(256, 24\)"):
        matched.loop(store, "loop")
