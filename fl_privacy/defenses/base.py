"""The shape of a defense, and how a run's list of them is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import make

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy
    from torch import Tensor, nn

BUILT_IN: dict[str, str] = {}
"""Name -> ``package.module:Class``. Any other defense is named by its own reference in the simulation file."""


class Defense:
    """A defense that does nothing; override the hooks where yours takes hold.

    The same object serves the victim's clients and the attacker's shadows, which is what "adaptive attacker" means.
    Hooks draw randomness from the generator they are given and from nothing else.
    """

    def model(self, model: nn.Module) -> nn.Module:
        """Change the model before local training (layers frozen, replaced)."""
        return model

    def gradient(self, gradient: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Change the gradient of a batch before it is sent (FedSGD) or stepped along (FedAvg)."""
        return gradient

    def update(self, update: dict[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Change what leaves the client: its gradient, or the difference between its weights and those it was sent."""
        return update

    def strategy(self, strategy: Strategy) -> Strategy:
        """Wrap the server's strategy."""
        return strategy


def make_defenses(settings: Sequence[Mapping[str, Any]]) -> list[Defense]:
    """Make a run's defenses from their settings.

    Parameters
    ----------
    settings : sequence of mappings
        Each with ``name`` (a built-in's, or ``package.module:Class``) and the keyword arguments of its class.

    Raises
    ------
    UserError
        For a name that is unknown or settings that the class does not take.
    """
    return [make("defense", BUILT_IN, entry, Defense) for entry in settings]
