"""The speech emotion recognition ClientApp: FedSGD and FedAvg clients of Feng et al. on the Message API.

Run configuration (flat, as Flower has it): ``data`` (a federation's folder, see `fl_privacy.training.shards`),
``seed``, ``algorithm`` ("fedsgd" or "fedavg"), ``batch-size``, ``learning-rate`` (0: see `learning_rate`),
``local-epochs``, ``dropout`` and ``defenses`` (a JSON list of settings). The client's number is its node's
``partition-id``; a deployed client's node may name a ``data`` folder of its own.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy._npy import dump, view
from fl_privacy.clients._memory import keep, recall
from fl_privacy.clients.mods import IDENTITY, identity, reproducible_mod
from fl_privacy.clients.stamp import stamp
from fl_privacy.defenses import make_defenses
from fl_privacy.training import read_client, read_federation
from fl_privacy.training.accounting import KEY
from fl_privacy.training.client import BrokenUpdate, local_update
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, make_network
from fl_privacy.training.participation import ClientSettings
from fl_privacy.updates.protocol import LEDGER_QUERY, PARTICIPATIONS, PARTITION, RECORD

app = ClientApp(mods=[reproducible_mod])
app.query(IDENTITY)(identity)
LEDGER = LEDGER_QUERY.partition(".")[2]
"""Name of the action that asks a client for the noisy steps that it took."""
_NOT_FINITE = 0
"""Flower's error code for a reason of the app's own (`ErrorCode.UNKNOWN`)."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute this round's reply: a gradient, a step along it, or locally trained weights."""
    settings, told = context.run_config, message.content.config_records["config"]
    partition = int(context.node_config[PARTITION])
    data = read_client(_folder(context), partition)
    arrays = {name: view(array.data) for name, array in message.content.array_records["arrays"].items()}
    model, sent, out = _desk(context)
    sent.fill(arrays)
    step = float(told["learning-rate"]) if told.get("reply") == "step" else None  # type: ignore[arg-type]
    memory = recall(context)
    try:
        answer = local_update(
            model,
            sent,
            data["train_features"],
            data["train_labels"],
            replace(ClientSettings.read(settings), participations=int(told.get(PARTICIPATIONS, 0))),  # type: ignore[arg-type]
            server_round=int(told["server-round"]),  # type: ignore[arg-type]
            partition=partition,
            out=out,
            # Made anew for each message: what a defense remembers must not pass from client to client.
            defenses=make_defenses(json.loads(str(settings["defenses"]))),
            private=data.get("train_private"),
            memory=memory,
            step=step,
        )
    except BrokenUpdate as broken:
        return Message(Error(_NOT_FINITE, str(broken)), reply_to=message)
    keep(context, memory)
    reply = ArrayRecord({name: _array(out.arrays[name]) for name in arrays})
    metrics = MetricRecord({"num-examples": answer.examples})
    content = RecordDict({"arrays": reply, "metrics": metrics, RECORD: stamp(reply, answer.kind)})
    return Message(content, reply_to=message)


@app.query(LEDGER)
def ledger(message: Message, context: Context) -> Message:
    """Hand out the noisy steps that this client has taken so far, for the accountant.

    The sampling rates tell how many examples it has. It is for simulations; a client of a deployment that is not to
    tell runs the accountant itself.
    """
    taken = {name: value for name, value in recall(context).items() if name.startswith(f"{KEY}.")}
    return Message(RecordDict({RECORD: ConfigRecord(taken)}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Count this client's validation examples that the model it was sent gets right."""
    data = read_client(_folder(context), int(context.node_config[PARTITION]))
    model, sent, _ = _desk(context)
    sent.fill({name: view(array.data) for name, array in message.content.array_records["arrays"].items()})
    model.load(sent)
    right = model.predict(data["validation_features"]) == data["validation_labels"]
    accuracy = float(right.float().mean()) if len(right) else 0.0
    metrics = MetricRecord({"num-examples": max(len(right), 1), "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _folder(context: Context) -> str:
    return str(context.node_config.get("data") or context.run_config["data"])


@functools.lru_cache(maxsize=4)
def _built(inputs: int, classes: int, dropout: float, defenses: str) -> tuple[LocalModel, Flat, Flat]:
    # Initialising a network costs as much as a training step; one a process is enough, since it is overwritten.
    model = LocalModel(make_network(inputs, classes, dropout, make_defenses(json.loads(defenses))))
    return model, Flat(model.shapes), Flat(model.shapes)


def _desk(context: Context) -> tuple[LocalModel, Flat, Flat]:
    """Return what this process works with: a model, and memory for what it is sent and for what it answers."""
    settings = context.run_config
    federation = read_federation(_folder(context))
    return _built(federation.inputs, len(federation.classes), float(settings["dropout"]), str(settings["defenses"]))


def _array(array: np.ndarray) -> Array:
    return Array(str(array.dtype), array.shape, "numpy.ndarray", dump(array))
