"""The architecture as an attacker uses it: the gradient of the loss at a model that clients were sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Gradient
from fl_privacy.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def gradient_of(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Gradient:
    """Return the gradient function of a torch model, for attacks that need ``"gradient"``.

    Parameters
    ----------
    model : Module
        Of the architecture that clients train; its weights are overwritten by those that are asked about.
    loss : callable, optional
        Mean loss of (what the model returns, labels); by default the cross-entropy.

    Returns
    -------
    callable
        Takes arrays by name, features (n, d) and labels (n,); returns the gradient by array name, in evaluation mode.
        Arrays that are handed over again, as the same mapping, are taken to be unchanged.
    """
    import torch

    measure = loss or torch.nn.functional.cross_entropy
    parameters = dict(model.named_parameters())
    held: list[Mapping[str, NDArray[Any]]] = []

    def gradient(
        arrays: Mapping[str, NDArray[Any]], features: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        if not held or held[0] is not arrays:
            lacking = sorted(parameters.keys() - set(arrays))
            if lacking:
                raise UserError(
                    f"the models that clients were sent have no {', '.join(lacking)}: another architecture?"
                )
            held.clear()
            model.eval()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))
            held.append(arrays)
        asked = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        device = next(iter(parameters.values())).device
        inputs = torch.from_numpy(np.asarray(features, dtype=np.float32)).to(device)
        value = measure(model(inputs), torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device))
        found = torch.autograd.grad(value, list(asked.values()), allow_unused=True, materialize_grads=True)
        return {name: part.cpu().numpy() for name, part in zip(asked, found, strict=True)}

    return gradient
