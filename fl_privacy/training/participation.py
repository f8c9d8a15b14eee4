"""What a client is told, and what its defenses may know of its part in a round and change in it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy.training.private import DPSGD
from fl_privacy.updates.protocol import PARTICIPATIONS

DEFAULT_LEARNING_RATES = {"fedsgd": 0.1, "fedavg": 5e-4}
"""By algorithm, as published."""


@dataclass(frozen=True)
class ClientSettings:
    """What a client is told once, by the run configuration.

    Attributes
    ----------
    seed : int
        Of the federation.
    algorithm : {"fedsgd", "fedavg"}
    batch_size : int
    learning_rate : float
        Of the server's step (FedSGD) or of the clients' Adam (FedAvg).
    local_epochs : int
        FedAvg alone.
    participations : int
        In how many rounds a client takes part at most, over the whole run; 0 where it was not told.
    """

    seed: int
    algorithm: Literal["fedsgd", "fedavg"]
    batch_size: int
    learning_rate: float
    local_epochs: int
    participations: int = 0

    @classmethod
    def read(cls, run_config: Mapping[str, Any]) -> ClientSettings:
        """Read them from a run configuration (flat, kebab-case keys)."""
        algorithm: Any = str(run_config["algorithm"])
        rate, epochs = learning_rate(run_config), int(run_config["local-epochs"])
        most = int(run_config.get(PARTICIPATIONS, 0))
        return cls(int(run_config["seed"]), algorithm, int(run_config["batch-size"]), rate, epochs, most)


def learning_rate(run_config: Mapping[str, Any]) -> float:
    """Return the learning rate of a run configuration; where that is 0, the published one of its algorithm."""
    return float(run_config["learning-rate"]) or DEFAULT_LEARNING_RATES[run_config["algorithm"]]


Memory = MutableMapping[str, Any]
"""What a client keeps from round to round: lists of numbers and arrays, by name."""


@dataclass(frozen=True)
class Participation:
    """One client's part in one round, as its defenses may know it.

    Attributes
    ----------
    settings : ClientSettings
    server_round, partition : int
    examples : int
        How many the client trains on.
    private : Tensor, (n,)
        Class number of the private attribute of each of them, which clients know of themselves; -1 where it has none.
    rng : Generator
        The only source of a defense's randomness.
    memory : Memory
        What this client, and no other, has kept from earlier rounds; changes to it stay. The attacker's clients that
        answer the victims' models ("matched") begin each round without.
    """

    settings: ClientSettings
    server_round: int
    partition: int
    examples: int
    private: Tensor
    rng: np.random.Generator
    memory: Memory


class Hooks(Protocol):
    """What a defense does inside a client; see `fl_privacy.defenses.Defense`."""

    def model(self, model: nn.Module) -> nn.Module:
        """Change the network."""

    def received(self, weights: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change the weights that training starts from."""

    def private_steps(self, client: Participation) -> DPSGD | None:
        """Say how gradients are made private example by example."""

    @property
    def adds_to_loss(self) -> bool:
        """Whether there is an objective."""

    def objective(
        self, model: nn.Module, features: Tensor, labels: Tensor, batch: Tensor, client: Participation
    ) -> Tensor | None:
        """Return what is to be added to the loss of a batch."""

    def gradient(self, gradient: dict[str, Tensor], client: Participation) -> dict[str, Tensor]:
        """Change the gradient of a batch."""

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change what leaves the client."""

    def weight(self, examples: int, client: Participation) -> int:
        """Change the number of examples that the client reports."""
