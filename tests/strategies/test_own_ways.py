"""A user's own ways of federating: captured as they are, listed, and altered in nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from numpy_apps import FlowerGrid, Free, OrderedGrid, federate, final, initial, named, read, record, reply, weights_app

from fl_privacy.errors import UserError
from fl_privacy.strategies import CaptureUpdates
from fl_privacy.updates import UpdateStore
from fl_privacy.updates.describe import describe

CLIENTS = 4
CONFIG = {"config": ConfigRecord({"rate": 0.5})}


def both(make_strategy, app, tmp_path, *, rounds=2, start=None, **capture):
    """Run without and with capture, on one node order; return the store and whether the models are the same bytes."""
    settings = {key: capture.pop(key) for key in ("arrays", "clients", "every", "dtype") if key in capture}
    plain = federate(make_strategy(), OrderedGrid(app, CLIENTS), rounds, start)
    wrapped = CaptureUpdates(make_strategy(), UpdateStore(tmp_path / "s", **settings), **capture)
    captured = federate(wrapped, OrderedGrid(app, CLIENTS), rounds, start)
    assert final(plain) == final(captured)
    return UpdateStore(tmp_path / "s")


def moved(app_arrays=lambda partition, sent: sent, keys=lambda key: key, extra=lambda partition: {}) -> ClientApp:
    """Clients that add their number + 1 to what they return of each array record."""
    app = named(ClientApp())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        content = {}
        for key, arrays in message.content.array_records.items():
            sent = {n: a.numpy() for n, a in arrays.items()}
            kept = app_arrays(partition, sent)
            content[keys(key)] = record({n: (a + (partition + 1)).astype(a.dtype) for n, a in kept.items()})
        content["metrics"] = MetricRecord({"num-examples": 2.0})
        return Message(RecordDict({**content, **extra(partition)}), reply_to=message)

    return app


def test_several_array_records_are_kept_apart_and_named_by_their_keys(tmp_path):
    """Control variates beside the model, as SCAFFOLD sends them: the same names under another key."""

    def contents(server_round, place, model):
        control = {n: np.full_like(a, 100 * server_round + place) for n, a in model.items()}
        return RecordDict({"arrays": record(model), "control": record(control), **CONFIG})

    store = both(lambda: Free(contents), moved(), tmp_path)
    assert set(store.shapes) == {f"{key}/{name}" for key in ("arrays", "control") for name in initial()}
    for update in store.updates():
        assert len(update.arrays) == 4
        assert all(
            (array == int(update.client) + 1).all() or name.startswith("arrays")
            for name, array in update.arrays.items()
        )
        sent = store.sent(update.round, update.client)
        assert (sent["control/fc.bias"] == 100 * update.round + int(update.client)).all()
    np.testing.assert_array_equal(store.sent(1, "3")["arrays/fc.weight"], initial()["fc.weight"])


@pytest.mark.parametrize("key", ["weights", "arrays"])
def test_a_reply_under_another_key_and_with_further_records(tmp_path, key):
    """What a client adds beside the model, under names of the model even, is no part of the update."""

    def extra(partition):
        other = record({n: np.full_like(a, np.nan) for n, a in initial().items()})
        return {"state": other, "more": ConfigRecord({"note": "x"})} if key == "arrays" else {}

    contents = lambda server_round, place, model: RecordDict({"arrays": record(model), **CONFIG})  # noqa: E731
    store = both(lambda: Free(contents), moved(keys=lambda _: key, extra=extra), tmp_path)
    assert not store.failures
    assert list(store.shapes) == list(initial())
    assert [u.client for u in store.updates()] == [str(c) for c in range(CLIENTS)] * 2
    for update in store.updates():
        np.testing.assert_allclose(update.arrays["fc.weight"], int(update.client) + 1, rtol=1e-5)


def test_keys_of_personalised_messages_may_differ(tmp_path):
    """The same model, to some under another key: each reply is read by what its client was sent."""

    def contents(server_round, place, model):
        return RecordDict({f"model-{place % 2}": record(model)})

    def extra(partition):
        return {"side": record({"fc.bias": np.zeros(3, np.float32)})}

    store = both(lambda: Free(contents), moved(extra=extra), tmp_path, rounds=1)
    assert not store.failures
    assert {next(key for key, _, _ in m.told.records) for m in store.messages(1)} == {"model-0", "model-1"}
    assert [float(u.arrays["fc.bias"][0]) for u in store.updates()] == pytest.approx([1, 2, 3, 4], rel=1e-5)


def test_one_content_may_go_to_two_functions_of_the_app(tmp_path):
    class Two(Free):
        def configure_train(self, server_round, arrays, config, grid):
            content = RecordDict({"arrays": arrays})
            return [Message(content, node, f"train.part_{i % 2}") for i, node in enumerate(super_nodes(grid))]

    def super_nodes(grid):
        return list(grid.get_node_ids())

    app = named(ClientApp())
    for name in ("part_0", "part_1"):

        @app.train(name)
        def train(message: Message, context: Context) -> Message:
            return reply(message, {n: a + 1 for n, a in read(message).items()}, 1)

    class Averaging(Two):
        def aggregate_train(self, server_round, replies):
            self.model = initial()
            return super().aggregate_train(server_round, replies)

    store = both(lambda: Averaging(None), app, tmp_path, rounds=1)
    assert [m.told.message_type for m in store.messages(1)] == ["train.part_0", "train.part_1"]


TYPES = {
    "half": np.array([0.5, -2.0], np.float16),
    "double": np.array([1.0 + 1e-12, 3.0]),
    "counter": np.array(7, np.int64),
    "bytes": np.array([0, 254], np.uint8),
    "short": np.array([65_000], np.uint16),
    "word": np.array([2**32 - 9], np.uint32),
    "long": np.array([2**63 + 2**40 + 1], np.uint64),
    "flags": np.array([False]),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_of_any_number_type(tmp_path, dtype):
    start = {**initial(), **TYPES}
    contents = lambda server_round, place, model: RecordDict({"arrays": record(model)})  # noqa: E731
    store = both(lambda: Free(contents), moved(), tmp_path, rounds=1, start=start, dtype=dtype)
    assert not store.failures
    (message,) = store.messages(1)
    for name, array in start.items():  # as it was sent, to the bit
        found = message.arrays[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
    for update in store.updates():
        moved_by = int(update.client) + 1
        for name, array in TYPES.items():
            stored = update.arrays[name]
            assert stored.dtype == np.float32
            expected = (array + moved_by).astype(array.dtype).astype(np.float64) - array.astype(np.float64)
            np.testing.assert_allclose(stored, expected, rtol=1e-2 if name == "half" else 1e-6, err_msg=name)


def test_an_array_that_changes_its_type_is_replayed_in_the_type_it_was_sent_in(tmp_path):
    """FedAdam sends float32 in the first round and float64 from then on."""
    app, notes = weights_app()
    named(app)
    every = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    federate(CaptureUpdates(flower.FedAdam(**every), UpdateStore(tmp_path / "s")), FlowerGrid(app, CLIENTS), 3)
    store = UpdateStore(tmp_path / "s")
    types = []
    for number in store.rounds:
        (message,) = store.messages(number)
        _, sent, _ = notes[(number - 1) * CLIENTS]
        assert {n: (a.dtype, a.tobytes()) for n, a in message.arrays.items()} == {
            n: (a.dtype, a.tobytes()) for n, a in sent.items()
        }
        types.append(message.arrays["fc.bias"].dtype)
    assert types == [np.float32, np.float64, np.float64]


LAYERS = {
    "fc1.weight": (4, 3),
    "fc1.bias": (4,),
    "fc2.weight": (5, 4),
    "fc2.bias": (5,),
    "fc3.weight": (2, 5),
    "fc3.bias": (2,),
}


def deep() -> dict[str, np.ndarray]:
    return {n: np.random.default_rng(len(n)).normal(size=s).astype(np.float32) for n, s in LAYERS.items()}


def layers(model, *numbers):
    return {n: a for n, a in model.items() if int(n[2]) in numbers}


def test_clients_with_different_layers_are_captured_in_the_models_order(tmp_path):
    """The first message lacks the first layer, and no message shows the whole model before the second round."""
    parts = [(2, 3), (1, 2), (3,), (1, 2)]

    def contents(server_round, place, model):
        return RecordDict({"arrays": record(layers(model, *parts[place]) if server_round == 1 else model)})

    store = both(lambda: Free(contents), moved(), tmp_path, start=deep())
    assert list(store.shapes) == list(LAYERS)
    assert not store.failures
    held = {(u.round, u.client): {int(n[2]) for n in u.arrays} for u in store.updates()}
    assert held == {(1, str(c)): set(p) for c, p in enumerate(parts)} | {(2, str(c)): {1, 2, 3} for c in range(CLIENTS)}
    assert list(store.sent(1, "1")) == list(LAYERS)[:4]
    said = describe(store, store.check())
    assert "every shard is whole" in said
    assert all(f"{n} {' x '.join(map(str, s))}" in said for n, s in LAYERS.items())


def test_clients_may_answer_with_a_part_of_what_they_were_sent(tmp_path):
    contents = lambda server_round, place, model: RecordDict({"arrays": record(model)})  # noqa: E731
    app = moved(lambda partition, sent: layers(sent, *range(1, 4 - partition % 3)))
    store = both(lambda: Free(contents), app, tmp_path, rounds=1, start=deep())
    assert [sorted({int(n[2]) for n in u.arrays}) for u in store.updates()] == [[1, 2, 3], [1, 2], [1], [1, 2, 3]]


def test_a_client_without_any_of_the_chosen_layers_is_told_so(tmp_path):
    contents = lambda server_round, place, model: RecordDict({"arrays": record(model)})  # noqa: E731
    app = moved(lambda partition, sent: layers(sent, 3) if partition == 2 else sent)
    store = both(lambda: Free(contents), app, tmp_path, rounds=1, start=deep(), arrays=["fc1"])
    ((_, client, why),) = store.failures
    assert client == "2"
    assert "none of the arrays that are kept" in why
    assert len(store.updates()) == CLIENTS - 1


@pytest.mark.parametrize("observe", ["each", "sum"])
def test_narrower_clients_are_no_obstacle(tmp_path, observe, caplog):
    """Clients with fewer units (as in HeteroFL) have the same names in other shapes."""
    caplog.set_level(logging.WARNING)

    def contents(server_round, place, model):
        model = dict(model)
        if place % 2:
            model["fc1.weight"], model["fc1.bias"] = model["fc1.weight"][:2], model["fc1.bias"][:2]
        return RecordDict({"arrays": record(model)})

    class Keeping(Free):
        def aggregate_train(self, server_round, replies):
            return None, None

    def run(strategy):
        federate(strategy, OrderedGrid(moved(), CLIENTS), 1, deep())

    run(CaptureUpdates(Keeping(contents), UpdateStore(tmp_path / "s"), observe=observe))
    store = UpdateStore(tmp_path / "s")
    assert "fc1.weight is sent in several shapes" in caplog.text
    assert not store.failures
    for update in store.updates():
        assert all(array.shape == LAYERS[name] for name, array in update.arrays.items())
    if observe == "sum":
        (total,) = store.updates()
        np.testing.assert_allclose(total.arrays["fc1.bias"], 2.0 * (1 + 3), rtol=1e-5)  # clients 0 and 2
        np.testing.assert_allclose(total.arrays["fc2.bias"], 2.0 * (1 + 2 + 3 + 4), rtol=1e-5)
    else:
        assert store.sent(1, "1")["fc1.bias"].shape == (2,)


def failing_app(failing) -> ClientApp:
    app = named(ClientApp())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if (int(context.node_config["partition-id"]), message.content["config"]["server-round"]) in failing:
            raise RuntimeError("no\nmicrophone")
        return reply(message, {n: a + 1 for n, a in read(message).items()}, 3)

    return app


EVERY = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}


@pytest.mark.parametrize("observe", ["each", "sum"])
@pytest.mark.parametrize("keep_sent", [True, False])
def test_a_round_in_which_all_fail_and_one_without_replies(tmp_path, observe, keep_sent):
    failing = {(c, 2) for c in range(CLIENTS)} | {(1, 1)}
    plain = federate(flower.FedAvg(**EVERY), OrderedGrid(failing_app(failing), CLIENTS), 3)
    store = UpdateStore(tmp_path / "s", keep_sent=keep_sent)
    captured = federate(
        CaptureUpdates(flower.FedAvg(**EVERY), store, observe=observe), OrderedGrid(failing_app(failing), CLIENTS), 3
    )
    assert final(plain) == final(captured)
    store = UpdateStore(tmp_path / "s")
    assert store.rounds == (1, 2, 3)
    assert store.check() == []
    assert [(r, c) for r, c, _ in store.failures] == [(1, "1")] + [(2, str(c)) for c in range(CLIENTS)]
    assert {why for _, _, why in store.failures} == {"error reply: RuntimeError: no microphone"}
    assert {u.round for u in store.updates()} == {1, 3}
    assert f"{CLIENTS}" in describe(store, [])


def test_replies_that_never_come(tmp_path):
    """Not even an error: nobody answered before the time was out."""
    app = named(weights_app()[0])
    for name, lost in [("all", range(CLIENTS)), ("two", (0, 2))]:
        grid = FlowerGrid(app, CLIENTS)
        strategy = CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / name))
        asked = grid.send_and_receive

        def silent(messages, *, timeout=None, asked=asked, grid=grid, lost=lost):
            messages = list(messages)
            grid._lost = set(lost) if messages and messages[0].metadata.message_type == "train" else set()
            return asked(messages, timeout=timeout)

        grid.send_and_receive = silent
        federate(strategy, grid, 2)
        store = UpdateStore(tmp_path / name)
        assert store.rounds == (1, 2)
        assert store.check() == []
        assert {u.client for u in store.updates()} == {str(c) for c in range(CLIENTS)} - {str(c) for c in lost}
        assert store.failures == ()


def test_rounds_without_messages_or_without_arrays_are_not_recorded(tmp_path):
    def contents(server_round, place, model):
        if server_round == 2:
            return None
        if server_round in (1, 4):  # a question to the clients, in the way of a round
            return RecordDict({"config": ConfigRecord({"how-many": True})})
        return RecordDict({"arrays": record(model)})

    store = both(lambda: Free(contents), moved(), tmp_path, rounds=5)
    assert store.rounds == (3, 5)
    assert not store.failures
    with pytest.raises(UserError, match="does not hold round 2"):
        store.messages(2)


def test_arrays_that_are_no_numbers_are_passed_on_and_left_alone(tmp_path):
    """An app's own serialisation, and text in an array: nothing to subtract, and no reason to stop a federation."""
    mine = Array("float32", (1,), "my.own-format", b"\x00\x01")
    text = Array(np.array(["some", "words"]))

    def contents(server_round, place, model):
        arrays = ArrayRecord({**record(model), "mine": mine, "text": text})
        return RecordDict({"arrays": arrays})

    app = named(ClientApp())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = ArrayRecord(dict(message.content.array_records["arrays"]))
        arrays["fc.bias"] = Array(arrays["fc.bias"].numpy() + 1)
        assert arrays["mine"].data == mine.data
        content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    class Keeping(Free):
        def aggregate_train(self, server_round, replies):
            assert all(r.content["arrays"]["mine"].data == mine.data for r in replies)
            return None, None

    federate(CaptureUpdates(Keeping(contents), UpdateStore(tmp_path / "s")), FlowerGrid(app, CLIENTS), 1)
    store = UpdateStore(tmp_path / "s")
    assert list(store.shapes) == list(initial())
    assert not store.failures
    np.testing.assert_allclose(store.updates()[0].arrays["fc.bias"], 1, rtol=1e-5)


