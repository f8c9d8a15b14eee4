"""observe="sum": what ideal secure aggregation lets out, and nothing of a single client."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from numpy_apps import FlowerGrid, Free, OrderedGrid, federate, final, initial, named, read, record, reply, weights_app

from fl_privacy.clients.stamp import RECORD, stamp
from fl_privacy.errors import UserError
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.updates import StoreError, UpdateStore
from fl_privacy.updates.describe import describe

CLIENTS = 5
EVERY = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
SOME = {"fraction_evaluate": 0.0, "fraction_train": 0.6, "min_available_nodes": CLIENTS}


def capture(tmp_path, strategy, app, rounds=2, **settings) -> UpdateStore:
    store = UpdateStore(tmp_path / "s", **settings)
    federate(CaptureUpdates(strategy, store, observe="sum"), FlowerGrid(app, CLIENTS), rounds)
    return UpdateStore(tmp_path / "s")


def weight(client: str) -> int:
    return 4 + 3 * int(client)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_weighted_sum_of_what_clients_returned(tmp_path, dtype):
    app, notes = weights_app()
    store = capture(tmp_path, flower.FedAvg(**SOME), named(app), rounds=3, dtype=dtype)
    assert store.observe == "sum"
    totals = store.updates()
    assert [u.round for u in totals] == [1, 2, 3]
    for number, total in enumerate(totals):
        part = notes[3 * number : 3 * number + 3]
        assert sorted(client for client, _, _ in part) == list(total.participants)
        assert total.num_examples == sum(weight(client) for client, _, _ in part)
        for name, array in total.arrays.items():
            expected = sum(
                weight(c) * (back[name].astype(np.float64) - sent[name].astype(np.float64)) for c, sent, back in part
            )
            np.testing.assert_allclose(array, expected, rtol=1e-5 if dtype == "float32" else 2**-7, atol=1e-4)


def traces(store: UpdateStore, notes) -> list[str]:
    """Names of the clients of whose update any array's bytes stand in the store."""
    held = b"".join(path.read_bytes() for path in sorted(store.path.iterdir()))
    found = []
    for client, sent, back in notes:
        arrays = [a for n in back for a in (back[n], back[n] - sent[n], weight(client) * (back[n] - sent[n]))]
        if any(array.astype(np.float32).tobytes() in held for array in arrays):
            found.append(client)
    return found


def test_nothing_of_a_single_client_is_on_disk(tmp_path):
    app, notes = weights_app()
    store = capture(tmp_path, flower.FedAvg(**EVERY), named(app), rounds=3)
    assert traces(store, notes) == []
    for record_of_round in store._rounds:
        (entry,) = record_of_round["records"]
        assert entry["participants"] == list("01234")
        # Not even single weights: only their sum.
        assert not {str(weight(c)) for c in "01234"} & {str(value) for value in entry.values()}

    # The search finds what is there to be found.
    again, notes = weights_app()
    each = UpdateStore(tmp_path / "each")
    federate(CaptureUpdates(flower.FedAvg(**EVERY), each), FlowerGrid(named(again), CLIENTS), 1)
    assert sorted(traces(each, notes)) == list("01234")


def test_alters_nothing(tmp_path):
    for make in (lambda: flower.FedAdam(**EVERY), lambda: flower.FedMedian(**EVERY)):
        plain = federate(make(), OrderedGrid(named(weights_app()[0]), CLIENTS), 3)
        store = UpdateStore(tmp_path / make().__class__.__name__)
        summed = CaptureUpdates(make(), store, observe="sum")
        assert final(federate(summed, OrderedGrid(named(weights_app()[0]), CLIENTS), 3)) == final(plain)


def app_of(answer) -> ClientApp:
    """Clients that answer ``answer(partition, sent)``: arrays, weight and kind."""
    app = named(ClientApp())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays, examples, kind = answer(int(context.node_config["partition-id"]), read(message))
        extra = {RECORD: stamp(record(arrays), kind)}
        answered = reply(message, arrays, 1.0 if examples is None else examples, **extra)
        if examples is None:
            del answered.content["metrics"]["num-examples"]
        return answered

    return app


def whole(server_round, place, model):
    return RecordDict({"arrays": record(model)})


def moved(sent, by):
    return {n: (a + np.float32(by)).astype(np.float32) for n, a in sent.items()}


def test_a_client_that_is_not_finite_is_left_out_and_named(tmp_path):
    def answer(partition, sent):
        return moved(sent, np.nan if partition == 2 else partition + 1), partition + 1, "weights"

    class Keeping(Free):
        def aggregate_train(self, server_round, replies):
            return None, None

    store = capture(tmp_path, Keeping(whole), app_of(answer), rounds=1)
    (total,) = store.updates()
    assert total.participants == ("0", "1", "3", "4")
    assert total.num_examples == 1 + 2 + 4 + 5
    np.testing.assert_allclose(total.arrays["fc.bias"], 1 + 4 + 16 + 25, rtol=1e-5)
    ((number, client, why),) = store.failures
    assert (number, client) == (1, "2")
    assert "not finite" in why


