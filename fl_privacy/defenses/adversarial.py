"""Adversarial training: a hidden representation from which the private attribute cannot be told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.defenses._settings import positive, whole
from fl_privacy.defenses.base import Defense
from fl_privacy.errors import UserError
from fl_privacy.updates import resolve_layers

if TYPE_CHECKING:
    from fl_privacy.training.participation import Participation

_NAME = "adversarial"
_HEAD, _TAP = "adversary", "_adversarial_tap"
_KEY = "adversarial."


class Adversarial(Defense):
    """Gradient reversal (Ganin and Lempitsky 2015): an adversary's head tells the attribute, the network unlearns it.

    The head is one dense layer on what enters `layer`. It learns to tell the client's private attribute; its gradient
    with respect to the representation goes into the network times ``-strength``. Examples whose attribute is not known
    take no part.

    Takes hold on the loss of each batch. Meant to keep the attribute from whoever sees the representation, or what it
    leaves in an update; guarantees nothing. Layers *below* the representation are trained with the attribute's own
    labels, so their updates may tell more of it than before. Costs: some of the task, and time.

    Parameters
    ----------
    strength : float
        Of the reversed gradient.
    head : {"shared", "local"}
        ``"shared"``: the head is part of the federated model (arrays ``adversary.*``, behind all others). Its update
        can give the attribute away by itself: the gradient of its bias is the predicted less the true distribution.
        ``"local"``: each client has a head of its own, in its memory, that it never sends. A client of one speaker sees
        one value only: its head learns that value, and what the reversal pushes away from is that value, not the
        difference between values.
    classes : int
        How many values the attribute has.
    layer : str
        Whose input is the representation: ``"second"``, ``"last"`` or a layer's own name.
    head_learning_rate : float
        Of the local head's SGD, a step a batch.

    Raises
    ------
    UserError
        For a setting out of range; later, for a layer that is not in the model, or an attribute of more values.
    """

    def __init__(
        self,
        strength: float = 1.0,
        head: Literal["shared", "local"] = "shared",
        classes: int = 2,
        layer: str = "last",
        head_learning_rate: float = 0.1,
    ) -> None:
        positive(_NAME, strength=strength, head_learning_rate=head_learning_rate)
        whole(_NAME, 2, classes=classes)
        if head not in ("shared", "local"):
            raise UserError(f"{_NAME}: head must be 'shared' or 'local', not {head!r}")
        if not isinstance(layer, str):
            raise UserError(f"{_NAME}: layer must be the name of one, such as 'last', not {layer!r}")
        self.strength, self.head, self.classes, self.layer = float(strength), head, classes, layer
        self.adds_parameters = head == "shared"
        self.head_learning_rate = float(head_learning_rate)

    def model(self, model: nn.Module) -> nn.Module:
        """Listen to what enters the layer; add the shared head."""
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        layers = resolve_layers(shapes, self.layer)
        module = model.get_submodule(layers[0].name) if len(layers) == 1 else None
        if not isinstance(module, nn.Linear):
            raise UserError(f"{_NAME}: layer {self.layer!r} must be one torch.nn.Linear of the model")
        tap = _Tap()
        module.register_forward_pre_hook(tap)
        setattr(model, _TAP, tap)
        if self.head == "shared":
            model.add_module(_HEAD, nn.Linear(module.in_features, self.classes))
        return model

    def ready(self, client: Participation) -> None:
        """Refuse an attribute of more values than the head has."""
        if (value := int(client.private.max())) >= self.classes:
            raise UserError(f"{_NAME}: the private attribute has a value number {value}, beyond {self.classes}")

    def objective(
        self, model: nn.Module, features: Tensor, labels: Tensor, batch: Tensor, client: Participation
    ) -> Tensor | None:
        """Return the adversary's loss, whose gradient is turned round where it enters the network."""
        hidden, values = getattr(model, _TAP).take(), client.private[batch]
        known = values >= 0
        if not known.any():
            nothing: Tensor | None = None
            if self.head == "shared":  # its parameters have a gradient all the same
                nothing = model.get_submodule(_HEAD)(hidden.detach()).sum() * 0.0
            return nothing
        self.ready(client)
        hidden, values = hidden[known], values[known]
        reversed_: Tensor = _Reverse.apply(hidden, self.strength)  # type: ignore[no-untyped-call]
        if self.head == "shared":
            return functional.cross_entropy(model.get_submodule(_HEAD)(reversed_), values)
        weight, bias = self._own_head(hidden.shape[1], client)
        loss = functional.cross_entropy(functional.linear(reversed_, weight, bias), values)
        self._learn(weight, bias, hidden.detach(), values, client)
        return loss

    def _own_head(self, inputs: int, client: Participation) -> tuple[Tensor, Tensor]:
        """Return the client's head; the first time, as `torch.nn.Linear` begins."""
        if _KEY + "weight" not in client.memory:
            bound = 1 / math.sqrt(inputs)
            for name, shape in (("weight", (self.classes, inputs)), ("bias", (self.classes,))):
                client.memory[_KEY + name] = client.rng.uniform(-bound, bound, shape).astype("float32")
        return torch.tensor(client.memory[_KEY + "weight"]), torch.tensor(client.memory[_KEY + "bias"])

    def _learn(self, weight: Tensor, bias: Tensor, hidden: Tensor, values: Tensor, client: Participation) -> None:
        """Let the client's head take a step of its own."""
        wrong = torch.softmax(functional.linear(hidden, weight, bias), dim=1)
        wrong[torch.arange(len(values)), values] -= 1
        wrong /= len(values)
        client.memory[_KEY + "weight"] = (weight - self.head_learning_rate * wrong.T @ hidden).numpy()
        client.memory[_KEY + "bias"] = (bias - self.head_learning_rate * wrong.sum(0)).numpy()


class _Tap:
    """Keeps what last entered a layer in training."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            self._held = inputs[0]

    def take(self) -> Tensor:
        """Hand it out once: it holds the graph of its batch."""
        held, self._held = self._held, None
        assert held is not None
        return held


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None
