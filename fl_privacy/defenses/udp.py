"""User-level DP as Feng et al. published it, with its own idea of epsilon."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fl_privacy._clipping import clipping_scale
from fl_privacy.audit import Privacy
from fl_privacy.defenses._noise import noisy
from fl_privacy.defenses._settings import below_one, positive, whole
from fl_privacy.defenses.base import Accounted, Defense
from fl_privacy.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from fl_privacy.training.accounting import Ledger
    from fl_privacy.training.participation import ClientSettings, Participation

_NAME = "udp-published"
_DELTA = 1e-5
"""At which the correct account is given."""


class PublishedUDP(Defense):
    """The UDP defense of Feng et al. (2022, public code; after Wei et al., arXiv 2003.00229). Its epsilon is a label.

    The gradient of each batch is scaled by ``1 / max(1, |g| / C)`` before the step; what is uploaded gets noise
    ``N(0, sigma_k^2)`` on every coordinate, ``sigma_k = (2 C / n_k) sqrt(2 q T ln(1 / delta)) / epsilon``, n_k the
    number of local examples.

    *FedSGD.* The published branch crashes at the line that adds the noise to the uploaded gradient, and does not clip.
    Here the gradient of the one batch is clipped and gets the noise of the same formula, with n_k the number of
    examples in that batch: 2 C / n_k is how far one record moves a mean of clipped gradients, and the mean that is sent
    is the batch's. (Noise of sigma_k on the *weights* would be 1 / learning rate times as large on the gradient; but
    the formula's sensitivity is that of a gradient.)

    Takes hold on every batch's gradient and on the client's update. It is meant to keep a client's records from the
    server, and guarantees nothing: delta is .5; clipping whole batches does not bound what one record does; and Adam,
    which does not care how long a gradient is, undoes the clipping (its update of some .4 stands beside an assumed
    2 C / n_k = .02). n_k can be read off the noise. Costs: the noise; `promises` says what it really buys.

    Parameters
    ----------
    epsilon : float
        As published: 5, 10, 25 or 50; infinity clips only.
    clipping_norm : float
        C.
    q : float
        Share of the clients in a round, as the formula has it; the run's own is not looked at.
    rounds : int
        T, as the formula has it.
    delta : float
        As the formula has it.
    """

    def __init__(
        self, epsilon: float, clipping_norm: float = 0.25, q: float = 0.1, rounds: int = 200, delta: float = 0.5
    ) -> None:
        positive(_NAME, clipping_norm=clipping_norm, q=q)
        if epsilon != math.inf:
            positive(_NAME, epsilon=epsilon)
        if q > 1:
            raise UserError(f"{_NAME}: q must be a share of the clients, up to 1, not {q!r}")
        whole(_NAME, 1, rounds=rounds)
        below_one(_NAME, delta=delta)
        self.epsilon, self.clipping_norm, self.q, self.rounds, self.delta = epsilon, clipping_norm, q, rounds, delta

    def sigma(self, examples: float) -> float:
        """Return sigma_k of a client with so many examples."""
        width = math.sqrt(2 * self.q * self.rounds * math.log(1 / self.delta))
        return 2 * self.clipping_norm / examples * width / self.epsilon

    def gradient(self, gradient: dict[str, Tensor], client: Participation) -> dict[str, Tensor]:
        """Clip the batch's gradient."""
        scale = clipping_scale((g.numpy() for g in gradient.values()), self.clipping_norm)
        return {name: g * scale for name, g in gradient.items()}

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Add the noise; write into the ledger what it hides of a whole client, provably."""
        from fl_privacy.training.accounting import Ledger

        sigma = self.sigma(_examples(client))
        sensitivity = self.sensitivity(client, sum(array.size for array in update.values()))
        Ledger.read(client.memory, "client").added(sigma / sensitivity, 1.0, 1).write(client.memory)
        return noisy(update, 1.0, sigma, client.rng)

    def sensitivity(self, client: Participation, coordinates: int) -> float:
        """Return how far apart, in L2, two updates of clients with as many examples can be before the noise.

        FedSGD: 2 C. FedAvg: twice what Adam can move so many coordinates, see `adam_reach`.
        """
        settings = client.settings
        if settings.algorithm == "fedsgd":
            return 2 * self.clipping_norm
        steps = math.ceil(client.examples / settings.batch_size) * settings.local_epochs
        return 2 * math.sqrt(coordinates) * settings.learning_rate * adam_reach(steps)

    def noise(self, settings: ClientSettings, examples: float | None) -> float:
        """Return sigma_k of a client that reports so many examples.

        Raises
        ------
        UserError
            Where it is not known what it reports: the noise depends on it.
        """
        if not examples:
            raise UserError(f"{_NAME}: the noise depends on a client's number of examples, which is not known here")
        return self.sigma(examples if settings.algorithm == "fedsgd" else examples / settings.local_epochs)

    def promises(self, run: Accounted) -> list[Privacy]:
        """Nothing under its own name; and what the same noise does for a whole client."""
        ledgers = [ledger for ledger in run.ledgers if ledger.unit == "client" and ledger.steps]
        worst = max(ledgers, key=lambda ledger: ledger.epsilon(_DELTA), default=None)
        bound = "C" if run.settings.algorithm == "fedsgd" else "what Adam's steps can reach"
        bought = (
            f"{_NAME}: the same noise on a whole client beside another of as many examples (largest update: {bound})"
        )
        if worst is not None and self.epsilon != math.inf:
            bought += f"; the labelled epsilon would take {self._short(worst):.3g} times the noise"
        return [
            Privacy(
                unit="example",
                mechanism=f"{_NAME}, labelled epsilon {self.epsilon:g}: no guarantee (delta {self.delta:g}; the "
                "sensitivity assumed is that of one record, and neither clipping of batches nor Adam keeps to it)",
                protects_from="server",
                delta=self.delta,
            ),
            Privacy(
                unit="client",
                mechanism=bought,
                protects_from="server, and all who receive the model",
                epsilon_accountant=0.0 if worst is None else worst.epsilon(_DELTA),
                delta=_DELTA,
            ),
        ]

    def _short(self, ledger: Ledger) -> float:
        """Return how many times the noise of a client it would take for the labelled epsilon."""
        from fl_privacy.training.accounting import noise_multiplier_for

        try:
            wanted = noise_multiplier_for(self.epsilon, _DELTA, 1.0, sum(ledger.steps))
        except UserError:  # a label that no noise reaches
            return math.inf
        return wanted / min(ledger.noise_multipliers)


def adam_reach(steps: int) -> float:
    """Return how far so many of the clients' Adam steps move a coordinate at most, in units of the learning rate.

    By the inequality of Cauchy and Schwarz a step's ``|m| / sqrt(v)`` is at most ``(1 - b1) / sqrt(1 - b2) * sqrt(sum_j
    (b1^2 / b2)^j)`` over the j < t gradients so far, times ``sqrt(1 - b2^t) / (1 - b1^t)`` for the correction of their
    bias: 1 for the first step, whatever the gradients are.
    """
    from fl_privacy.training.local import ADAM

    one, two = ADAM["betas"]
    ratio, reach = one * one / two, 0.0
    for t in range(1, steps + 1):
        memory = math.sqrt((1 - ratio**t) / (1 - ratio))
        reach += (1 - one) / math.sqrt(1 - two) * memory * math.sqrt(1 - two**t) / (1 - one**t)
    return reach


def _examples(client: Participation) -> int:
    """Return n_k: what the mean that leaves the client is taken over."""
    if client.settings.algorithm == "fedsgd":
        return min(client.settings.batch_size, client.examples)
    return client.examples
