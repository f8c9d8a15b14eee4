"""What one SER client does in a round, whoever asks for it: a Flower client, or the attacker's plain loop.

Both call `local_update`, so that their results are the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.training._steps import Steps, apply_hook
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook, Objective, batch_gradient, predict, train_epochs
from fl_privacy.training.losses import CROSS_ENTROPY
from fl_privacy.training.private import DPSGD, poisson, private_gradient, sample_rate, steps_of, train_privately
from fl_privacy.updates.protocol import PARTICIPATIONS

_LEARNING_RATES = {"fedsgd": 0.1, "fedavg": 5e-4}


class BrokenUpdate(Exception):
    """There is an update that no client would send; its text is the reason."""


@dataclass(frozen=True)
class ClientSettings:
    """What a client is told once, by the run configuration.

    Attributes
    ----------
    seed : int
        Of the federation.
    algorithm : {"fedsgd", "fedavg"}
    batch_size : int
    learning_rate : float
        Of the server's step (FedSGD) or of the clients' Adam (FedAvg).
    local_epochs : int
        FedAvg alone.
    participations : int
        In how many rounds a client takes part at most, over the whole run; 0 where it was not told.
    """

    seed: int
    algorithm: Literal["fedsgd", "fedavg"]
    batch_size: int
    learning_rate: float
    local_epochs: int
    participations: int = 0

    @classmethod
    def read(cls, run_config: Mapping[str, Any]) -> ClientSettings:
        """Read them from a run configuration (flat, kebab-case keys)."""
        algorithm: Any = str(run_config["algorithm"])
        rate, epochs = learning_rate(run_config), int(run_config["local-epochs"])
        most = int(run_config.get(PARTICIPATIONS, 0))
        return cls(int(run_config["seed"]), algorithm, int(run_config["batch-size"]), rate, epochs, most)


Memory = MutableMapping[str, Any]
"""What a client keeps from round to round: lists of numbers and arrays, by name."""


@dataclass(frozen=True)
class Participation:
    """One client's part in one round, as its defenses may know it.

    Attributes
    ----------
    settings : ClientSettings
    server_round, partition : int
    examples : int
        How many the client trains on.
    private : Tensor, (n,)
        Class number of the private attribute of each of them, which clients know of themselves; -1 where it has none.
    rng : Generator
        The only source of a defense's randomness.
    memory : Memory
        What this client, and no other, has kept from earlier rounds; changes to it stay. The attacker's clients that
        answer the victims' models ("matched") begin each round without.
    """

    settings: ClientSettings
    server_round: int
    partition: int
    examples: int
    private: Tensor
    rng: np.random.Generator
    memory: Memory


class Hooks(Protocol):
    """What a defense does inside a client; see `fl_privacy.defenses.Defense`."""

    def model(self, model: nn.Module) -> nn.Module:
        """Change the network."""

    def received(self, weights: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change the weights that training starts from."""

    def private_steps(self, client: Participation) -> DPSGD | None:
        """Say how gradients are made private example by example."""

    @property
    def adds_to_loss(self) -> bool:
        """Whether there is an objective."""

    def objective(
        self, model: nn.Module, features: Tensor, labels: Tensor, batch: Tensor, client: Participation
    ) -> Tensor | None:
        """Return what is to be added to the loss of a batch."""

    def gradient(self, gradient: dict[str, Tensor], client: Participation) -> dict[str, Tensor]:
        """Change the gradient of a batch."""

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Change what leaves the client."""

    def weight(self, examples: int, client: Participation) -> int:
        """Change the number of examples that the client reports."""


@dataclass(frozen=True)
class Answer:
    """What a client answers, beside the arrays.

    Attributes
    ----------
    kind : {"gradient", "weights"}
        What the arrays are.
    examples : int
        Its weight in the aggregation.
    """

    kind: Literal["gradient", "weights"]
    examples: int


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


def learning_rate(run_config: Mapping[str, Any]) -> float:
    """Return the learning rate of a run configuration; where that is 0, the published one of its algorithm."""
    return float(run_config["learning-rate"]) or _LEARNING_RATES[run_config["algorithm"]]


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


def local_update(
    model: LocalModel,
    sent: Flat,
    features: Tensor,
    labels: Tensor,
    settings: ClientSettings,
    *,
    server_round: int,
    partition: int,
    out: Flat,
    defenses: Sequence[Hooks] = (),
    private: Tensor | None = None,
    memory: Memory | None = None,
    step: float | None = None,
) -> Answer:
    """Do a client's work of a round.

    Parameters
    ----------
    model : LocalModel
        Used for it.
    sent : Flat
        The parameters that the client was sent; left as they are.
    features : Tensor, (n, d)
    labels : Tensor, (n,)
        The client's examples.
    settings : ClientSettings
    server_round, partition : int
        With the seed they determine batches, dropout and the defenses' generator; torch's default generator is seeded.
    out : Flat
        Takes what the client answers.
    defenses : sequence of Hooks
        Made anew for each call: what a defense remembers must not pass from client to client.
    private : Tensor, (n,), optional
        Class numbers of the private attribute; see `Participation`.
    memory : Memory, optional
        What defenses may keep for this client until its next round; changed in place, unless an error is raised.
    step : float, optional
        FedSGD: answer the weights after a step of this size, not the gradient.

    Returns
    -------
    Answer

    Raises
    ------
    BrokenUpdate
        If a value of the update is not finite.
    """
    sequence = np.random.SeedSequence([settings.seed, server_round, partition])
    seed_torch(sequence)
    if not defenses:
        examples = _plain(model, sent, features, labels, settings, out)
    else:
        kept: Memory = {} if memory is None else dict(memory)
        own = torch.full((len(features),), -1) if private is None else private
        rng = np.random.default_rng(sequence.spawn(1)[0])
        client = Participation(settings, server_round, partition, len(features), own, rng, kept)
        examples = _defended(model, sent, features, labels, client, out, defenses)
    if broken := out.broken:
        raise BrokenUpdate(f"client {partition}: the update of {', '.join(broken)} is not finite; nothing is sent")
    if defenses:
        if settings.algorithm == "fedavg":
            out.whole.add_(sent.whole)
        if memory is not None:
            memory.update(kept)
    gradient = settings.algorithm == "fedsgd"
    if gradient and step is not None:
        out.whole.mul_(-step).add_(sent.whole)
    return Answer("gradient" if gradient and step is None else "weights", examples)


def _plain(model: LocalModel, sent: Flat, features: Tensor, labels: Tensor, settings: ClientSettings, out: Flat) -> int:
    """Write the gradient (FedSGD) or the new weights (FedAvg) into `out`; return the number of examples."""
    if settings.algorithm == "fedsgd":
        return model.gradient(sent, features, labels, settings.batch_size, None, out)
    out.whole.copy_(sent.whole)
    return model.train(out, features, labels, settings, None)


def _defended(
    model: LocalModel,
    sent: Flat,
    features: Tensor,
    labels: Tensor,
    client: Participation,
    out: Flat,
    defenses: Sequence[Hooks],
) -> int:
    """Write the gradient or the difference of the weights into `out`, with every defense's say."""

    def guard(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        for defense in defenses:
            gradient = defense.gradient(gradient, client)
        return gradient

    def objective(network: nn.Module, x: Tensor, y: Tensor, batch: Tensor) -> Tensor | None:
        terms = [term for d in defenses if (term := d.objective(network, x, y, batch, client)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    settings, gradient = client.settings, client.settings.algorithm == "fedsgd"
    start = _start(sent, client, defenses)
    by_example = next((found for d in defenses if (found := d.private_steps(client)) is not None), None)
    # The base class adds nothing: then the network's gradient may be the one that is written out.
    more = objective if any(d.adds_to_loss for d in defenses) else None
    if not gradient:
        out.whole.copy_(start.whole)
    if by_example is not None:
        if more is not None:
            raise UserError(
                "DP-SGD bounds each example's cross-entropy alone: leave out the defense that adds to the loss, or it"
            )
        rate = sample_rate(len(features), settings.batch_size)
        steps = 1 if gradient else steps_of(len(features), settings.batch_size, settings.local_epochs)
        Ledger.read(client.memory, "example").added(by_example.noise_multiplier, rate, steps).write(client.memory)
        if gradient:
            args = settings.batch_size, by_example, client.rng, guard
            examples = model.private_gradient(start, features, labels, *args, out)
        else:
            examples = model.private_train(out, features, labels, settings, by_example, client.rng, guard)
    elif gradient:
        examples = model.gradient(start, features, labels, settings.batch_size, guard, out, more)
    else:
        examples = model.train(out, features, labels, settings, guard, more)
    if not gradient:
        out.whole.sub_(start.whole)
    update: dict[str, NDArray[Any]] = {name: array.copy() for name, array in out.arrays.items()}
    for defense in defenses:
        update = defense.update(update, client)
        examples = defense.weight(examples, client)
    out.fill(update)
    return examples


def _start(sent: Flat, client: Participation, defenses: Sequence[Hooks]) -> Flat:
    """Return the weights that training starts from: those that were sent, where no defense wants others."""
    weights: dict[str, NDArray[Any]] = dict(sent.arrays)
    given = weights
    for defense in defenses:
        weights = defense.received(weights, client)
    if weights is given:
        return sent
    start = Flat({name: array.shape for name, array in sent.arrays.items()})
    start.fill(weights)
    return start


def seed_torch(sequence: np.random.SeedSequence) -> None:
    """Seed torch's default generator: that of a client's round by the sequence of [seed, round, partition]."""
    # torch.manual_seed would visit every accelerator as well, which costs as much as the gradient.
    torch.default_generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
