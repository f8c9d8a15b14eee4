from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.sims.local import LocalGrid, run_simulation


def quickstart(rounds: int = 2) -> tuple[ServerApp, ClientApp, dict]:
    """Apps in the manner of Flower's quickstart-pytorch, which know nothing of us; and what they left."""
    left: dict = {"lifespan": [], "counts": {}, "settings": set()}
    client, server = ClientApp(), ServerApp()

    def load(message: Message) -> nn.Module:
        model = nn.Linear(4, 2)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        return model

    def data(context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(context.node_config["partition-id"])
        x = torch.randn(12, 4, generator=generator)
        return x, (x.sum(1) > 0).long()

    @client.lifespan()
    def lifespan(context: Context):
        left["lifespan"].append("enter")
        yield
        left["lifespan"].append("exit")

    @client.train()
    def train(message: Message, context: Context) -> Message:
        model, (x, y) = load(message), data(context)
        optimiser = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
        for batch in torch.randperm(len(x)).split(4):
            optimiser.zero_grad()
            noise = torch.tensor(np.random.normal(0, 0.1) + random.gauss(0, 0.1))  # noqa: NPY002
            (nn.functional.cross_entropy(model(nn.functional.dropout(x[batch], 0.2)), y[batch]) + 0 * noise).backward()
            model.weight.grad += noise.float()
            optimiser.step()
        counter = context.state.setdefault("counter", MetricRecord({"n": 0}))
        counter["n"] += 1
        left["counts"][context.node_config["partition-id"]] = counter["n"]
        left["settings"].add(context.run_config["local-epochs"])
        metrics = MetricRecord({"num-examples": len(x), "train_loss": 0.0})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model, (x, y) = load(message), data(context)
        accuracy = (model(x).argmax(1) == y).float().mean().item()
        metrics = MetricRecord({"num-examples": len(x), "eval_acc": accuracy})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @client.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"who": ConfigRecord({"id": context.node_config["partition-id"]})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        asked = [Message(RecordDict(), dst_node_id=n, message_type="query") for n in grid.get_node_ids()]
        left["ids"] = [m.content["who"]["id"] for m in grid.send_and_receive(asked)]
        torch.manual_seed(0)
        strategy = FedAvg(fraction_train=0.5, min_available_nodes=6)
        result = strategy.start(
            grid,
            ArrayRecord(nn.Linear(4, 2).state_dict()),
            num_rounds=context.run_config["num-server-rounds"],
            train_config=ConfigRecord({"lr": 0.1}),
        )
        left["result"] = result
        context.state["done"] = MetricRecord({"rounds": rounds})

    return server, client, left


CONFIG = {"num-server-rounds": 2, "local-epochs": 1}


def final(seed: int) -> bytes:
    server, client, left = quickstart()
    run_simulation(server, client, 6, CONFIG, seed=seed)
    return b"".join(a.numpy().tobytes() for a in left["result"].arrays.values())


def test_unmodified_apps_run_with_train_evaluate_query_lifespan_and_state():
    server, client, left = quickstart()
    served: list[str] = []
    context = run_simulation(server, client, 6, CONFIG, on_message=served.append)
    assert left["ids"] == list(range(6))
    assert left["settings"] == {1}
    assert left["lifespan"] == ["enter", "exit"] * (len(left["lifespan"]) // 2)
    assert sum(left["counts"].values()) == 2 * 3
    assert sorted(left["result"].evaluate_metrics_clientapp) == [1, 2]
    assert left["result"].evaluate_metrics_clientapp[2]["eval_acc"] > 0.5
    assert context.state["done"]["rounds"] == 2
    assert served == ["query"] * 6 + (["train"] * 3 + ["evaluate"] * 6) * 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    assert final(1) == final(1)
    assert final(1) != final(2)


def test_what_ran_before_and_the_callers_generators_do_not_matter_and_stay_as_they_are():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    first = final(3)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert final(3) == first
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_the_generators_and_threads_come_back_after_a_failure_too():
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        raise RuntimeError("out of luck")

    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002
    with pytest.raises(RuntimeError, match="out of luck"):
        run_simulation(server, ClientApp(), 2)
    assert (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == states  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.fixture
def served():
    """Serve messages to an app: a function of (app, nodes) that gives a grid."""
    with _flower.run_identity(1):
        yield lambda app, nodes=3, config=None: LocalGrid(app, nodes, config or {})


def message(node: int, content: RecordDict | None = None, kind: str = "train") -> Message:
    return Message(content or RecordDict(), dst_node_id=node, message_type=kind)


def echo(change=None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if change is not None:
            change(message, context)
        return Message(message.content, reply_to=message)

    return app


def test_replies_come_in_the_order_of_the_messages_each_once(served):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"p": context.node_config["partition-id"]})}), reply_to=message)

    grid = served(app)
    nodes = list(grid.get_node_ids())
    order = [nodes[2], nodes[0], nodes[1], nodes[0]]
    questions = [message(n) for n in order]
    answers = list(grid.send_and_receive(questions))
    assert [a.metadata.src_node_id for a in answers] == order
    assert [a.content["c"]["p"] for a in answers] == [2, 0, 1, 0]
    assert [a.metadata.reply_to_message_id for a in answers] == [q.metadata.message_id for q in questions]
    ids = list(grid.push_messages([message(nodes[0]), message(nodes[1])]))
    assert [m.metadata.src_node_id for m in grid.pull_messages(ids[::-1])] == [nodes[1], nodes[0]]
    assert list(grid.pull_messages(ids)) == []
    made = grid.create_message(RecordDict(), "train", nodes[1], "group")
    assert (made.metadata.dst_node_id, made.metadata.group_id) == (nodes[1], "group")


