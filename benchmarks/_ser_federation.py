"""The SER federation that the engines are measured on: the same apps for our engine and for Flower's own.

Flower's `run_simulation` takes no run configuration, so the clients' settings travel in the train config.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fl_privacy import FedSGD
from fl_privacy.clients import ser
from fl_privacy.clients.mods import identity_mod
from fl_privacy.models.ser import SERNet
from fl_privacy.training import ClientData, write_federation

INPUTS, EXAMPLES = 988, 23
PARAMETERS = 286_596

app = ClientApp(mods=[identity_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer as the SER ClientApp does, with settings from the message."""
    settings = message.content.config_records["config"]["settings"]
    context.run_config.update(json.loads(str(settings)))
    return ser.train(message, context)


def write_data(folder: Path, clients: int) -> None:
    """Write a federation of random features into a folder."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(clients):
        x, y = rng.standard_normal((EXAMPLES, INPUTS), np.float32), rng.integers(0, 4, EXAMPLES)
        made.append(ClientData(x, y, x[:0], y[:0]))
    write_federation(folder, made, list("abcd"), made[0].train_features[:0], made[0].train_labels[:0])


def settings(folder: Path) -> ConfigRecord:
    """Return the train config of the clients."""
    told = {
        "data": str(folder),
        "seed": 1,
        "algorithm": "fedsgd",
        "batch-size": 20,
        "dropout": 0.2,
        "defenses": "[]",
    }
    return ConfigRecord({"settings": json.dumps(told)})


def strategy(clients: int, wrap: Callable[[Strategy], Strategy] = lambda inner: inner) -> Strategy:
    """Return FedSGD over so many clients a round, without evaluation."""
    return wrap(FedSGD(fraction_train=1e-9, min_train_nodes=clients, fraction_evaluate=0.0))


def server(folder: Path, phases: list[tuple[Strategy, int]]) -> ServerApp:
    """Return a ServerApp that runs strategies for so many rounds each."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for inner, rounds in phases:
            inner.start(
                grid, ArrayRecord(SERNet(INPUTS).state_dict()), num_rounds=rounds, train_config=settings(folder)
            )

    return app


def _unused(value: Any) -> None:
    del value
