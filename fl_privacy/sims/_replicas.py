"""Replicas of a client's part in a round, with a canary or without, and what each answer says of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.defenses import Defense
from fl_privacy.errors import UserError
from fl_privacy.training._steps import apply_hook
from fl_privacy.training.client import BrokenUpdate, local_update
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook, Objective
from fl_privacy.training.local_model import LocalModel
from fl_privacy.training.matched import Request
from fl_privacy.training.participation import ClientSettings, Memory, Participation
from fl_privacy.training.private import DPSGD
from fl_privacy.updates.protocol import PARTICIPATIONS

_UPDATE_NORM = 1e4
"""Of a crafted update or gradient: above any clipping norm in use, small enough for float32."""

_INPUT_NORM = 10.0
"""Of a crafted example's features, in units of what standardised features have on average."""

_OTHERS = 0.1
"""What a batch's other examples add along a canary's gradient, roughly, in clipping norms: were it left out of account,
little noise would let them be taken for the canary."""

_RIDGE = 0.01
"""Of the regression on the gradients of other examples, of norm 1 each: dropout leaves them known but roughly."""

_LABEL = "canary.label"
"""In a replica's memory, beside what defenses keep there."""


@dataclass(frozen=True)
class Canary:
    """What is drawn for a canary beforehand: the client it goes to, the coin, and seeds for the rest."""

    number: int
    client: int
    included: bool
    own: int
    replica: int

    @classmethod
    def draw(cls, seed: int, number: int, clients: Sequence[int]) -> Canary:
        """Draw canary `number` of an audit for one of some clients."""
        rng = np.random.default_rng([seed, number])
        client = clients[int(rng.integers(len(clients)))]
        return cls(number, client, bool(rng.random() < 0.5), *map(int, rng.integers(2**62, size=2)))