def test_a_client_that_raises_becomes_an_error_reply_and_the_others_go_on(served):
    def fail(message: Message, context: Context) -> None:
        if context.node_config["partition-id"] == 1:
            raise ValueError("no microphone")

    answers = list(served(echo(fail)).send_and_receive([message(1000), message(1001), message(1002)]))
    assert [a.has_error() for a in answers] == [False, True, False]
    assert "no microphone" in answers[1].error.reason
    assert answers[1].metadata.src_node_id == 1001


def test_a_client_that_answers_nothing_becomes_an_error_reply(served):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> None:
        return None

    (answer,) = served(app).send_and_receive([message(1000)])
    assert answer.has_error()


def test_what_a_failing_client_did_to_its_state_is_undone_as_in_flower(served):
    def count(message: Message, context: Context) -> None:
        context.state["n"] = MetricRecord({"n": context.state["n"]["n"] + 1 if "n" in context.state else 1})
        if context.state["n"]["n"] == 2 and "stop" in message.content:
            raise ValueError
        message.content["seen"] = MetricRecord({"n": context.state["n"]["n"]})

    grid = served(echo(count))
    stop = RecordDict({"stop": ConfigRecord()})
    answers = [next(iter(grid.send_and_receive([message(1000, c)]))) for c in (None, stop, None)]
    assert [a.has_error() for a in answers] == [False, True, False]
    assert answers[2].content["seen"]["n"] == 2


def test_an_unknown_kind_of_message_and_an_unknown_node_are_error_replies(served):
    kind, node = served(echo()).send_and_receive([message(1000, kind="evaluate"), message(5)])
    assert kind.has_error()
    assert node.has_error()
    assert "no node 5" in node.error.reason


def test_a_client_cannot_reach_into_the_servers_records(served):
    kept = []

    def meddle(message: Message, context: Context) -> None:
        message.content["c"]["list"].append(9)
        message.content["c"]["x"] = -1
        message.content["a"]["w"] = Array(np.zeros(2))
        message.content["new"] = ConfigRecord()
        kept.append(message.content)

    content = RecordDict(
        {
            "c": ConfigRecord({"x": 1, "list": [1, 2]}),
            "a": ArrayRecord({"w": Array(np.ones(2))}),
            "m": MetricRecord({"n": [1.0]}),
        }
    )
    first, second = served(echo(meddle)).send_and_receive([message(1000, content), message(1001, content)])
    assert set(content) == {"c", "a", "m"}
    assert dict(content["c"]) == {"x": 1, "list": [1, 2]}
    assert content["a"]["w"].numpy().tolist() == [1, 1]
    assert second.content["c"]["list"] == [1, 2, 9]  # the second client got the server's, not the first one's
    kept[0]["c"]["list"].append(10)
    kept[0]["a"]["w"] = Array(np.full(2, 7.0))
    kept[0]["m"]["n"].append(5.0)
    assert first.content["c"]["list"] == [1, 2, 9]
    assert first.content["a"]["w"].numpy().tolist() == [0, 0]
    assert first.content["m"]["n"] == [1.0]


