"""Choosing rounds, clients, arrays and precision; the words of the threat model; how clients got their names."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping as ClientClipping
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as ServerClipping
from numpy_apps import FlowerGrid, Free, federate, final, initial, named, read, record, reply, weights_app

from fl_privacy.clients.mods import identity_mod
from fl_privacy.strategies import CaptureUpdates, Reproducible
from fl_privacy.updates import StoreError, ThreatModel, UpdateStore
from fl_privacy.updates.describe import describe

CLIENTS = 5
EVERY = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}


def by_round(notes):
    return {(number // CLIENTS + 1, note[0]): note[1:] for number, note in enumerate(notes)}


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounds_clients_arrays_and_precision_together(tmp_path, every, dtype):
    app, notes = weights_app()
    settings = {"every": every, "clients": [1, "3"], "arrays": ["fc.bias"], "dtype": dtype}
    captured = federate(
        CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "s", **settings)),
        FlowerGrid(named(app), CLIENTS),
        5,
    )
    store, noted = UpdateStore(tmp_path / "s"), by_round(notes)
    rounds = [r for r in range(1, 6) if (r - 1) % every == 0]
    assert store.rounds == tuple(rounds)
    assert [(u.round, u.client) for u in store.updates()] == [(r, c) for r in rounds for c in "13"]
    assert (store.dtype, list(store.shapes)) == (dtype, ["fc.bias"])
    assert list(store.model_shapes) == list(initial())
    for update in store.updates():
        sent, returned = noted[update.round, update.client]
        assert list(update.arrays) == ["fc.bias"]
        expected = returned["fc.bias"] - sent["fc.bias"]
        np.testing.assert_allclose(update.arrays["fc.bias"], expected, rtol=2**-8 if dtype == "bfloat16" else 0)
        for name in sent:  # the model that was sent is whole and exact
            np.testing.assert_array_equal(store.sent(update.round, update.client)[name], sent[name])
    words = store.threat_model.observes
    assert words.startswith("the own update of fc.bias of each of 2 watched clients in ")
    assert ("every round" if every == 1 else f"one round in {every}") in words
    # Reply order is random here, so only up to rounding.
    plain = federate(flower.FedAvg(**EVERY), FlowerGrid(named(weights_app()[0]), CLIENTS), 5)
    for name, data in final(plain).items():
        np.testing.assert_allclose(
            np.frombuffer(final(captured)[name], np.float32), np.frombuffer(data, np.float32), rtol=1e-4
        )


def test_of_clients_who_are_not_watched_nothing_is_kept(tmp_path):
    """Neither what they sent nor the personal model that they were sent."""

    def contents(server_round, place, model):
        return RecordDict({"arrays": record({n: a + np.float32(100 + place) for n, a in model.items()})})

    class Keeping(Free):
        def configure_train(self, server_round, arrays, config, grid):
            messages = super().configure_train(server_round, arrays, config, grid)
            for message in messages:
                partition = grid.contexts[message.metadata.dst_node_id].node_config["partition-id"]
                message.content = contents(server_round, partition, self.model)
            return messages

        def aggregate_train(self, server_round, replies):
            return None, None

    app, notes = weights_app()
    store = UpdateStore(tmp_path / "s", clients=[2])
    federate(CaptureUpdates(Keeping(contents), store), FlowerGrid(named(app), CLIENTS), 1)
    held = b"".join(path.read_bytes() for path in (tmp_path / "s").iterdir())
    for client, sent, returned in notes:
        for name in sent:
            traces = [a.tobytes() in held for a in (sent[name], returned[name] - sent[name])]
            assert traces == [client == "2"] * 2
    store = UpdateStore(tmp_path / "s")
    assert store.check() == []
    (message,) = store.messages(1)
    np.testing.assert_array_equal(message.arrays["fc.bias"], initial()["fc.bias"] + np.float32(102))


def test_a_round_without_any_watched_client(tmp_path):
    app = named(weights_app()[0])
    store = UpdateStore(tmp_path / "s", clients=["77"])
    federate(CaptureUpdates(flower.FedAvg(**EVERY), store), FlowerGrid(app, CLIENTS), 1)
    store = UpdateStore(tmp_path / "s")
    assert (store.rounds, store.updates(), store.failures, store.check()) == ((1,), [], (), [])
    assert store.messages(1) == []
    assert "one watched client" in describe(store, [])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"every": 2.5}, "every must be"),
        ({"arrays": "fc1"}, r"arrays must be a list of names.*\['fc1'\]"),
        ({"clients": "12"}, "clients must be a list"),
        ({"dtype": "float16"}, "float32 or bfloat16"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, wrong, message):
    with pytest.raises(StoreError, match=message):
        UpdateStore(tmp_path, **wrong)


def test_an_array_that_the_model_does_not_have_is_refused_in_the_first_round(tmp_path):
    strategy = CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "s", arrays=["conv1"]))
    with pytest.raises(StoreError, match=r"conv1.*fc\.weight, fc\.bias"):
        federate(strategy, FlowerGrid(named(weights_app()[0]), CLIENTS), 1)


def clipped(strategy):
    return ServerClipping(strategy, 0.1, 0.5, CLIENTS)


NESTINGS = {
    "alone": (lambda c: c(flower.FedAvg(**EVERY)), ""),
    "outside a server-side wrapper": (
        lambda c: c(clipped(flower.FedAvg(**EVERY))),
        "before DifferentialPrivacyServerSideFixedClipping clips or adds noise",
    ),
    "inside a server-side wrapper": (
        lambda c: clipped(c(flower.FedAvg(**EVERY))),
        "as the strategy wrapper around the recorder lets it through",
    ),
    "inside, under Reproducible": (
        lambda c: Reproducible(clipped(c(flower.FedAvg(**EVERY)))),
        "as DifferentialPrivacyServerSideFixedClipping around the recorder lets it through",
    ),
    "under Reproducible": (lambda c: Reproducible(c(flower.FedAvg(**EVERY))), ""),
    "around Reproducible": (lambda c: c(Reproducible(clipped(flower.FedAvg(**EVERY)))), "before Differential"),
    "outside a client-side wrapper": (
        lambda c: c(ClientClipping(flower.FedAvg(**EVERY), 0.0, 0.5, CLIENTS)),
        "clipped by clients who follow DifferentialPrivacyClientSideFixedClipping",
    ),
}


@pytest.mark.parametrize("name", NESTINGS)
def test_the_threat_model_follows_from_the_nesting(tmp_path, name, caplog):
    make, position = NESTINGS[name]
    strategy = make(lambda inner: CaptureUpdates(inner, UpdateStore(tmp_path / "s")))
    federate(strategy, FlowerGrid(named(weights_app()[0]), CLIENTS), 1)
    words = UpdateStore(tmp_path / "s").threat_model.observes
    assert words.startswith("every selected client's own update in every round, and the model each was sent")
    assert position in words
    if not position:
        assert words == ThreatModel().observes


def test_what_the_attacker_owns_and_a_threat_model_of_ones_own(tmp_path):
    app = named(weights_app()[0])
    owner = CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "a"), owns="a phone book")
    federate(owner, FlowerGrid(app, CLIENTS), 1)
    assert "it owns a phone book" in UpdateStore(tmp_path / "a").threat_model.describe()
    mine = ThreatModel(attacker="a clerk", observes="a log", owns="nothing", active=True)
    federate(
        CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "b", every=2), threat_model=mine),
        FlowerGrid(app, CLIENTS),
        1,
    )
    assert UpdateStore(tmp_path / "b").threat_model == mine


NAMING = {
    "query": (lambda: named(ClientApp()), "partition id, asked for"),
    "mod": (lambda: ClientApp(mods=[identity_mod]), "partition id, told in replies"),
    "node": (lambda: ClientApp(), "node id (their apps tell no partition id)"),
}


@pytest.mark.parametrize("how", NAMING)
def test_where_names_come_from_is_recorded_and_shown(tmp_path, how):
    make, words = NAMING[how]
    app = make()

    @app.train()
    def train(message: Message, context) -> Message:
        return reply(message, read(message), 1)

    grid = FlowerGrid(app, CLIENTS)
    federate(CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "s")), grid, 2)
    store = UpdateStore(tmp_path / "s")
    expected = {f"node-{node}" for node in grid.contexts} if how == "node" else set("01234")
    assert store.named_by == dict.fromkeys(expected, how)
    assert f"{CLIENTS}, named {CLIENTS} by {words}" in describe(store, store.check())


def test_each_node_is_asked_once(tmp_path):
    asked = []

    class Counting(FlowerGrid):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            asked.extend(m.metadata.dst_node_id for m in messages if m.metadata.message_type.startswith("query"))
            return super().send_and_receive(messages, timeout=timeout)

    for number, app in enumerate((named(weights_app()[0]), weights_app()[0])):  # whether it answers or not
        asked.clear()
        grid = Counting(app, CLIENTS, waves=[2, 2, 3])
        strategy = Reproducible(
            CaptureUpdates(flower.FedAvg(fraction_evaluate=0.0), UpdateStore(tmp_path / str(number)))
        )
        federate(strategy, grid, 3)
        assert sorted(asked) == sorted(grid.contexts)


def test_two_nodes_of_one_partition_are_named_by_node_also_when_the_second_comes_later(tmp_path):
    """A SuperNode that is started in the middle of a run with another's --node-config."""
    grid = FlowerGrid(named(weights_app()[0]), 3, waves=[2, 2, 2, 2])
    first, _, third = grid.contexts.values()
    third.node_config["partition-id"] = first.node_config["partition-id"]
    settings = {"fraction_evaluate": 0.0, "min_train_nodes": 2, "min_available_nodes": 2}
    federate(CaptureUpdates(flower.FedAvg(**settings), UpdateStore(tmp_path / "s")), grid, 4)
    clients = [(u.round, u.client) for u in UpdateStore(tmp_path / "s").updates()]
    assert len(clients) == len(set(clients))
    late = {client for number, client in clients if number == 4}
    assert late == {f"node-{node}" for node in grid.contexts}
