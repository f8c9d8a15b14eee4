"""A federation of SER clients as a plain loop: what ServerApp and ClientApp compute, without messages.

For the same seed it draws the same clients, batches and dropout, averages in the same order, and captures into the same
store to the bit as `fl_privacy.sims.ser_server` and `fl_privacy.clients.ser` do under `fl_privacy.Reproducible`. Flower
is not needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy._randomness import kept_streams, python_stream
from fl_privacy.errors import UserError
from fl_privacy.training._clients import Clients, MakeHooks
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, initial_network
from fl_privacy.training.participation import ClientSettings
from fl_privacy.training.shards import read_federation, read_server
from fl_privacy.training.utility import Score, held_out_scores
from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.protocol import PARTICIPATIONS
from fl_privacy.updates.record import Observe
from fl_privacy.updates.store import Reply
from fl_privacy.updates.told import Told

_LEAST_EVALUATED = 2
"""FedAvg's ``min_evaluate_nodes``."""


@dataclass(frozen=True)
class FederationPlan:
    """A federation that is to be run.

    Attributes
    ----------
    data : Path
        Folder of its data, see `fl_privacy.training.shards`.
    client : ClientSettings
        What clients are told.
    rounds : int
    clients_per_round : int
    dropout : float
        Of the network.
    fraction_evaluate : float
        Share of the clients that are asked for their validation accuracy after each round.
    initial_seed : int, optional
        Of the network's first parameters; default: the clients' seed.
    reply : {"gradient", "step"}
        FedSGD: what clients send.
    """

    data: Path
    client: ClientSettings
    rounds: int
    clients_per_round: int
    dropout: float
    fraction_evaluate: float = 0.0
    initial_seed: int | None = None
    reply: Literal["gradient", "step"] = "gradient"

    def sample(self, server_round: int, what: str, clients: int, number: int) -> list[int]:
        """Draw some of the clients as FedAvg does under `Reproducible`, which sorts them.

        Parameters
        ----------
        server_round : int
        what : {"configure_train", "configure_evaluate"}
        clients : int
            How many there are.
        number : int
            How many are drawn.
        """
        stream = python_stream("server", self.client.seed, server_round, what)
        return sorted(stream.sample(range(clients), number))

    def participations(self, clients: int) -> list[int]:
        """Count the rounds in which each of so many clients takes part: drawn beforehand, from the seed."""
        counts = [0] * clients
        for server_round in range(1, self.rounds + 1):
            for client in self.sample(server_round, "configure_train", clients, self.clients_per_round):
                counts[client] += 1
        return counts

    def told(self, server_round: int) -> Told:
        """Return what Flower's message tells the clients of a round beside the model."""
        told = self.client.participations
        config: dict[str, Any] = {PARTICIPATIONS: told} if told else {}
        if self.client.algorithm == "fedsgd":
            config |= {"reply": self.reply, "learning-rate": self.client.learning_rate}
        config["server-round"] = server_round
        return Told("train", (("arrays", "arrays", {}), ("config", "config", config)))


@dataclass(frozen=True)
class History:
    """How a federation went.

    Attributes
    ----------
    classes : tuple of str
    test : dict
        `held_out_scores` by round, from 0, the last of them whole; empty where nobody is held out.
    validation : dict
        Accuracy on clients' validation examples by round, where they were asked.
    """

    classes: tuple[str, ...]
    test: dict[int, dict[str, Score]] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)


