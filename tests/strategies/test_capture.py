from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as ServerClipping
from numpy_apps import SHAPES, initial, read, record, reply, server, weights_app

from fl_privacy.clients.mods import identity_mod
from fl_privacy.sims import local
from fl_privacy.sims.local import LocalGrid, run_simulation
from fl_privacy.strategies import CaptureUpdates
from fl_privacy.updates import StoreError, ThreatModel, UpdateStore
from fl_privacy.updates._writer import Writer

CLIENTS = 5
ALL = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
SOME = {"fraction_evaluate": 0.0, "fraction_train": 0.6, "min_available_nodes": CLIENTS}
STRATEGIES = {
    "FedAvg": lambda: flower.FedAvg(**SOME),
    "FedAdam": lambda: flower.FedAdam(**SOME, eta=0.05),
    "FedAvgM": lambda: flower.FedAvgM(**SOME, server_momentum=0.5),
    "FedProx": lambda: flower.FedProx(**SOME, proximal_mu=0.1),
    "FedMedian": lambda: flower.FedMedian(**SOME),
    "Krum": lambda: flower.Krum(**ALL, num_malicious_nodes=1),
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(**ALL, beta=0.2),
    "MultiKrum": lambda: flower.MultiKrum(**ALL, num_malicious_nodes=1, num_nodes_to_select=2),
    "clipping outside": lambda: ServerClipping(flower.FedAvg(**ALL), 0.5, 0.01, CLIENTS),
}


def run(make_strategy, client_app, rounds=3, clients=CLIENTS, seed=3) -> dict[str, np.ndarray]:
    app, left = server(make_strategy, rounds)
    run_simulation(app, client_app, clients, seed=seed)
    return left["arrays"]


def by_name(notes: list, clients_a_round: int) -> list:
    """Clients' notes, each round's in the order in which a store keeps them."""
    rounds = [notes[i : i + clients_a_round] for i in range(0, len(notes), clients_a_round)]
    return [note for one in rounds for note in sorted(one, key=lambda note: int(note[0]))]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)


@pytest.mark.parametrize("name", STRATEGIES)
def test_alters_nothing_and_records_what_clients_themselves_saw(name, tmp_path):
    plain = run(STRATEGIES[name], weights_app()[0])
    app, notes = weights_app()
    captured = run(lambda: CaptureUpdates(STRATEGIES[name](), UpdateStore(tmp_path / "s")), app)
    assert same(plain, captured)
    assert not same(plain, initial())

    store = UpdateStore(tmp_path / "s")
    updates = store.updates()
    assert store.rounds == (1, 2, 3)
    assert store.shapes == SHAPES
    notes = by_name(notes, len(notes) // 3)
    assert [u.client for u in updates] == [client for client, _, _ in notes]
    for update, (client, sent, returned) in zip(updates, notes, strict=True):
        assert update.kind == "delta"
        assert update.num_examples == 4 + 3 * int(client)
        for array in SHAPES:
            single = sent[array].astype(np.float32)  # some strategies go on in double precision
            np.testing.assert_array_equal(store.sent(update.round, client)[array], single)
            np.testing.assert_array_equal(update.arrays[array], returned[array] - single)


def norms(store: UpdateStore) -> np.ndarray:
    return np.array([np.sqrt(sum(np.square(a).sum() for a in u.arrays.values())) for u in store.updates()])


def test_place_in_the_nesting_is_the_attackers_place(tmp_path):
    clip = 0.05

    def outside():
        return CaptureUpdates(ServerClipping(flower.FedAvg(**ALL), 0.1, clip, CLIENTS), UpdateStore(tmp_path / "out"))

    def inside():
        return ServerClipping(CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "in")), 0.1, clip, CLIENTS)

    plain = run(lambda: ServerClipping(flower.FedAvg(**ALL), 0.1, clip, CLIENTS), weights_app()[0], rounds=2)
    app, notes = weights_app()
    assert same(run(outside, app, rounds=2), plain)
    assert same(run(inside, weights_app()[0], rounds=2), plain)
    true = np.array([np.sqrt(sum(np.square(b[n] - a[n]).sum() for n in a)) for _, a, b in by_name(notes, CLIENTS)])
    assert true.min() > 2 * clip
    np.testing.assert_allclose(norms(UpdateStore(tmp_path / "out")), true, rtol=1e-5)
    inner = norms(UpdateStore(tmp_path / "in"))
    assert len(inner) >= CLIENTS
    np.testing.assert_allclose(inner, clip, rtol=1e-4)