def test_run_config_and_node_config_are_each_clients_own(served):
    seen = []

    def look(message: Message, context: Context) -> None:
        seen.append((context.run_config["x"], dict(context.node_config)))
        context.run_config["x"] = 99

    list(served(echo(look), 2, {"x": 7}).send_and_receive([message(1000), message(1001), message(1001)]))
    assert seen == [(7, {"partition-id": i, "num-partitions": 2}) for i in (0, 1, 1)]


def test_a_clients_draws_depend_on_its_number_and_turn_not_on_the_order(served):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        draws = [random.random(), float(np.random.random()), torch.rand(1).item()]  # noqa: NPY002
        return Message(RecordDict({"m": MetricRecord({"draws": draws})}), reply_to=message)

    def draws(order: list[int]) -> dict:
        found: dict = {}
        for answer in served(app).send_and_receive([message(n) for n in order]):
            found.setdefault(answer.metadata.src_node_id, []).append(tuple(answer.content["m"]["draws"]))
        return found

    one, other = draws([1000, 1001, 1000, 1002]), draws([1002, 1000, 1000, 1001])
    assert one == other
    assert len({d for turns in one.values() for d in turns}) == 4


def test_apps_by_reference(tmp_path, monkeypatch):
    (tmp_path / "some_flower_app.py").write_text(
        "from flwr.app import MetricRecord\nfrom flwr.clientapp import ClientApp\n"
        "from flwr.serverapp import ServerApp\n"
        "client, app = ClientApp(), ServerApp()\n"
        "@app.main()\ndef main(grid, context):\n"
        "    context.state['n'] = MetricRecord({'n': len(list(grid.get_node_ids()))})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    context = run_simulation("some_flower_app:app", "some_flower_app:client", 4)
    assert context.state["n"]["n"] == 4
    sys.modules.pop("some_flower_app")


@pytest.mark.parametrize("reference", ["no_such_module:app", "fl_privacy.clients.ser:nope", "fl_privacy.clients.ser"])
def test_a_reference_that_leads_nowhere_is_the_users_error(reference):
    with pytest.raises(UserError):
        run_simulation(ServerApp(), reference, 2)


def test_no_clients_are_refused():
    with pytest.raises(UserError, match="num_supernodes"):
        run_simulation(ServerApp(), ClientApp(), 0)


def test_legacy_clients_and_servers_run(recwarn):
    from flwr.server import ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg as OldFedAvg

    fitted = []

    class Client(NumPyClient):
        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, parameters, config):
            fitted.append(self.number)
            return [p + self.number for p in parameters], 1, {}

        def evaluate(self, parameters, config):
            return 0.5, 1, {"accuracy": 1.0}

    client = ClientApp(client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client())
    final: list = []

    class Watch(OldFedAvg):
        def aggregate_fit(self, *args):
            parameters, metrics = super().aggregate_fit(*args)
            final.append(parameters)
            return parameters, metrics

    def server_fn(context: Context) -> ServerAppComponents:
        from flwr.common import ndarrays_to_parameters

        start = ndarrays_to_parameters([np.zeros(2)])
        strategy = Watch(initial_parameters=start, min_fit_clients=3, min_available_clients=3)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))

    run_simulation(ServerApp(server_fn=server_fn), client, 3)
    from flwr.common import parameters_to_ndarrays

    assert sorted(fitted) == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(parameters_to_ndarrays(final[-1])[0], [2.0, 2.0])