def federate(
    plan: FederationPlan,
    store: UpdateStore,
    threat_model: ThreatModel,
    observe: Observe = "each",
    *,
    make_hooks: MakeHooks = tuple,
    trained: Callable[[int], None] | None = None,
) -> History:
    """Run a federation and capture it.

    Parameters
    ----------
    plan : FederationPlan
        What to run.
    store : UpdateStore
        Where updates go; its settings choose layers, clients and rounds.
    threat_model : ThreatModel
        Is written into the store.
    observe : {"each", "sum"}
        What is captured of a round.
    make_hooks : callable
        Makes the defenses anew.
    trained : callable, optional
        Told after each round how many updates there have been.

    Raises
    ------
    UserError
        If there are not so many clients, or the store's folder is in use or cannot be written.
    """
    facts = read_federation(plan.data)
    if not 1 <= plan.clients_per_round <= facts.clients:
        raise UserError(f"clients_per_round = {plan.clients_per_round}, but {plan.data} has {facts.clients} clients")
    keep_freed_memory()
    with kept_streams(), one_thread():
        first = plan.client.seed if plan.initial_seed is None else plan.initial_seed
        network = initial_network(facts.inputs, len(facts.classes), plan.dropout, make_hooks(), first)
        loop = _Loop(plan, LocalModel(network), facts.clients, make_hooks)
        history = History(facts.classes)
        theta = Flat(loop.model.shapes)
        theta.fill({name: p.detach().numpy() for name, p in network.named_parameters()})
        test = read_server(plan.data)

        def look(server_round: int) -> None:
            labels = test["test_labels"]
            if len(labels):
                loop.model.load(theta)
                predicted = loop.model.predict(test["test_features"])
                last = server_round == plan.rounds
                history.test[server_round] = held_out_scores(predicted.numpy(), labels.numpy(), whole=last)

        look(0)
        store.begin(threat_model, observe)
        try:
            for server_round in range(1, plan.rounds + 1):
                replies = loop.train(theta, server_round)
                if store.wants(server_round):
                    store.append(server_round, [theta.arrays], replies, [plan.told(server_round)])
                loop.aggregate(theta, replies)
                if (accuracy := loop.validate(theta, server_round)) is not None:
                    history.validation[server_round] = accuracy
                look(server_round)
                if trained is not None:
                    trained(server_round * plan.clients_per_round)
        finally:
            store.close()
    return history


class _Loop:
    """The two sides of a federation."""

    def __init__(self, plan: FederationPlan, model: LocalModel, clients: int, make_hooks: MakeHooks) -> None:
        self.model = model
        self._plan, self._settings, self._number = plan, plan.client, clients
        self._clients = Clients(
            plan.data, model, plan.client, plan.clients_per_round, make_hooks, plan.client.seed, remember=True
        )
        self._stepping = plan.client.algorithm == "fedsgd" and plan.reply == "step"
        self._mean = np.empty(Flat.size(model.shapes), np.float32)

    def train(self, theta: Flat, server_round: int) -> list[Reply]:
        """Let some clients answer, in the order of their numbers."""
        chosen = self._plan.sample(server_round, "configure_train", self._number, self._plan.clients_per_round)
        step = self._settings.learning_rate if self._stepping else None
        return self._clients.answers(chosen, server_round, theta, step=step)

    def aggregate(self, theta: Flat, replies: Sequence[Reply]) -> None:
        """Replace the model by the mean of the answers, or by a step along it, as FedAvg and `FedSGD` do."""
        usable = [(row, int(reply.num_examples or 0)) for row, reply in enumerate(replies) if not reply.failure]
        if not usable:
            return
        total = sum(examples for _, examples in usable)
        shares = [examples / total for _, examples in usable]
        answers = self._clients.matrix
        if len(usable) < len(answers):
            answers = answers[[row for row, _ in usable]]
        weighted_mean(answers, shares, self._mean)
        whole = theta.whole.numpy()
        if self._settings.algorithm == "fedsgd" and not self._stepping:
            self._mean *= np.float32(self._settings.learning_rate)
            whole -= self._mean
        else:
            whole[:] = self._mean

    def validate(self, theta: Flat, server_round: int) -> float | None:
        """Return the mean accuracy on some clients' validation examples; None where nobody is asked."""
        fraction = self._plan.fraction_evaluate
        if fraction == 0.0:
            return None
        asked = min(max(int(self._number * fraction), _LEAST_EVALUATED), self._number)
        found = []
        self.model.load(theta)
        for client in self._plan.sample(server_round, "configure_evaluate", self._number, asked):
            data = self._clients.examples(client)
            right = self.model.predict(data["validation_features"]) == data["validation_labels"]
            found.append((max(len(right), 1), float(right.float().mean()) if len(right) else 0.0))
        total = sum(weight for weight, _ in found)
        return sum(accuracy * (weight / total) for weight, accuracy in found)


def weighted_mean(answers: NDArray[np.float32], weights: Sequence[float], out: NDArray[np.float32]) -> None:
    """Write the sum of weighted rows into `out`: rounded as if one row after another were added, as Flower does.

    Parameters
    ----------
    answers : ndarray, (k, m)
    weights : sequence of float
        One a row.
    out : ndarray, (m,)
    """
    np.multiply(answers[0], weights[0], out=out)
    product = np.empty_like(out)
    for row, weight in zip(answers[1:], weights[1:], strict=True):
        out += np.multiply(row, weight, out=product)