def test_every_round_is_on_disk_when_the_run_is_over_also_under_a_wrapper(tmp_path, monkeypatch):
    write = Writer._write

    def slowly(self, *args):
        time.sleep(0.2)
        write(self, *args)

    monkeypatch.setattr(Writer, "_write", slowly)
    for name, wrap in [("outer", lambda s: s), ("inner", lambda s: ServerClipping(s, 0.0, 0.1, CLIENTS))]:
        made = CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / name))
        run(lambda made=made, wrap=wrap: wrap(made), weights_app()[0], rounds=3)
        assert UpdateStore(tmp_path / name).rounds == (1, 2, 3), name


class Personal(flower.FedAvg):
    """Sends each node its own model."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            node = message.metadata.dst_node_id
            mine = {n: a.numpy() + np.float32(node % 3) for n, a in arrays.items()}
            content = message.content.copy()
            content["arrays"] = record(mine)
            yield Message(content, dst_node_id=node, message_type=message.metadata.message_type)


def test_personalised_strategies_are_recorded_per_client(tmp_path):
    app, notes = weights_app()
    captured = run(lambda: CaptureUpdates(Personal(**ALL), UpdateStore(tmp_path / "s")), app, rounds=2)
    assert same(captured, run(lambda: Personal(**ALL), weights_app()[0], rounds=2))
    store = UpdateStore(tmp_path / "s")
    assert len({store.sent(1, str(c))["fc.bias"].tobytes() for c in range(CLIENTS)}) == 3
    for update, (client, sent, returned) in zip(store.updates(), by_name(notes, CLIENTS), strict=True):
        np.testing.assert_array_equal(store.sent(update.round, client)["fc.bias"], sent["fc.bias"])
        np.testing.assert_array_equal(update.arrays["fc.bias"], returned["fc.bias"] - sent["fc.bias"])


def troubled_app() -> ClientApp:
    """Client 1 raises, client 2 returns NaN, client 3 returns an array of another shape."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition, arrays = int(context.node_config["partition-id"]), read(message)
        if partition == 1:
            raise RuntimeError("no microphone")
        if partition == 2:
            arrays["fc.weight"] = np.full_like(arrays["fc.weight"], np.nan)
        return reply(message, arrays, 10)

    return app


def test_failing_and_nan_clients_are_recorded_and_passed_on(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    captured = run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), troubled_app(), 2)
    plain = run(lambda: flower.FedAvg(**ALL), troubled_app(), 2)
    assert np.isnan(plain["fc.weight"]).all()
    assert same(plain, captured)  # what is wrong for the strategy stays so
    store = UpdateStore(tmp_path / "s")
    assert [(u.round, u.client) for u in store.updates()] == [(1, "0"), (1, "3"), (1, "4")]
    first = {client: why for number, client, why in store.failures if number == 1}
    assert "no microphone" in first["1"]
    assert "fc.weight" in first["2"]
    assert "not finite" in first["2"]


@pytest.fixture
def silent(monkeypatch):
    """An engine that does not answer the identity query itself: apps do, or nobody."""
    monkeypatch.setattr(local, "IDENTITY_QUERY", "never asked")


