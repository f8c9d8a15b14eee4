"""Small Flower apps on numpy: linear regression clients whose arithmetic a test can redo by hand."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from fl_privacy import _flower
from fl_privacy.clients.mods import IDENTITY, identity
from fl_privacy.clients.stamp import RECORD
from fl_privacy.clients.stamp import stamp as stamp_of

SHAPES = {"fc.weight": (3, 5), "fc.bias": (3,)}
Model = dict[str, np.ndarray]


def initial() -> Model:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def examples(partition: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(100 + partition)
    n = 4 + 3 * partition
    return rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32)


def gradient(model: Model, partition: int) -> Model:
    x, y = examples(partition)
    error = x @ model["fc.weight"].T + model["fc.bias"] - y
    return {"fc.weight": (error.T @ x / len(x)).astype(np.float32), "fc.bias": error.mean(axis=0).astype(np.float32)}


def norm(model: Model) -> float:
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in model.values())))


def read(message: Message) -> Model:
    return {n: a.numpy() for n, a in next(iter(message.content.array_records.values())).items()}


def record(model: Model) -> ArrayRecord:
    return ArrayRecord({n: Array(np.asarray(a, order="C")) for n, a in model.items()})


def reply(message: Message, arrays: Model, weight: float, **extra: Any) -> Message:
    content = {"arrays": record(arrays), "metrics": MetricRecord({"num-examples": weight}), **extra}
    return Message(RecordDict(content), reply_to=message)


def weights_app(*, mods: list[Any] | None = None, train_mods: list[Any] | None = None) -> tuple[ClientApp, list]:
    """FedAvg clients that take one step, and the list where each notes (partition, sent, returned)."""
    app, notes = ClientApp(mods=mods), []

    @app.train(mods=train_mods)
    def train(message: Message, context: Context) -> Message:
        partition, sent = int(context.node_config["partition-id"]), read(message)
        step = gradient(sent, partition)
        returned = {n: (sent[n] - np.float32(0.1) * step[n]).astype(np.float32) for n in sent}
        notes.append((str(partition), sent, returned))
        return reply(message, returned, len(examples(partition)[0]))

    return app, notes


def named(app: ClientApp) -> ClientApp:
    """Have an app answer which partition it is, as a deployed one must."""
    app.query(IDENTITY)(identity)
    return app


def sgd_app(*, train_mods: list[Any] | None = None, stamp: bool = True) -> ClientApp:
    """FedSGD clients that honour the train config."""
    app = ClientApp()

    @app.train(mods=train_mods)
    def train(message: Message, context: Context) -> Message:
        partition, sent = int(context.node_config["partition-id"]), read(message)
        told = next(iter(message.content.config_records.values()))
        made, kind = gradient(sent, partition), "gradient"
        if told["reply"] == "step":
            rate = np.float32(told["learning-rate"])
            made, kind = {n: (sent[n] - rate * made[n]).astype(np.float32) for n in sent}, "weights"
        extra = {RECORD: stamp_of(record(made), kind)} if stamp else {}
        return reply(message, made, len(examples(partition)[0]), **extra)

    return app


def server(make_strategy: Callable[[], Strategy], rounds: int = 3) -> tuple[ServerApp, dict[str, Any]]:
    """A ServerApp that runs a strategy, and the dict where it leaves the final arrays."""
    app, left = ServerApp(), {}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        result = make_strategy().start(grid, record(initial()), num_rounds=rounds)
        left["arrays"] = {n: a.numpy() for n, a in result.arrays.items()}

    return app, left


class FlowerGrid(Grid):
    """What a strategy meets in Flower's own runtimes: random node ids, nodes and replies in any order, and nobody who
    answers for the apps.

    `waves` lets nodes connect late: how many are there at each look. `lost` names partitions whose replies never come.
    """

    def __init__(self, app: ClientApp, clients: int, waves: Iterable[int] = (), lost: Iterable[int] = ()) -> None:
        self._app, self._chance = app, random.SystemRandom()
        self._waves, self._lost, self._sent = list(waves), set(lost), 0
        self.looks: list[int] = []
        self.contexts = {
            self._chance.getrandbits(63): Context(
                1, 1, {"partition-id": i, "num-partitions": clients}, RecordDict(), {}
            )
            for i in range(clients)
        }
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    run = None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        nodes = list(self.contexts)
        if self._waves:
            nodes = nodes[: self._waves.pop(0)]
        self.looks.append(len(nodes))
        self._chance.shuffle(nodes)
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in list(messages):
            self._sent += 1
            ids.append(f"message-{self._sent}")
            _flower.set_message_id(message, ids[-1])
        return [self._serve(message) for message in self._chance.sample(list(messages), len(ids))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(list(messages)))

    def _serve(self, message: Message) -> str:
        context = self.contexts[message.metadata.dst_node_id]
        request = _flower.make_message(_flower.copy_metadata(message.metadata), copy.deepcopy(message.content))
        try:
            answer = self._app(request, context)
        except Exception as error:
            answer = Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)
        if context.node_config["partition-id"] not in self._lost:
            self._replies[message.metadata.message_id] = answer
        return message.metadata.message_id


class OrderedGrid(FlowerGrid):
    """With nodes and replies in the order of the partitions, so that runs without randomness sum in one order."""

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        places = {node: place for place, node in enumerate(self.contexts)}
        replies = super().send_and_receive(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: places[reply.metadata.src_node_id])


def federate(strategy: Strategy, grid: Grid, rounds: int = 3, start: Model | None = None) -> Result:
    """Run a strategy as a ServerApp would, with the process's randomness in a state that nobody knows."""
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()
    with _flower.run_identity(1):
        return strategy.start(grid, record(initial() if start is None else start), num_rounds=rounds)


