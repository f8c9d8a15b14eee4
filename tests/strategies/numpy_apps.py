"""Small Flower apps on numpy: linear regression clients whose arithmetic a test can redo by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

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
    return ArrayRecord({n: Array(np.ascontiguousarray(a)) for n, a in model.items()})


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
