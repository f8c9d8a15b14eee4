"""DP-SGD on the client: each of its examples is protected, from the server and from everyone behind it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from torch import nn

from fl_privacy.audit import Privacy
from fl_privacy.defenses.base import Accounted, Defense
from fl_privacy.errors import UserError
from fl_privacy.training.accounting import noise_multiplier_for
from fl_privacy.training.private import DPSGD, check, sample_rate, steps_of

if TYPE_CHECKING:
    from fl_privacy.training.participation import ClientSettings, Participation


class ExampleDP(Defense):
    """Clipped gradients of single examples, with noise (Abadi et al., arXiv 1607.00133), in every client's training.

    Parameters
    ----------
    noise_multiplier : float, optional
        Standard deviation of the noise on a sum of clipped gradients, in units of `clipping_norm`.
    target_epsilon : float, optional
        Instead of it: each client takes the least noise with which it stays within this epsilon, even if it takes part
        as often as the client that takes part most often. Infinity clips without noise.
    clipping_norm : float
        Largest L2 norm of an example's gradient.
    delta : float
        Of the guarantee; below one in the client's examples.
    engine : {"auto", "hooks", "ghost"}
        See `fl_privacy.training.private.DPSGD`.
    typical_examples : int, optional
        What is known outside of a client's number of examples; for `noise` alone, where there is a target.

    Raises
    ------
    UserError
        For settings that are impossible, or unless there is exactly one of noise and target.

    Notes
    -----
    Batches are Poisson samples of rate ``batch / n``; the number of examples that a client reports is the expected one.
    Its noise depends on its number of examples where there is a target.
    """

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        clipping_norm: float = 1.0,
        delta: float = 1e-5,
        engine: Literal["auto", "hooks", "ghost"] = "auto",
        typical_examples: int | None = None,
    ) -> None:
        if (noise_multiplier is None) == (target_epsilon is None):
            raise UserError("dp-sgd: give either noise_multiplier or target_epsilon")
        if target_epsilon is not None and not target_epsilon > 0.0:
            raise UserError(f"dp-sgd: target_epsilon is {target_epsilon}: it must be above 0")
        if not 0.0 < delta < 1.0:
            raise UserError(f"dp-sgd: delta is {delta}: it must be above 0, and below one in a client's examples")
        if typical_examples is not None and typical_examples < 1:
            raise UserError(f"dp-sgd: typical_examples is {typical_examples}: it must be at least 1")
        self.target_epsilon, self.delta, self.typical_examples = target_epsilon, delta, typical_examples
        self._steps = DPSGD(clipping_norm, 0.0 if noise_multiplier is None else noise_multiplier, engine)

    def model(self, model: nn.Module) -> nn.Module:
        """Refuse layers that cannot be trained privately, before anything is trained."""
        check(model, self._steps)
        return model

    def ready(self, client: Participation) -> None:
        """Refuse a client without examples, with too many for delta, or whose target cannot be reached."""
        self.private_steps(client)

    def private_steps(self, client: Participation) -> DPSGD:
        """Say how much noise this client takes.

        Raises
        ------
        UserError
            Where it has no examples, too many for delta, or its target cannot be reached.
        """
        if client.examples < 1:
            raise UserError(
                f"dp-sgd: client {client.partition} has no training examples. Leave it out of the federation"
            )
        if self.delta * client.examples >= 1.0:
            raise UserError(
                f"dp-sgd: delta = {self.delta:g} is not below 1/{client.examples}, one in the examples of client "
                f"{client.partition}: it would allow to publish one of them outright. Choose a smaller delta"
            )
        return self._of(client.settings, client.examples)

    def noise(self, settings: ClientSettings, examples: float | None) -> float:
        """Return the standard deviation of the noise on each coordinate of a client's gradient.

        For FedAvg it is 0: behind Adam the noise has no one scale.

        Parameters
        ----------
        settings : ClientSettings
        examples : float or None
            What the client reports: the expected size of its batch.

        Notes
        -----
        With `target_epsilon` the noise depends on how many examples the client has. A client reports as many if they
        are fewer than a batch: then it is exact. Elsewhere the noise is that of a client with `typical_examples`; where
        these are not known, of one with a single batch, which is an upper bound.
        """
        if settings.algorithm != "fedsgd":
            return 0.0
        expected = settings.batch_size if examples is None else max(round(examples), 1)
        typical = self.typical_examples or 0
        there = expected if expected < settings.batch_size else max(expected, typical)
        return self._of(settings, there).deviation / expected

    def promises(self, run: Accounted) -> list[Privacy]:
        """Say what the client that spent most has spent."""
        spent = [ledger.epsilon(self.delta) for ledger in run.ledgers if ledger.unit == "example"]
        epsilon = max(spent, default=0.0)
        return [
            Privacy(
                unit="example",
                mechanism="dp-sgd" if math.isfinite(epsilon) else "dp-sgd: clips only, no noise",
                protects_from="server, and all who receive the model",
                epsilon_accountant=epsilon,
                delta=self.delta,
            )
        ]

    def _of(self, settings: ClientSettings, examples: int) -> DPSGD:
        if self.target_epsilon is None or self.target_epsilon == math.inf:
            return self._steps
        if settings.participations < 1:
            raise UserError(
                "dp-sgd: target_epsilon needs to know in how many rounds a client takes part at most, and nobody told. "
                "Set `participations` in the run configuration, or give noise_multiplier"
            )
        once = 1 if settings.algorithm == "fedsgd" else steps_of(examples, settings.batch_size, settings.local_epochs)
        rate = sample_rate(examples, settings.batch_size)
        noise = noise_multiplier_for(self.target_epsilon, self.delta, rate, once * settings.participations)
        return DPSGD(self._steps.clipping_norm, noise, self._steps.engine)
