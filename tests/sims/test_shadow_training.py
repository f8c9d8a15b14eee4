"""The plain loop computes and captures what Flower's apps do on the local engine, to the bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_privacy.errors import UserError
from fl_privacy.sims.engines import local
from fl_privacy.sims.shadow_training import train_shadow
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


def draw(rng, n):
    return rng.normal(size=(n, INPUTS)).astype(np.float32), rng.integers(0, len(CLASSES), n)


@pytest.fixture
def data(tmp_path):
    """Clients of different sizes, one of them without validation examples, and held-out speakers."""
    rng = np.random.default_rng(0)
    clients = [ClientData(*draw(rng, 5 + 4 * i), *draw(rng, i)) for i in range(CLIENTS)]
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
