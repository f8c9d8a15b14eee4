"""The speech emotion recognition ClientApp: FedSGD and FedAvg clients of Feng et al. on the Message API.

Run configuration (flat, as Flower has it): ``data`` (a federation's folder, see `fl_privacy.training.shards`),
``seed``, ``algorithm`` ("fedsgd" or "fedavg"), ``batch-size``, ``learning-rate`` (0: see `learning_rate`),
``local-epochs``, ``dropout`` and ``defenses`` (a JSON list of settings). The client's number is its node's
``partition-id``; a deployed client's node may name a ``data`` folder of its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fl_privacy._npy import dump, view
from fl_privacy.clients.mods import IDENTITY, identity, reproducible_mod
from fl_privacy.clients.stamp import stamp
from fl_privacy.defenses import make_defenses
from fl_privacy.models.ser import SERNet
from fl_privacy.training import batch_gradient, predict, read_client, read_federation, train_epochs
from fl_privacy.updates.protocol import PARTITION, RECORD

app = ClientApp(mods=[reproducible_mod])
app.query(IDENTITY)(identity)
_NOT_FINITE = 0
"""Flower's error code for a reason of the app's own (`ErrorCode.UNKNOWN`)."""
_LEARNING_RATES = {"fedsgd": 0.1, "fedavg": 5e-4}


def learning_rate(settings: Mapping[str, Any]) -> float:
    """Return the learning rate of a run configuration; where that is 0, the published one of its algorithm."""
    return float(settings["learning-rate"]) or _LEARNING_RATES[settings["algorithm"]]


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute this round's reply: a gradient, a step along it, or locally trained weights."""
    settings, told = context.run_config, message.content.config_records["config"]
    partition = int(context.node_config[PARTITION])
    data = read_client(_folder(context), partition)
    sent = {name: view(array.data) for name, array in message.content.array_records["arrays"].items()}
    # Made anew for each message: what a defense remembers must not pass from client to client.
    model, defenses = _model(context), make_defenses(json.loads(str(settings["defenses"])))
    _load(model, sent)
    rng = _seed(int(settings["seed"]), int(told["server-round"]), partition)  # type: ignore[arg-type]

    def guard(gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for defense in defenses:
            gradient = defense.gradient(gradient, rng)
        return gradient

    features, labels = data["train_features"], data["train_labels"]
    batch_size = int(settings["batch-size"])
    if settings["algorithm"] == "fedsgd":
        gradient, examples = batch_gradient(model, features, labels, batch_size, guard)
        # Layers that a defense froze have no gradient: they stay as they are.
        update = {name: gradient[name].numpy() if name in gradient else np.zeros_like(sent[name]) for name in sent}
    else:
        rate, epochs = learning_rate(settings), int(settings["local-epochs"])
        train_epochs(model, features, labels, batch_size=batch_size, learning_rate=rate, epochs=epochs, hook=guard)
        examples = len(features) * epochs
        update = {name: p.detach().numpy() - sent[name] for name, p in model.named_parameters()}
    for defense in defenses:
        update = defense.update(update, rng)
    update = {name: np.asarray(array, dtype=np.float32) for name, array in update.items()}
    broken = [name for name, array in update.items() if not np.isfinite(array).all()]
    if broken:
        reason = f"client {partition}: the update of {', '.join(broken)} is not finite; nothing is sent"
        return Message(Error(_NOT_FINITE, reason), reply_to=message)

    kind: Literal["gradient", "weights"] = "weights"
    if settings["algorithm"] != "fedsgd":
        reply = {name: sent[name] + update[name] for name in sent}
    elif told["reply"] == "step":
        rate = float(told["learning-rate"])  # type: ignore[arg-type]
        reply = {name: (sent[name] - rate * update[name]).astype(np.float32) for name in sent}
    else:
        reply, kind = {name: update[name] for name in sent}, "gradient"
    arrays = ArrayRecord({name: _array(np.ascontiguousarray(array)) for name, array in reply.items()})
    metrics = MetricRecord({"num-examples": examples})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics, RECORD: stamp(arrays, kind)}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Count this client's validation examples that the model it was sent gets right."""
    data = read_client(_folder(context), int(context.node_config[PARTITION]))
    model = _model(context)
    _load(model, {name: view(array.data) for name, array in message.content.array_records["arrays"].items()})
    right = predict(model, data["validation_features"]) == data["validation_labels"]
    accuracy = float(right.float().mean()) if len(right) else 0.0
    metrics = MetricRecord({"num-examples": max(len(right), 1), "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _folder(context: Context) -> str:
    return str(context.node_config.get("data") or context.run_config["data"])


def _seed(seed: int, server_round: int, partition: int) -> np.random.Generator:
    """Seed this client's randomness of this round: the same on every engine and in any order of clients."""
    sequence = np.random.SeedSequence([seed, server_round, partition])
    # torch.manual_seed would visit every accelerator as well, which costs as much as the gradient.
    torch.default_generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(sequence.spawn(1)[0])


@functools.lru_cache(maxsize=4)
def _built(inputs: int, classes: int, dropout: float, defenses: str) -> nn.Module:
    # Initialising a network costs as much as a training step; one a process is enough, since it is overwritten.
    model: nn.Module = SERNet(inputs, classes, dropout)
    for defense in make_defenses(json.loads(defenses)):
        model = defense.model(model)
    return model


def _model(context: Context) -> nn.Module:
    settings = context.run_config
    federation = read_federation(_folder(context))
    return _built(federation.inputs, len(federation.classes), float(settings["dropout"]), str(settings["defenses"]))


def _array(array: np.ndarray) -> Array:
    return Array(str(array.dtype), array.shape, "numpy.ndarray", dump(array))


def _load(model: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    for name, parameter in model.named_parameters():
        np.copyto(parameter.detach().numpy(), arrays[name])
