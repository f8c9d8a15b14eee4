"""A client's network, and its steps: plain and private, gradients and training."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fl_privacy.models.ser import SERNet
from fl_privacy.training._steps import Steps, apply_hook
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook, Objective, batch_gradient, predict, train_epochs
from fl_privacy.training.losses import CROSS_ENTROPY
from fl_privacy.training.participation import ClientSettings, Hooks
from fl_privacy.training.private import DPSGD, poisson, private_gradient, sample_rate, train_privately


def make_network(inputs: int, classes: int, dropout: float, defenses: Sequence[Hooks]) -> nn.Module:
    """Make the SER network, changed by the defenses."""
    network: nn.Module = SERNet(inputs, classes, dropout)
    for defense in defenses:
        network = defense.model(network)
    return network


def initial_network(inputs: int, classes: int, dropout: float, defenses: Sequence[Hooks], seed: int) -> nn.Module:
    """Make the network with the parameters that a federation of this seed begins with."""
    seed_torch(np.random.SeedSequence([seed, 0]))
    return make_network(inputs, classes, dropout, defenses)


class LocalModel:
    """A network whose parameters are set in place: one object a process serves any number of clients.

    Parameters
    ----------
    network : Module
        Overwritten by every call.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Shape of each parameter.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._parameters = {name: p.detach() for name, p in network.named_parameters()}
        self.shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        self._steps = Steps.of(network)

    def gradient(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        batch_size: int,
        hook: GradientHook | None,
        out: Flat,
        objective: Objective | None = None,
    ) -> int:
        """Write the gradient of one random batch at `theta` into `out`; return the number of its examples."""
        if self._steps is not None and objective is None:
            batch = torch.randperm(len(features))[:batch_size]
            self._steps.gradient(theta, features, labels, batch, out)
            apply_hook(hook, out)
            return len(batch)
        self.load(theta)
        gradient, examples = batch_gradient(self.network, features, labels, batch_size, hook, objective)
        self._give(gradient, out)
        return examples

    @property
    def stacks(self) -> bool:
        """Whether `gradients` can be had."""
        return self._steps is not None

    def gradients(
        self,
        theta: Flat,
        clients: Sequence[tuple[np.random.SeedSequence, Tensor, Tensor]],
        batch_size: int,
        outs: Sequence[Flat],
    ) -> list[int]:
        """Do what `gradient` does for several clients: (seed of torch's generator, features, labels) each."""
        assert self._steps is not None

        def draw(seed: np.random.SeedSequence, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            seed_torch(seed)
            return features, labels, torch.randperm(len(features))[:batch_size]

        return self._steps.gradients(theta, [functools.partial(draw, *client) for client in clients], outs)

    def train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        settings: ClientSettings,
        hook: GradientHook | None,
        objective: Objective | None = None,
    ) -> int:
        """Train `theta` in place; return the number of examples, counted in each epoch."""
        told: dict[str, Any] = {"batch_size": settings.batch_size, "learning_rate": settings.learning_rate}
        told |= {"epochs": settings.local_epochs, "hook": hook}
        if self._steps is not None and objective is None:
            self._steps.train(theta, features, labels, **told)
        else:
            self.load(theta)
            train_epochs(self.network, features, labels, objective=objective, **told)
            for name, tensor in theta.tensors.items():
                tensor.copy_(self._parameters[name])
        return len(features) * settings.local_epochs

    def private_gradient(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        batch_size: int,
        private: DPSGD,
        rng: np.random.Generator,
        hook: GradientHook | None,
        out: Flat,
    ) -> int:
        """Write the private gradient of one Poisson batch into `out`; return the number of examples expected in it."""
        n = len(features)
        rate = sample_rate(n, batch_size)
        batch = poisson(rng, n, rate)
        if self._steps is not None and private.engine == "auto":
            self._steps.private_gradient(theta, features, labels, batch, private, rng, rate * n, out)
            apply_hook(hook, out)
        else:
            self.load(theta)
            gradient = private_gradient(
                self.network, CROSS_ENTROPY, features[batch], labels[batch], private, rng=rng, expected=rate * n
            )
            self._give(hook(gradient) if hook else gradient, out)
        return min(batch_size, n)

    def private_train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        settings: ClientSettings,
        private: DPSGD,
        rng: np.random.Generator,
        hook: GradientHook | None,
    ) -> int:
        """Train `theta` in place by private gradients; return the number of examples, counted in each epoch."""
        told: dict[str, Any] = {"batch_size": settings.batch_size, "epochs": settings.local_epochs, "hook": hook}
        if self._steps is not None and private.engine == "auto":
            told["learning_rate"] = settings.learning_rate
            self._steps.private_train(theta, features, labels, private, rng, **told)
        else:
            self.load(theta)
            optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, fused=True, **ADAM)
            told["rng"] = rng
            train_privately(self.network, CROSS_ENTROPY, features, labels, private, optimiser, **told)
            for name, tensor in theta.tensors.items():
                tensor.copy_(self._parameters[name])
        return len(features) * settings.local_epochs

    @staticmethod
    def _give(gradient: Mapping[str, Tensor], out: Flat) -> None:
        for name, tensor in out.tensors.items():
            # Layers that a defense froze have no gradient.
            tensor.copy_(gradient[name]) if name in gradient else tensor.zero_()

    def load(self, theta: Flat) -> None:
        """Set the network's parameters, for `predict`."""
        for name, parameter in self._parameters.items():
            parameter.copy_(theta.tensors[name])

    def predict(self, features: Tensor) -> Tensor:
        """Return the most likely class of each example, dropout off, under the parameters last loaded."""
        return predict(self.network, features)


def seed_torch(sequence: np.random.SeedSequence) -> None:
    """Seed torch's default generator: that of a client's round by the sequence of [seed, round, partition]."""
    # torch.manual_seed would visit every accelerator as well, which costs as much as the gradient.
    torch.default_generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
