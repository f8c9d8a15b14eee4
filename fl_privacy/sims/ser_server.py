"""The speech emotion recognition ServerApp: a federation with the attacker's recorder in the server.

Run configuration, beside the client's (`fl_privacy.clients.ser`): ``num-server-rounds``, ``clients-per-round``,
``store`` (folder for the captured updates), ``utility`` (file for the held-out speakers' scores by round),
``observe`` ("each" or "sum"), ``capture-arrays`` and ``capture-clients`` (JSON list, or null for all),
``capture-every``, ``capture-dtype``, ``fraction-evaluate``, ``owns`` (what the attacker owns, for the threat model),
``checkpoint`` (file from which a killed run goes on, or empty) and, if the first weights are to be those of another
federation, ``initial-seed`` (that one's seed).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import nn

from fl_privacy.clients.ser import learning_rate
from fl_privacy.defenses import make_defenses
from fl_privacy.models.ser import SERNet
from fl_privacy.sims.resume import Resumable
from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
from fl_privacy.training import predict, read_federation, read_server
from fl_privacy.updates import UpdateStore

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation, capture every update, and write how well the model learns."""
    settings = context.run_config
    torch.set_num_threads(1)  # as on every engine: sums over more threads differ in the last bits
    federation = read_federation(str(settings["data"]))
    seed = int(settings["seed"])
    start = int(settings.get("initial-seed", seed))
    torch.manual_seed(int(np.random.SeedSequence([start, 0]).generate_state(1, np.uint64)[0] >> 1))
    model: nn.Module = SERNet(federation.inputs, len(federation.classes), float(settings["dropout"]))
    defenses = make_defenses(json.loads(str(settings["defenses"])))
    for defense in defenses:
        model = defense.model(model)

    sampling: dict[str, Any] = {
        # The number of clients, exactly: a fraction of them would be rounded.
        "fraction_train": 1e-9,
        "min_train_nodes": int(settings["clients-per-round"]),
        "min_available_nodes": federation.clients,
        "fraction_evaluate": float(settings["fraction-evaluate"]),
    }
    strategy: Strategy
    if settings["algorithm"] == "fedsgd":
        strategy = FedSGD(learning_rate(settings), **sampling)
    else:
        strategy = FedAvg(**sampling)
    for defense in defenses:
        strategy = defense.strategy(strategy)
    store = UpdateStore(
        str(settings["store"]),
        arrays=json.loads(str(settings["capture-arrays"])),
        clients=json.loads(str(settings["capture-clients"])),
        every=int(settings["capture-every"]),
        dtype=str(settings["capture-dtype"]),  # type: ignore[arg-type]
    )
    observe = str(settings["observe"])
    capture = CaptureUpdates(strategy, store, observe=observe, owns=str(settings["owns"]))  # type: ignore[arg-type]
    strategy = Reproducible(capture, seed)
    if settings["checkpoint"]:
        strategy = Resumable(strategy, str(settings["checkpoint"]))

    test = read_server(str(settings["data"]))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not len(test["test_labels"]):
            return None
        model.load_state_dict(arrays.to_torch_state_dict())
        labels, predicted = test["test_labels"].numpy(), predict(model, test["test_features"]).numpy()
        right = predicted == labels
        recalls = [float(right[labels == c].mean()) for c in np.unique(labels)]
        return MetricRecord({"uar": float(np.mean(recalls)), "accuracy": float(right.mean())})

    result = strategy.start(
        grid,
        ArrayRecord(model.state_dict()),
        num_rounds=int(settings["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    validation = {r: m["accuracy"] for r, m in sorted(result.evaluate_metrics_clientapp.items())}
    by_round = sorted(result.evaluate_metrics_serverapp.items())
    history: dict[str, list[Any]] = {"round": [r for r, _ in by_round]}
    history |= {key: [metrics[key] for _, metrics in by_round] for key in ("uar", "accuracy")}
    report = {"classes": list(federation.classes), "test": history, "validation_accuracy": validation}
    path = Path(str(settings["utility"]))
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(report), encoding="utf-8")
    os.replace(temporary, path)
