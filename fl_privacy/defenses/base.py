"""The shape of a defense, and how a run's list of them is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fl_privacy._registry import make
from fl_privacy.audit import Privacy

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy
    from torch import Tensor, nn

    from fl_privacy.training.accounting import Ledger
    from fl_privacy.training.participation import ClientSettings, Participation
    from fl_privacy.training.private import DPSGD

BUILT_IN: dict[str, str] = {
    "dp-sgd": "fl_privacy.defenses.dp_sgd:ExampleDP",
    "client-dp": "fl_privacy.defenses.client_dp:client_dp",
    "udp-published": "fl_privacy.defenses.udp:PublishedUDP",
    "top-k": "fl_privacy.defenses.top_k:TopK",
    "sign": "fl_privacy.defenses.sign:Sign",
    "quantise": "fl_privacy.defenses.quantise:Quantise",
    "freeze": "fl_privacy.defenses.freeze:Freeze",
    "share-upper": "fl_privacy.defenses.share_upper:ShareUpper",
    "adversarial": "fl_privacy.defenses.adversarial:Adversarial",
}
"""Name -> ``package.module:Class``. Any other defense is named by its own reference in the simulation file."""


class Defense:
    """A defense that does nothing; override the hooks where yours takes hold.

    The same object serves the victim's clients and the attacker's shadows, which is what "adaptive attacker" means.
    Hooks draw randomness from ``client.rng`` and from nothing else, and remember in ``client.memory`` and nowhere else.
    """

    adds_parameters: bool = False
    """Whether `model` gives the network further parameters: everybody who sees a model sees these."""

    def model(self, model: nn.Module) -> nn.Module:
        """Change the model before local training (layers frozen, replaced)."""
        return model

    def ready(self, client: Participation) -> None:
        """Refuse what this client cannot do; asked of every client before anything runs.

        Raises
        ------
        UserError
            With the reason.
        """

    def received(self, weights: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change the weights that local training starts from; return what is given, or other arrays in a new dict."""
        return weights

    def private_steps(self, client: Participation) -> DPSGD | None:
        """Make local gradients private example by example; None leaves them plain."""
        return None

    @property
    def adds_to_loss(self) -> bool:
        """Whether `objective` is this defense's own."""
        return type(self).objective is not Defense.objective

    def objective(
        self, model: nn.Module, features: Tensor, labels: Tensor, batch: Tensor, client: Participation
    ) -> Tensor | None:
        """Add to the loss of a batch; `batch` numbers its examples, as ``client.private`` does."""
        return None

    def gradient(self, gradient: dict[str, Tensor], client: Participation) -> dict[str, Tensor]:
        """Change the gradient of a batch before it is sent (FedSGD) or stepped along (FedAvg)."""
        return gradient

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change what leaves the client: its gradient, or its weights less those it began with."""
        return update

    def weight(self, examples: int, client: Participation) -> int:
        """Change the number of examples that the client reports, by which the server weighs it."""
        return examples

    def strategy(self, strategy: Strategy) -> Strategy:
        """Wrap the server's strategy."""
        return strategy

    def noise(self, settings: ClientSettings, examples: float | None) -> float:
        """Return the standard deviation of the noise on each coordinate of what leaves a client.

        Parameters
        ----------
        settings : ClientSettings
        examples : float or None
            What the client reports as its number of examples.
        """
        return 0.0

    def promises(self, run: Accounted) -> list[Privacy]:
        """Say, after a run, what is guaranteed to whom."""
        return []


@dataclass(frozen=True)
class Accounted:
    """What a defense is told of a run that is over, to account for it.

    Attributes
    ----------
    settings : ClientSettings
    ledgers : sequence of Ledger
        Of every client, as it kept it in its own state; empty for one that was never asked for an update.
    clients : int
    clients_per_round, rounds : int
    """

    settings: ClientSettings
    ledgers: Sequence[Ledger]
    clients: int
    clients_per_round: int
    rounds: int


class Unaware(Defense):
    """The network of another defense, and nothing else of it: what an attacker sees who does not know it.

    Parameters
    ----------
    of : mapping
        The other defense's settings.
    """

    adds_parameters = True

    def __init__(self, of: Mapping[str, Any]) -> None:
        (self._other,) = make_defenses([of])

    def model(self, model: nn.Module) -> nn.Module:
        """Change the model as the other defense does."""
        return self._other.model(model)


def unaware(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings of what an attacker's shadows are made with who does not know these defenses."""
    return [
        {"name": f"{__name__}:{Unaware.__name__}", "of": dict(entry)}
        for entry, defense in zip(settings, make_defenses(settings), strict=True)
        if defense.adds_parameters
    ]


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
