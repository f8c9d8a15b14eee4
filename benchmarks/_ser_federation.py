"""The SER federation that engines are measured on: the same apps for ours and for Flower's own.

Flower's `run_simulation` takes no run configuration, so the clients' settings travel in the train config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fl_privacy.clients import ser
from fl_privacy.clients.mods import identity_mod, reproducible_mod
from fl_privacy.models.ser import SERNet
from fl_privacy.training import ClientData, write_federation

INPUTS, EXAMPLES = 988, 23
SETTINGS = {"algorithm": "fedsgd", "batch-size": 20, "learning-rate": 0.0, "local-epochs": 1, "dropout": 0.2}

app = ClientApp(mods=[identity_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer as the SER ClientApp does, with settings from the message."""
    settings = json.loads(str(message.content.config_records["config"]["settings"]))
    return ser.train(message, _told(context, settings))


def configured(run_config: UserConfig) -> ClientApp:
    """Return the SER ClientApp with a run configuration, for a Flower simulation that has none."""
    app = ClientApp(mods=[reproducible_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return ser.train(message, _told(context, run_config))

    return app


def _told(context: Context, run_config: UserConfig) -> Context:
    # A context of its own: under Ray the run configuration of the one that comes cannot be changed.
    return Context(context.run_id, context.node_id, context.node_config, context.state, run_config)


def write_data(folder: Path, clients: int) -> None:
    """Write a federation of random features."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(clients):
        x, y = rng.standard_normal((EXAMPLES, INPUTS), np.float32), rng.integers(0, 4, EXAMPLES)
        made.append(ClientData(x, y, x[:0], y[:0]))
    write_federation(folder, made, list("abcd"), made[0].train_features[:0], made[0].train_labels[:0])


def server(data: Path, phases: list[tuple[Strategy, int]], changes: Mapping[str, Any] | None = None) -> ServerApp:
    """Return a ServerApp that runs one strategy after the other, for so many rounds each."""
    settings = {"data": str(data), "seed": 1, "defenses": "[]", **SETTINGS, **(changes or {})}
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for strategy, rounds in phases:
            start = ArrayRecord(SERNet(INPUTS).state_dict())
            config = ConfigRecord({"settings": json.dumps(settings)})
            strategy.start(grid, start, num_rounds=rounds, train_config=config)

    return app