@pytest.mark.parametrize("odd", [0, 3])
def test_a_client_of_another_kind_is_left_out_and_named(tmp_path, odd):
    """A gradient and weights have no common sum, whoever comes first."""

    def answer(partition, sent):
        if partition == odd:
            return moved(sent, 0) | {"fc.bias": np.full(3, 1e6, np.float32)}, 1, "gradient"
        return moved(sent, 1), 1, "weights"

    store = capture(tmp_path, Free(whole), app_of(answer), rounds=1)
    (total,) = store.updates()
    assert total.kind == "delta"
    assert total.participants == tuple(c for c in "01234" if c != str(odd))
    np.testing.assert_allclose(total.arrays["fc.bias"], CLIENTS - 1, rtol=1e-5)
    ((_, client, why),) = store.failures
    assert client == str(odd)
    assert "gradient" in why


@pytest.mark.parametrize("lacking", [(1,), range(CLIENTS)])
def test_where_a_weight_is_lacking_the_sum_is_unweighted_and_says_so(tmp_path, lacking):
    def answer(partition, sent):
        return moved(sent, partition + 1), None if partition in lacking else 100, "weights"

    store = capture(tmp_path, Free(whole), app_of(answer), rounds=1)
    (total,) = store.updates()
    assert total.num_examples is None
    np.testing.assert_allclose(total.arrays["fc.bias"], 1 + 2 + 3 + 4 + 5, rtol=1e-5)


def test_gradients_are_summed_as_gradients(tmp_path):
    def answer(partition, sent):
        return {n: np.full_like(a, partition) for n, a in sent.items()}, 2, "gradient"

    store = capture(tmp_path, FedSGD(0.1, **EVERY), app_of(answer), rounds=2)
    assert {u.kind for u in store.updates()} == {"gradient"}
    for total in store.updates():
        np.testing.assert_allclose(total.arrays["fc.weight"], 2 * (0 + 1 + 2 + 3 + 4))


def test_clients_of_different_layers_are_summed_layer_by_layer(tmp_path):
    def contents(server_round, place, model):
        return RecordDict({"arrays": record({"fc.bias": model["fc.bias"]} if place % 2 else model)})

    class ByPartition(Free):
        def configure_train(self, server_round, arrays, config, grid):
            messages = super().configure_train(server_round, arrays, config, grid)
            for message in messages:
                partition = grid.contexts[message.metadata.dst_node_id].node_config["partition-id"]
                message.content = contents(server_round, partition, self.model)
            return messages

    def answer(partition, sent):
        return moved(sent, 10**partition), 1, "weights"

    store = capture(tmp_path, ByPartition(contents), app_of(answer), rounds=1)
    (total,) = store.updates()
    np.testing.assert_allclose(total.arrays["fc.weight"], 10101, rtol=1e-4)
    np.testing.assert_allclose(total.arrays["fc.bias"], 11111, rtol=1e-4)
    assert len(store.messages(1)) == 2
    with pytest.raises(StoreError, match="2 different models"):
        store.sent(1, "0")


def test_the_model_that_all_were_sent_is_there(tmp_path):
    store = capture(tmp_path, flower.FedAvg(**EVERY), named(weights_app()[0]), rounds=1)
    for client in ("sum", "0", "4"):
        np.testing.assert_array_equal(store.sent(1, client)["fc.weight"], initial()["fc.weight"])
    with pytest.raises(StoreError, match="took no part"):
        store.sent(1, "9")
    (message,) = store.messages(1)
    np.testing.assert_array_equal(message.arrays["fc.weight"], initial()["fc.weight"])


def test_said_in_words(tmp_path):
    store = capture(tmp_path, flower.FedAvg(**EVERY), named(weights_app()[0]), rounds=2)
    assert "the weighted sum of the selected clients' updates in every round" in store.threat_model.observes
    said = describe(store, store.check())
    assert "the weighted sum of each round" in said
    assert f"clients       {CLIENTS}, named {CLIENTS} by partition id, asked for" in said
    assert store.named_by == dict.fromkeys("01234", "query")


def test_watching_single_clients_of_a_sum_is_refused(tmp_path):
    store = UpdateStore(tmp_path / "s", clients=["1"])
    with pytest.raises(UserError, match="exclude each other"):
        federate(
            CaptureUpdates(flower.FedAvg(**EVERY), store, observe="sum"),
            FlowerGrid(named(weights_app()[0]), CLIENTS),
            1,
        )
    assert not (tmp_path / "s").exists()
    with pytest.raises(UserError, match="observe must be"):
        CaptureUpdates(flower.FedAvg(**EVERY), store, observe="mean")
