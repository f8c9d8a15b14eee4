"""What one SER client does in a round, whoever asks for it: a Flower client, or the attacker's plain loop.

Both call `local_update`, so that their results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy.errors import UserError
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, seed_torch
from fl_privacy.training.participation import ClientSettings, Hooks, Memory, Participation
from fl_privacy.training.private import sample_rate, steps_of


class BrokenUpdate(Exception):
    """There is an update that no client would send; its text is the reason."""


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