class Replicas(ABC):
    """Has a client answer once more, with a canary or without."""

    def __init__(self, model: LocalModel, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        self.model, self._settings, self._defenses = model, settings, defenses
        self._out = Flat(model.shapes)

    @abstractmethod
    def score(self, canary: Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        """Return what one answer says for the canary's being in."""

    def settings(self, canary: Canary, request: Request) -> ClientSettings:
        """Return what the replica is told: all but the seed as the victims were."""
        config = {(key, kind): values for key, kind, values in request.told.records}.get(("config", "config"), {})
        most = int(config.get(PARTICIPATIONS, self._settings.participations))
        return replace(self._settings, seed=canary.replica, participations=most)

    def answer(
        self,
        canary: Canary,
        request: Request,
        features: Tensor,
        labels: Tensor,
        private: Tensor | None,
        memory: Memory,
    ) -> Tensor:
        """Return what the client answers, as a gradient (FedSGD) or a difference of weights (FedAvg)."""
        self._out.whole.zero_()
        try:
            answer = local_update(
                self.model,
                request.theta,
                features,
                labels,
                self.settings(canary, request),
                server_round=request.server_round,
                partition=canary.client,
                out=self._out,
                defenses=self._defenses(),
                private=private,
                memory=memory,
                step=request.step,
            )
        except BrokenUpdate:  # nothing is sent, and nothing is seen
            return self._out.whole.zero_()
        if answer.kind == "gradient":
            return self._out.whole
        difference = self._out.whole - request.theta.whole
        return difference if request.step is None else difference / -request.step


class ClientReplicas(Replicas):
    """Canaries that are whole clients."""

    def __init__(self, network: nn.Module, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        self._crafted = _Crafted(network, any(type(d).gradient is not Defense.gradient for d in defenses()))
        super().__init__(self._crafted, settings, defenses)

    def score(self, canary: Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        features, labels = data["train_features"], data["train_labels"]
        self._crafted.aim(canary.own, 1.0 if canary.included else -1.0)
        answered = self.answer(canary, request, features, labels, data.get("train_private"), memory)
        return float(torch.dot(answered, self._crafted.direction.whole))


class _Crafted(LocalModel):
    """A client that sends what it was told to, whatever its examples are.

    Parameters
    ----------
    network : Module
    by_gradients : bool
        Whether it is its gradients that are crafted, and not its update.
    """

    def __init__(self, network: nn.Module, by_gradients: bool) -> None:
        super().__init__(network)
        self._trained = {name for name, p in network.named_parameters() if p.requires_grad}
        self._by_gradients, self._sign = by_gradients, 1.0
        self.direction = Flat(self.shapes)

    def aim(self, seed: int, sign: float) -> None:
        """Choose a direction: plus or minus the same number on every coordinate, of norm 1 in all."""
        rng = np.random.default_rng(seed)
        sizes = {name: self.direction.tensors[name].numel() for name in self._trained}
        size = 1.0 / math.sqrt(sum(sizes.values()))
        for name, tensor in self.direction.tensors.items():
            if name in self._trained:
                bits = np.unpackbits(np.frombuffer(rng.bytes(-(-sizes[name] // 8)), np.uint8))[: sizes[name]]
                tensor.copy_(torch.from_numpy(bits).view(tensor.shape)).mul_(2.0 * size).sub_(size)
        self._sign = sign

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
        """Write a gradient into the direction."""
        torch.mul(self.direction.whole, self._sign * _UPDATE_NORM, out=out.whole)
        apply_hook(hook, out)
        return min(batch_size, len(features))

    def train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        settings: ClientSettings,
        hook: GradientHook | None,
        objective: Objective | None = None,
    ) -> int:
        """Move into the direction, in one go or by as many steps as the client would take."""
        if not self._by_gradients:
            theta.whole.add_(self.direction.whole, alpha=self._sign * _UPDATE_NORM)
            return len(features) * settings.local_epochs
        parameters = {name: nn.Parameter(theta.tensors[name]) for name in self.shapes if name in self._trained}
        optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True, **ADAM)
        for _ in range(-(-len(features) // settings.batch_size) * settings.local_epochs):
            downhill = {name: self.direction.tensors[name] * -self._sign * _UPDATE_NORM for name in parameters}
            for name, gradient in (hook(downhill) if hook else downhill).items():
                parameters[name].grad = gradient
            optimiser.step()
        return len(features) * settings.local_epochs

    def private_gradient(self, *_: Any, **__: Any) -> int:
        """Refuse: what is private example by example says nothing of a client."""
        raise UserError(
            "canaries: a defense that protects examples (dp-sgd) bounds no single client's update; audit unit 'example'"
        )

    private_train = private_gradient


class ExampleReplicas(Replicas):
    """Canaries that are examples."""

    def __init__(self, network: nn.Module, settings: ClientSettings, defenses: Callable[[], list[Defense]]) -> None:
        super().__init__(LocalModel(network), settings, defenses)
        self._gradient = Flat(self.model.shapes)
        self._others: tuple[Request, int, Tensor, Tensor] | None = None

    def score(self, canary: Canary, request: Request, data: Mapping[str, Tensor], memory: Memory) -> float:
        features, labels, private = data["train_features"], data["train_labels"], data.get("train_private")
        example = self._example(canary, request, features.shape[1], memory)
        own = len(features)
        if canary.included:
            features, labels = torch.cat([features, example[0]]), torch.cat([labels, example[1]])
            private = None if private is None else torch.cat([private, torch.tensor([-1])])
        dpsgd = self._dpsgd(canary, request, own)
        along = self._apart(self._along(request.theta, *example), request, canary.client, data)
        inner = float(torch.dot(self.answer(canary, request, features, labels, private, memory), along))
        if self._settings.algorithm == "fedavg":
            return -inner
        if dpsgd is None or dpsgd.noise_multiplier == 0.0:
            return inner
        rate = min(1.0, self._settings.batch_size / own)
        spread = math.hypot(dpsgd.noise_multiplier, _OTHERS)
        seen = float(torch.linalg.vector_norm(along))
        if seen == 0.0:
            return 0.0
        standard, shift = inner * rate * own / (dpsgd.clipping_norm * seen * spread), seen / spread
        return float(
            np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + shift * (standard - shift / 2))
        )

    def _example(self, canary: Canary, request: Request, inputs: int, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the canary's features and label."""
        rng = np.random.default_rng(canary.own)
        direction = rng.normal(size=inputs)
        x = torch.from_numpy(
            (_INPUT_NORM * math.sqrt(inputs) / np.linalg.norm(direction) * direction).astype(np.float32)
        )
        if _LABEL not in memory:
            self.model.load(request.theta)
            self.model.network.eval()
            with torch.no_grad():
                memory[_LABEL] = [int(self.model.network(x[None]).argmin())]
        return x[None], torch.tensor(memory[_LABEL])

    def _along(self, theta: Flat, x: Tensor, y: Tensor) -> Tensor:
        """Return the canary's gradient, without dropout and at norm 1."""
        network = self.model.network
        self.model.load(theta)
        network.eval()
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(functional.cross_entropy(network(x), y), list(parameters.values()))
        for name, gradient in zip(parameters, found, strict=True):
            self._gradient.tensors[name].copy_(gradient)
        norm = float(torch.linalg.vector_norm(self._gradient.whole))
        if not 0.0 < norm < math.inf:  # a model that broke down tells nothing
            return torch.zeros_like(self._gradient.whole)
        return self._gradient.whole / norm

    def _apart(self, along: Tensor, request: Request, client: int, data: Mapping[str, Tensor]) -> Tensor:
        """Return what of a canary's gradient the client's own examples do not explain: that is noise to the attacker.

        Who attacks differential privacy knows all examples but one.
        """
        held = self._others
        if held is None or held[0] is not request or held[1] != client:
            own = zip(data["train_features"], data["train_labels"], strict=True)
            rows = torch.stack([self._along(request.theta, x[None], y[None]) for x, y in own])
            gram = rows @ rows.T
            gram.diagonal().add_(_RIDGE)
            held = self._others = request, client, rows, torch.linalg.cholesky(gram)
        *_, rows, factor = held
        explained = torch.cholesky_solve((rows @ along)[:, None], factor)[:, 0]
        return along - explained @ rows

    def _dpsgd(self, canary: Canary, request: Request, examples: int) -> DPSGD | None:
        """Return how gradients are made private, as the attacker knows it."""
        nobody, rng = torch.full((examples,), -1), np.random.default_rng(0)
        told = self.settings(canary, request)
        client = Participation(told, request.server_round, canary.client, examples, nobody, rng, {})
        return next((found for d in self._defenses() if (found := d.private_steps(client)) is not None), None)