def test_a_wrapper_outside_may_replace_what_is_sent(tmp_path):
    """Also the message's whole content: what goes to whom is noted when it is handed on."""

    class Replacing(CaptureUpdates):
        def configure_train(self, *args):
            messages = list(super().configure_train(*args))
            for message in messages:
                message.content = message.content.copy()
            return messages

    app = named(weights_app()[0])
    federate(Replacing(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "s")), FlowerGrid(app, CLIENTS), 2)
    assert len(UpdateStore(tmp_path / "s").updates()) == 2 * CLIENTS


def test_nodes_that_connect_late_are_named_by_partition(tmp_path):
    """A ServerApp may run before its SuperNodes (and Flower's simulation starts it before it registers nodes)."""
    app = named(weights_app()[0])
    grid = FlowerGrid(app, CLIENTS, waves=[0, 2, 4])
    settings = {"fraction_evaluate": 0.0, "min_train_nodes": 2, "min_available_nodes": 2}
    federate(CaptureUpdates(flower.FedAvg(**settings), UpdateStore(tmp_path / "s")), grid, 4)
    assert grid.looks[:2] == [0, 2]
    store = UpdateStore(tmp_path / "s")
    assert set(store.named_by) <= set("0123")
    assert set(store.named_by.values()) == {"query"}
    assert len(store.named_by) > 2


def test_a_second_run_of_the_same_strategy_is_refused_by_its_store(tmp_path):
    app = named(weights_app()[0])
    strategy = CaptureUpdates(flower.FedAvg(**EVERY), UpdateStore(tmp_path / "s"))
    federate(strategy, FlowerGrid(app, CLIENTS), 1)
    digest = UpdateStore(tmp_path / "s").digest()
    with pytest.raises(UserError, match="already holds captured updates"):
        federate(strategy, FlowerGrid(app, CLIENTS), 1)
    assert UpdateStore(tmp_path / "s").digest() == digest