@pytest.mark.usefixtures("silent")
def test_without_an_answer_clients_are_named_by_node(tmp_path, caplog):
    run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), weights_app()[0], 2)
    names = {u.client for u in UpdateStore(tmp_path / "s").updates()}
    assert names == {f"node-{1000 + i}" for i in range(CLIENTS)}


@pytest.mark.usefixtures("silent")
def test_the_identity_mod_names_clients_of_apps_without_a_query_function(tmp_path):
    app, _ = weights_app(mods=[identity_mod])
    run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), app, 1)
    assert {u.client for u in UpdateStore(tmp_path / "s").updates()} == set("01234")


@pytest.mark.usefixtures("silent")
def test_where_only_train_replies_are_stamped_the_stamp_names_clients(tmp_path):
    app, _ = weights_app(train_mods=[identity_mod])  # answers no query: those never reach a train mod
    run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), app, 1)
    assert {u.client for u in UpdateStore(tmp_path / "s").updates()} == set("01234")


def test_nodes_that_claim_one_partition_are_kept_apart(tmp_path, monkeypatch):
    """Deployed SuperNodes started with the same --node-config."""

    class Twins(LocalGrid):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for client in self._clients.values():
                client.node_config["partition-id"] = 0

    monkeypatch.setattr(local, "LocalGrid", Twins)
    app = ClientApp(mods=[identity_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {n: a + np.float32(context.node_id) for n, a in read(message).items()}
        return reply(message, arrays, 1)

    run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), app, 1)
    updates = UpdateStore(tmp_path / "s").updates()
    assert len({u.client for u in updates}) == CLIENTS
    assert len({float(u.arrays["fc.bias"][0]) for u in updates}) == CLIENTS


def test_equal_runs_write_equal_stores(tmp_path):
    for name in ("a", "b"):
        run(lambda name=name: CaptureUpdates(flower.FedAvg(**SOME), UpdateStore(tmp_path / name)), weights_app()[0])
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_threat_model_is_written_and_a_used_folder_refused(tmp_path):
    told = ThreatModel(attacker="the provider")
    run(
        lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s"), threat_model=told),
        weights_app()[0],
        1,
    )
    assert UpdateStore(tmp_path / "s").threat_model == told
    with pytest.raises(StoreError, match="already holds"):
        run(lambda: CaptureUpdates(flower.FedAvg(**ALL), UpdateStore(tmp_path / "s")), weights_app()[0], 1)


def test_the_store_is_whole_when_the_server_fails_in_a_later_round(tmp_path):
    class Failing(flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 3:
                raise RuntimeError("out of luck")
            return super().aggregate_train(server_round, replies)

    with pytest.raises(RuntimeError, match="out of luck"):
        run(lambda: CaptureUpdates(Failing(**ALL), UpdateStore(tmp_path / "s")), weights_app()[0], 4)
    assert UpdateStore(tmp_path / "s").rounds == (1, 2, 3)


def test_the_weight_is_read_under_the_strategys_own_key(tmp_path):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = reply(message, read(message), 1.0)
        answer.content["metrics"]["frames"] = 30 + int(context.node_config["partition-id"])
        del answer.content["metrics"]["num-examples"]
        return answer

    run(lambda: CaptureUpdates(flower.FedAvg(**ALL, weighted_by_key="frames"), UpdateStore(tmp_path / "s")), app, 1)
    assert sorted(u.num_examples for u in UpdateStore(tmp_path / "s").updates()) == [30, 31, 32, 33, 34]


def test_a_strategy_with_a_start_of_its_own_is_not_passed_over_in_silence(tmp_path, caplog):
    """Flower's advanced examples override `start` to log and save."""
    started = []

    class Own(flower.FedAvg):
        def start(self, *args, **kwargs):
            started.append(True)
            return super().start(*args, **kwargs)

    caplog.set_level(logging.WARNING)
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        run(lambda: CaptureUpdates(Own(**ALL), UpdateStore(tmp_path / "s")), weights_app()[0], 1)
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert started or "start" in caplog.text
