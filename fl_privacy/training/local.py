"""One client's local steps: the gradient of a batch (FedSGD) and epochs of Adam (FedAvg).

Settings as in Feng et al. (arXiv 2112.13416, public code). Order of examples and dropout come from torch's global
generator, which the caller seeds; so the same code serves a Flower client and a shadow-training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ADAM: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 1e-4}
"""The clients' optimiser."""

GradientHook = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Takes and returns the gradient of a batch by parameter name."""

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor | None]
"""What is added to the loss of a batch: of (network, features, labels, numbers of the examples)."""


def batch_gradient(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    batch_size: int,
    hook: GradientHook | None = None,
    objective: Objective | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Return the gradient of the mean cross-entropy of one random batch, dropout on.

    Parameters
    ----------
    model : Module
        Left as it is, but for its gradients.
    features : Tensor, (n, d)
    labels : Tensor, (n,)
        Class numbers.
    batch_size : int
        At most this many examples, drawn without replacement.
    hook : callable, optional
        What a defense does to the gradient.
    objective : callable, optional
        What a defense adds to the loss.

    Returns
    -------
    tuple of (dict of Tensor, int)
        Gradient by parameter name, and the number of examples in the batch.
    """
    batch = torch.randperm(len(features))[:batch_size]
    return _gradient(model, features, labels, batch, hook, objective), len(batch)


def train_epochs(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    learning_rate: float,
    epochs: int = 1,
    hook: GradientHook | None = None,
    objective: Objective | None = None,
) -> None:
    """Train in place with a fresh Adam (betas .9 and .98, eps 1e-9, L2 1e-4).

    Parameters are as for `batch_gradient`; the last batch of an epoch may be smaller.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True, **ADAM)
    parameters = dict(model.named_parameters())
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(features)), batch_size):
            for name, gradient in _gradient(model, features, labels, batch, hook, objective).items():
                parameters[name].grad = gradient
            optimiser.step()


@torch.no_grad()
def predict(model: nn.Module, features: Tensor) -> Tensor:
    """Return the most likely class of each example, dropout off."""
    model.eval()
    predicted: Tensor = model(features).argmax(dim=1)
    return predicted


def _gradient(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    batch: Tensor,
    hook: GradientHook | None,
    objective: Objective | None,
) -> dict[str, Tensor]:
    model.train()
    x, y = features[batch], labels[batch]
    loss = functional.cross_entropy(model(x), y)
    if objective is not None and (more := objective(model, x, y, batch)) is not None:
        loss = loss + more
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    # A defense may give the network parameters that this loss does not reach.
    gradient = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    return hook(gradient) if hook else gradient
