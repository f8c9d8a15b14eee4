"""The speech emotion recognition ClientApp: FedSGD and FedAvg clients of Feng et al. on the Message API.

Run configuration (flat, as Flower has it): ``data`` (a federation's folder, see `fl_privacy.training.shards`),
``seed``, ``algorithm`` ("fedsgd" or "fedavg"), ``batch-size``, ``learning-rate``, ``local-epochs``, ``dropout`` and
``defenses`` (a JSON list of settings). The client's number is its node's ``partition-id``.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fl_privacy.clients.mods import identity_mod
from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.models.ser import SERNet
from fl_privacy.training import batch_gradient, predict, read_client, read_federation, train_epochs
from fl_privacy.updates.protocol import KIND, NORM, PARTITION, RECORD

app = ClientApp(mods=[identity_mod])
_NOT_FINITE = 0
"""Flower's error code for a reason of the app's own (`ErrorCode.UNKNOWN`)."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute this round's reply: a gradient, a step along it, or locally trained weights."""
    settings, told = context.run_config, message.content.config_records["config"]
    partition = int(context.node_config[PARTITION])
    rng = _seed(int(settings["seed"]), int(told["server-round"]), partition)  # type: ignore[arg-type]
    data = read_client(str(settings["data"]), partition)
    sent = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    model, defenses = _model(context), _defenses(str(settings["defenses"]))
    _load(model, sent)

    def guard(gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for defense in defenses:
            gradient = defense.gradient(gradient, rng)
        return gradient

    features, labels = data["train_features"], data["train_labels"]
    batch_size = int(settings["batch-size"])
    if settings["algorithm"] == "fedsgd":
        gradient, examples = batch_gradient(model, features, labels, batch_size, guard)
        update = {name: tensor.numpy() for name, tensor in gradient.items()}
    else:
        rate, epochs = float(settings["learning-rate"]), int(settings["local-epochs"])
        train_epochs(model, features, labels, batch_size=batch_size, learning_rate=rate, epochs=epochs, hook=guard)
        examples = len(features) * epochs
        update = {name: p.detach().numpy() - sent[name] for name, p in model.named_parameters()}
    for defense in defenses:
        update = defense.update(update, rng)
    broken = [name for name, array in update.items() if not np.isfinite(array).all()]
    if broken:
        reason = f"client {partition}: the update of {', '.join(broken)} is not finite; nothing is sent"
        return Message(Error(_NOT_FINITE, reason), reply_to=message)

    if settings["algorithm"] != "fedsgd":
        reply, kind = {name: sent[name] + update[name] for name in sent}, "weights"
    elif told["reply"] == "step":
        rate = float(told["learning-rate"])  # type: ignore[arg-type]
        reply, kind = {name: (sent[name] - rate * update[name]).astype(np.float32) for name in sent}, "weights"
    else:
        reply, kind = {name: update[name] for name in sent}, "gradient"
    stamp: dict[str, str | float] = {KIND: kind}
    if kind == "gradient":
        stamp[NORM] = float(np.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in reply.values())))
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in reply.items()}),
            "metrics": MetricRecord({"num-examples": examples}),
            RECORD: ConfigRecord(stamp),  # type: ignore[arg-type]
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Count this client's validation examples that the model it was sent gets right."""
    data = read_client(str(context.run_config["data"]), int(context.node_config[PARTITION]))
    model = _model(context)
    _load(model, {name: array.numpy() for name, array in message.content.array_records["arrays"].items()})
    right = predict(model, data["validation_features"]) == data["validation_labels"]
    accuracy = float(right.float().mean()) if len(right) else 0.0
    metrics = MetricRecord({"num-examples": max(len(right), 1), "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _seed(seed: int, server_round: int, partition: int) -> np.random.Generator:
    """Seed this client's randomness of this round: the same on every engine and in any order of clients."""
    sequence = np.random.SeedSequence([seed, server_round, partition])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(sequence.spawn(1)[0])


@functools.lru_cache(maxsize=4)
def _built(data: str, dropout: float, defenses: str) -> nn.Module:
    # Initialising a network costs as much as a training step; one a process is enough, since it is overwritten.
    federation = read_federation(data)
    model: nn.Module = SERNet(federation.inputs, len(federation.classes), dropout)
    for defense in _defenses(defenses):
        model = defense.model(model)
    return model


def _model(context: Context) -> nn.Module:
    settings = context.run_config
    return _built(str(settings["data"]), float(settings["dropout"]), str(settings["defenses"]))


@functools.lru_cache(maxsize=8)
def _defenses(settings: str) -> list[Defense]:
    return make_defenses(json.loads(settings))


@torch.no_grad()
def _load(model: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(arrays[name]))
