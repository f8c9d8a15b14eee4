"""The speech emotion recognition ServerApp: a federation with the attacker's recorder in the server.

Run configuration, beside the client's (`fl_privacy.clients.ser`): ``num-server-rounds``, ``clients-per-round``,
``store`` (folder for the captured updates), ``utility`` (file for the held-out speakers' scores by round),
``observe`` ("each" or "sum"), ``capture-arrays`` and ``capture-clients`` (JSON list, or null for all),
``capture-every``, ``capture-dtype``, ``fraction-evaluate``, ``owns`` (what the attacker owns, for the threat model),
``checkpoint`` (file from which a killed run goes on, or empty), if the first weights are to be those of another
federation, ``initial-seed`` (that one's seed), ``reply`` (FedSGD: "gradient" or "step"), and for defenses
``participations`` (in how many rounds a client takes part at most) and ``ledgers`` (file for the noisy steps that each
client took).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy.defenses import make_defenses
from fl_privacy.sims.resume import Resumable
from fl_privacy.sims.run_config import store_of
from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
from fl_privacy.strategies._identity import Identities, stamp_of
from fl_privacy.training import held_out_scores, predict, read_federation, read_server, write_utility
from fl_privacy.training.local_model import initial_network
from fl_privacy.training.participation import learning_rate
from fl_privacy.updates.protocol import LEDGER_QUERY, PARTICIPATIONS, PARTITION

_QUERY_TIMEOUT_SECONDS = 600.0
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation, capture every update, and write how well the model learns."""
    settings = context.run_config
    torch.set_num_threads(1)  # as on every engine: sums over more threads differ in the last bits
    federation = read_federation(str(settings["data"]))
    seed = int(settings["seed"])
    defenses = make_defenses(json.loads(str(settings["defenses"])))
    inputs, classes, dropout = federation.inputs, len(federation.classes), float(settings["dropout"])
    network = initial_network(inputs, classes, dropout, defenses, int(settings.get("initial-seed", seed)))

    sampling: dict[str, Any] = {
        # The number of clients, exactly: a fraction of them would be rounded.
        "fraction_train": 1e-9,
        "min_train_nodes": int(settings["clients-per-round"]),
        "min_available_nodes": federation.clients,
        "fraction_evaluate": float(settings["fraction-evaluate"]),
    }
    strategy: Strategy
    if settings["algorithm"] == "fedsgd":
        strategy = FedSGD(learning_rate(settings), reply=str(settings.get("reply", "gradient")), **sampling)  # type: ignore[arg-type]
    else:
        strategy = FedAvg(**sampling)
    for defense in defenses:
        strategy = defense.strategy(strategy)
    store = store_of(settings)
    observe = str(settings["observe"])
    capture = CaptureUpdates(strategy, store, observe=observe, owns=str(settings["owns"]))  # type: ignore[arg-type]
    strategy = Reproducible(capture, seed)
    if settings["checkpoint"]:
        strategy = Resumable(strategy, str(settings["checkpoint"]))

    test, rounds = read_server(str(settings["data"])), int(settings["num-server-rounds"])

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not len(test["test_labels"]):
            return None
        network.load_state_dict(arrays.to_torch_state_dict())
        predicted = predict(network, test["test_features"])
        last = server_round == rounds  # as a list of numbers among Flower's metrics, it outlives a kill as they do
        return MetricRecord(dict(held_out_scores(predicted.numpy(), test["test_labels"].numpy(), whole=last)))

    result = strategy.start(
        grid,
        ArrayRecord(network.state_dict()),
        num_rounds=rounds,
        train_config=ConfigRecord({PARTICIPATIONS: most}) if (most := int(settings.get(PARTICIPATIONS, 0))) else None,
        evaluate_fn=evaluate,
    )
    if settings.get("ledgers"):
        _write_ledgers(grid, Path(str(settings["ledgers"])))
    scores: dict[int, Any] = {r: dict(metrics) for r, metrics in result.evaluate_metrics_serverapp.items()}
    validation: dict[int, Any] = {r: metrics["accuracy"] for r, metrics in result.evaluate_metrics_clientapp.items()}
    write_utility(str(settings["utility"]), federation.classes, scores, validation)


def _write_ledgers(grid: Grid, path: Path) -> None:
    """Ask every client for the noisy steps that it took: once, at the end."""
    nodes = list(grid.get_node_ids())
    names = Identities.of(grid)
    names.ask(grid, nodes)
    questions = [Message(RecordDict(), dst_node_id=node, message_type=LEDGER_QUERY) for node in nodes]
    replies = list(grid.send_and_receive(questions, timeout=_QUERY_TIMEOUT_SECONDS))
    told = {
        name: {key: value for key, value in stamp_of(reply).items() if key != PARTITION}
        for reply, (name, _) in zip(replies, names.name(replies), strict=True)
        if reply.has_content()
    }
    path.write_text(json.dumps(told, sort_keys=True), encoding="utf-8")
