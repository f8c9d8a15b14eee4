"""Personal lower layers: a client shares what lies above them, and keeps them to itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.defenses.base import Defense
from fl_privacy.defenses.freeze import arrays_of, layer_names
from fl_privacy.errors import UserError
from fl_privacy.updates import find_layers

if TYPE_CHECKING:
    from torch import nn

    from fl_privacy.training.participation import Participation

_NAME = "share-upper"
_KEY = "share-upper."


class ShareUpper(Defense):
    """Let each client keep layers of its own: trained locally, remembered over rounds, never sent.

    A client begins with the personal layers of the model that it is sent first, and takes them from its own memory ever
    after; what goes out for them is zero. In FedAvg they take part in the local training as all layers do; in FedSGD
    they take a step of the client's own, of the server's learning rate, along the gradient of the batch. (LG-FedAvg,
    Liang et al. 2020, arXiv 2001.01523.)

    Takes hold where training starts, and on the update. Keeps what the personal layers' updates tell from the server:
    no input can be read off a first layer that is not sent. It guarantees nothing about the layers above. Costs: the
    upper layers have to fit every client's own lower ones; and the server's model is incomplete: its lower layers
    remain as they began, so utility measured with the server's model is that of a newcomer, not of a client.

    Parameters
    ----------
    layers : sequence of str
        Which stay personal: ``"first"``, ``"second"``, ``"last"`` or a layer's own name.

    Raises
    ------
    UserError
        If no layer is named; later, if a layer is not in the model, is frozen, or none is left to share.
    """

    def __init__(self, layers: str | Sequence[str] = ("first",)) -> None:
        self.layers = layer_names(_NAME, layers)

    def model(self, model: nn.Module) -> nn.Module:
        """Leave it as it is, if there is something to share."""
        parameters = dict(model.named_parameters())
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        personal = arrays_of(self.layers, shapes)
        if frozen := [name for name in personal if not parameters[name].requires_grad]:
            raise UserError(f"{_NAME}: {', '.join(frozen)} cannot be personal and frozen at the same time")
        if all(layer.weight in personal for layer in find_layers(shapes)):
            raise UserError(f"{_NAME}: layers {', '.join(self.layers)} are all there are: nothing is left to share")
        return model

    def received(self, weights: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Put the client's own layers in the place of those that were sent."""
        own = {}
        for name in arrays_of(self.layers, {name: array.shape for name, array in weights.items()}):
            if _KEY + name not in client.memory:
                client.memory[_KEY + name] = weights[name].copy()
            own[name] = client.memory[_KEY + name]
        return {**weights, **own}

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Take the personal layers' part of the update oneself, and send zero."""
        shared = dict(update)
        # The server's step is theta - lr g; a difference of weights is added as it is.
        rate = -client.settings.learning_rate if client.settings.algorithm == "fedsgd" else 1.0
        for name in arrays_of(self.layers, {name: array.shape for name, array in update.items()}):
            before = client.memory[_KEY + name]
            client.memory[_KEY + name] = (before + rate * update[name]).astype(before.dtype)
            shared[name] = np.zeros_like(update[name])
        return shared
