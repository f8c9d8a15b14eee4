"""Defenses that an attacker who knows them sees through, and one who does not is led astray by."""

from __future__ import annotations

from typing import Any

from torch import nn

from fl_privacy.audit import Privacy
from fl_privacy.defenses import Accounted, Defense
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.participation import ClientSettings, Participation


class Turned(Defense):
    """Sends the first layer's weights with the other sign; keeps a ledger, and promises what stands in it."""

    def update(self, update: dict[str, Any], client: Participation) -> dict[str, Any]:
        Ledger.read(client.memory, "client").added(2.0, 1.0, 1).write(client.memory)
        return update | {"fc1.weight": -update["fc1.weight"]}

    def promises(self, run: Accounted) -> list[Privacy]:
        steps = [sum(ledger.steps) for ledger in run.ledgers if ledger.unit == "client"]
        assert max(steps) == run.settings.participations
        assert sum(steps) == run.rounds * run.clients_per_round
        return [
            Privacy(unit="client", mechanism="turned", protects_from="nobody", epsilon_accountant=float(max(steps)))
        ]


class Loud(Defense):
    """Adds noise, and says how large it is."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def update(self, update: dict[str, Any], client: Participation) -> dict[str, Any]:
        return {name: u + client.rng.normal(0.0, self.scale, u.shape) for name, u in update.items()}

    def noise(self, settings: ClientSettings, examples: float | None) -> float:
        assert settings.participations > 0
        assert examples
        return self.scale


class Longer(Defense):
    """Gives the network a parameter that nothing uses."""

    adds_parameters = True

    def model(self, model: nn.Module) -> nn.Module:
        model.add_module("more", nn.Linear(2, 2))
        return model

    def objective(self, model: Any, features: Any, labels: Any, batch: Any, client: Any) -> Any:
        return (model.more.weight.sum() + model.more.bias.sum()) * 0.01
