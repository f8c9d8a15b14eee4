"""Shadow updates of the attacker's own clients, from the very models that the victims were sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fl_privacy.sims.local import run_simulation
from fl_privacy.strategies import CaptureUpdates, Reproducible
from fl_privacy.training.matched import Replay
from fl_privacy.updates import SentMessage, UpdateStore


def shadow_updates(
    store: UpdateStore,
    client_app: ClientApp | str,
    num_clients: int,
    out: str | Path,
    *,
    run_config: UserConfig | None = None,
    rounds: Sequence[int] | None = None,
    clients_per_round: int | None = None,
    seed: int = 0,
    workers: int = 1,
) -> UpdateStore:
    """Run a ClientApp on the attacker's own data from each model that a store has captured ("matched" shadows).

    The attacker in the server knows which model it sent in each round. Here its own clients are sent the same messages
    (model, configuration, message type), and what they answer is captured as the victims' answers were. So shadow and
    private updates differ in the people alone, which a shadow federation of another course cannot promise.

    Parameters
    ----------
    store : UpdateStore
        Captured updates, with the models that were sent.
    client_app : ClientApp or "package.module:name"
        What the victims run, as it is.
    num_clients : int
        The attacker's own clients; client i has ``node_config = {"partition-id": i, "num-partitions": num_clients}``.
    out : str or Path
        Folder of the new store.
    run_config : dict, optional
        The ClientApp's ``context.run_config``: what makes it read the attacker's own data.
    rounds : sequence of int, optional
        Which captured rounds to use; all by default.
    clients_per_round : int, optional
        How many of the own clients answer in each round, drawn anew for each; all by default.
    seed : int
        Of the draw and of the clients' randomness.
    workers : int
        Processes, see `fl_privacy.run_simulation`.

    Returns
    -------
    UpdateStore
        The shadow store, with the same arrays and dtype as `store`. Who its clients are, the attacker writes into a
        label file of its own.

    Raises
    ------
    UserError
        If the store keeps no sent models, lacks a round, or `out` is in use.

    Notes
    -----
    Rounds in which no client replied are passed over. Where several different messages were sent in a round
    (personalised models), they go round the own clients in turn.
    What a strategy wrapper between clients and recorder did to the victims' updates (clipping, noise) is not repeated.
    """
    plan = Replay.of(store, num_clients, rounds=rounds, clients_per_round=clients_per_round, seed=seed)
    shadow = UpdateStore(out, arrays=list(store.shapes), dtype=store.dtype)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        capture = CaptureUpdates(_Replay(store, plan), shadow, threat_model=plan.threat_model)
        Reproducible(capture, seed).start(grid, ArrayRecord(), num_rounds=plan.rounds[-1])

    run_simulation(app, client_app, num_clients, run_config, seed=seed, workers=workers)
    return UpdateStore(out)


class _Replay(Strategy):
    """Sends again what was sent, and leaves the answers to those who watch."""

    def __init__(self, store: UpdateStore, plan: Replay) -> None:
        super().__init__()
        self._store, self._plan = store, plan

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send a captured round's messages to some of the own clients."""
        if server_round not in self._plan.rounds:
            return []
        nodes = list(grid.get_node_ids())
        sent = self._store.messages(server_round)
        contents = [_content(message) for message in sent]
        if not sent:  # nobody replied
            return []
        return [
            Message(contents[i % len(sent)], nodes[client], sent[i % len(sent)].told.message_type)
            for i, client in enumerate(self._plan.chosen(server_round))
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate nothing."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nothing."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate nothing."""
        return None

    def summary(self) -> None:
        """Say nothing."""


def _record_of(name: str, keys: Sequence[str]) -> str:
    """Return the key of the array record that an array belongs to; a key may be the beginning of another."""
    return keys[0] if len(keys) == 1 else max((key for key in keys if name.startswith(f"{key}/")), key=len)


def _content(message: SentMessage) -> RecordDict:
    """Make a message's records again."""
    content = RecordDict()
    keys = [key for key, kind, _ in message.told.records if kind == "arrays"]
    for key, kind, values in message.told.records:
        if kind == "arrays":
            mine = {name: array for name, array in message.arrays.items() if _record_of(name, keys) == key}
            prefix = "" if len(keys) == 1 else f"{key}/"
            content[key] = ArrayRecord({n.removeprefix(prefix): Array(np.array(a)) for n, a in mine.items()})
        else:
            values = dict[str, Any](values)
            content[key] = ConfigRecord(values) if kind == "config" else MetricRecord(values)
    return content
