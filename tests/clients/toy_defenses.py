"""Defenses that leave a trace of where they were called."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fl_privacy.defenses import Defense


class Affine(Defense):
    """gradient -> a * gradient + b, update -> a * update + b: two of them do not commute."""

    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = a, b

    def gradient(self, gradient: dict[str, torch.Tensor], client: Any) -> dict[str, torch.Tensor]:
        return {name: self.a * g + self.b for name, g in gradient.items()}

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        return {name: self.a * u + self.b for name, u in update.items()}


class Noise(Defense):
    """The most natural noise: what a numpy generator gives, in double precision."""

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        return {name: u + client.rng.normal(0.0, 1e-3, u.shape) for name, u in update.items()}


class FreezeLast(Defense):
    def model(self, model: nn.Module) -> nn.Module:
        model.fc3.requires_grad_(False)
        return model


class Poison(Defense):
    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        return {name: u * np.nan for name, u in update.items()}


class Counter(Defense):
    """Keeps state: the first update that it sees passes, later ones are zeroed."""

    def __init__(self) -> None:
        self.seen = 0

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        self.seen += 1
        return update if self.seen == 1 else {name: 0 * u for name, u in update.items()}


class Remembering(Defense):
    """Sends what it would have sent in the round before, and how often it was asked, as the number of its examples."""

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        before = {name: client.memory.get(f"last.{name}", 0 * u) for name, u in update.items()}
        client.memory.update({f"last.{name}": u for name, u in update.items()})
        client.memory["asked"] = [*client.memory.get("asked", []), client.server_round]
        return before

    def weight(self, examples: int, client: Any) -> int:
        return len(client.memory["asked"])


class Against(Defense):
    """Adds to the loss what the client's own people are."""

    def objective(self, model: nn.Module, features: torch.Tensor, labels: Any, batch: Any, client: Any) -> torch.Tensor:
        return 0.1 * (model(features)[:, 0] * client.private[batch]).mean()


class Moody(Defense):
    """Raises for some clients, by its own generator."""

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        if client.rng.random() < 0.3:
            raise RuntimeError("not today")
        return update


class HalfRate(Defense):
    """Takes hold in the server: half the step."""

    def strategy(self, strategy: Any) -> Any:
        strategy.learning_rate /= 2
        return strategy