def final(result: Result) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in result.arrays.items()}


def noisy_app(*, mods: list[Any], train_mods: list[Any] | None = None, kind: str = "weights") -> ClientApp:
    """Clients whose replies come from all three global generators."""
    app = named(ClientApp(mods=mods))

    @app.train(mods=train_mods)
    def train(message: Message, context: Context) -> Message:
        sent = read(message)
        noise = random.random() + np.random.random() + torch.rand(1).item()  # noqa: NPY002
        drawn = {n: noise + np.random.normal(size=a.shape) for n, a in sent.items()}  # noqa: NPY002
        made = {n: (0.9 * a + drawn[n]).astype(np.float32) for n, a in sent.items()}
        return reply(message, made, 5, **{RECORD: stamp_of(record(made), kind)})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        drawn = random.random() + np.random.random() + torch.rand(1).item()  # noqa: NPY002
        metrics = MetricRecord({"num-examples": 1, "drawn": drawn})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Free(Strategy):
    """Sends what it is told to, and averages each array over those who returned it.

    `contents` maps (round, place of the node, model) to the records of a message, or to None for no message.
    """

    def __init__(self, contents: Callable[[int, int, Model], RecordDict | None], message_type: str = "train") -> None:
        super().__init__()
        self.contents, self.message_type = contents, message_type

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        self.model = {n: a.numpy() for n, a in arrays.items()}
        made = [(node, self.contents(server_round, i, self.model)) for i, node in enumerate(grid.get_node_ids())]
        return [Message(content, node, self.message_type) for node, content in made if content is not None]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, None]:
        kept = [reply for reply in replies if reply.has_content() and reply.content.array_records]
        if not kept:
            return None, None
        models = [read(reply) for reply in kept]
        mean = {n: [m[n] for m in models if n in m] or [a] for n, a in self.model.items()}
        return record({n: np.mean(arrays, axis=0).astype(self.model[n].dtype) for n, arrays in mean.items()}), None

    def configure_evaluate(self, *args: Any) -> list[Message]:
        return []

    def aggregate_evaluate(self, *args: Any) -> None:
        return None

    def summary(self) -> None:
        pass
