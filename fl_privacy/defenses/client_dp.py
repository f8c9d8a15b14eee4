"""Differential privacy of whole clients: each update clipped, noise from the client or from the server."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from fl_privacy._clipping import clipping_scale
from fl_privacy.audit import Privacy
from fl_privacy.defenses._noise import noisy
from fl_privacy.defenses._settings import below_one, positive, whole
from fl_privacy.defenses.base import Accounted, Defense
from fl_privacy.errors import UserError

if TYPE_CHECKING:
    from flwr.serverapp import RdpAccountant
    from flwr.serverapp.strategy import Strategy

    from fl_privacy.training.participation import ClientSettings, Participation

_NAME = "client-dp"
_SILENT = ": clips only, no noise"
_LARGEST = 1e6
"""Of the noise multipliers that are tried for a target epsilon."""


def client_dp(
    placement: Literal["client", "server"],
    clipping_norm: float,
    noise_multiplier: float | None = None,
    target_epsilon: float | None = None,
    delta: float = 1e-5,
    rounds: int | None = None,
) -> ClientDP:
    """Make client-level DP.

    Parameters
    ----------
    placement : {"client", "server"}
        Who clips and adds the noise: `LocalClientDP` or `CentralClientDP`.
    clipping_norm : float
        C, the largest L2 norm of a whole update.
    noise_multiplier : float, optional
        z. On a client the noise on each coordinate has the standard deviation z C; on the mean of n clients in the
        server it is z C / n. 0 clips only.
    target_epsilon : float, optional
        Instead of `noise_multiplier`: the least noise that keeps to it; infinity clips only.
    delta : float
    rounds : int, optional
        With `target_epsilon` in the server: how many rounds there will be. (Clients are told how often they take part.)

    Raises
    ------
    UserError
        For a setting out of range, or other than one of `noise_multiplier` and `target_epsilon`.
    """
    settings = clipping_norm, noise_multiplier, target_epsilon, delta
    if placement == "client":
        if rounds is not None:
            raise UserError(f"{_NAME}: rounds is for placement 'server'; clients are told how often they take part")
        return LocalClientDP(*settings)
    if placement == "server":
        return CentralClientDP(*settings, rounds=rounds)
    raise UserError(f"{_NAME}: placement must be 'client' or 'server', not {placement!r}")


class ClientDP(Defense):
    """What both placements have in common: the settings, and that every client weighs the same.

    The number of examples that a client reports is 1: a mean by examples would be moved by more than C / n by the
    largest client, and the number itself tells of its people.
    """

    def __init__(
        self,
        clipping_norm: float,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        delta: float = 1e-5,
    ) -> None:
        if (noise_multiplier is None) == (target_epsilon is None):
            raise UserError(f"{_NAME}: give one of noise_multiplier and target_epsilon")
        positive(_NAME, clipping_norm=clipping_norm)
        below_one(_NAME, delta=delta)
        if noise_multiplier is None:
            if target_epsilon != math.inf:
                positive(_NAME, target_epsilon=target_epsilon or 0.0)
        elif noise_multiplier != 0:
            positive(_NAME, noise_multiplier=noise_multiplier)
        self.clipping_norm, self.noise_multiplier = float(clipping_norm), noise_multiplier
        self.target_epsilon, self.delta = target_epsilon, float(delta)

    @property
    def clips_only(self) -> bool:
        """Whether there is no noise, and so no guarantee."""
        return self.noise_multiplier == 0 or self.target_epsilon == math.inf

    def weight(self, examples: int, client: Participation) -> int:
        """Weigh all clients the same, and tell nobody how many examples there are."""
        return 1


class LocalClientDP(ClientDP):
    """Local DP: a client clips its whole update u and adds noise before anything leaves it.

    ``u * min(1, C / |u|_2) + N(0, (z C)^2)`` on each coordinate; u is the gradient (FedSGD) or the difference of the
    weights (FedAvg). Two updates of norm C at most differ by up to 2 C, so each participation is a Gaussian mechanism
    with the noise multiplier z / 2 for *replacing all that a client has*. The server knows who takes part, so nothing
    is amplified by sampling.

    Takes hold on the client's update. Protects the client from the server and from all who come after it. Costs: the
    mean of n clients bears noise of z C / sqrt(n) a coordinate, sqrt(n) times that of noise in the server at the same
    z; over P coordinates its norm is z C sqrt(P).

    Parameters
    ----------
    clipping_norm, noise_multiplier, target_epsilon, delta
        See `client_dp`.
    """

    def ready(self, client: Participation) -> None:
        """Refuse a target that cannot be reached."""
        self.multiplier(client.settings)

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Clip and add noise; write the step into the client's ledger."""
        from fl_privacy.training.accounting import Ledger

        multiplier = self.multiplier(client.settings)
        if multiplier:
            Ledger.read(client.memory, "client").added(multiplier / 2, 1.0, 1).write(client.memory)
        scale = clipping_scale(update.values(), self.clipping_norm)
        return noisy(update, scale, multiplier * self.clipping_norm, client.rng)

    def multiplier(self, settings: ClientSettings) -> float:
        """Return z, calibrated for the most rounds that any client takes part in where a target is set.

        Raises
        ------
        UserError
            If the target cannot be reached, or it is not known how often a client takes part.
        """
        from fl_privacy.training.accounting import noise_multiplier_for

        if self.clips_only or self.noise_multiplier is not None:
            return float(self.noise_multiplier or 0.0)
        assert self.target_epsilon is not None
        if settings.participations < 1:
            raise UserError(
                f"{_NAME}: target_epsilon needs to know how often a client takes part, which this client was not told; "
                "give noise_multiplier instead"
            )
        return 2 * noise_multiplier_for(self.target_epsilon, self.delta, 1.0, settings.participations)

    def noise(self, settings: ClientSettings, examples: float | None) -> float:
        """Return z C."""
        return self.multiplier(settings) * self.clipping_norm

    def promises(self, run: Accounted) -> list[Privacy]:
        """Epsilon of the client that took part most."""
        epsilons = [ledger.epsilon(self.delta) for ledger in run.ledgers if ledger.unit == "client" and ledger.steps]
        return [
            Privacy(
                unit="client",
                mechanism=f"{_NAME} (client)" + (_SILENT if self.clips_only else ""),
                protects_from="server, and all who receive the model",
                epsilon_accountant=None if self.clips_only else max(epsilons, default=0.0),
                delta=self.delta,
            )
        ]


class CentralClientDP(ClientDP):
    """Central DP: the server clips each update and adds noise to their mean, by Flower's own wrapper.

    `flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping`: noise of z C / n a coordinate on the plain
    mean of n clients. Flower's `RdpAccountant` goes with it where it takes the strategy (`FedAvg` and those with its
    ``aggregate_train``): it then insists on equal weights and on n replies. It refuses `fl_privacy.FedSGD`, which
    replaces ``aggregate_train``; with ``reply="step"`` the arithmetic is FedAvg's all the same, so `promises` accounts
    for it by the same `RdpAccountant`, after the run. For ``reply="gradient"`` the wrapper cannot be used at all.

    Takes hold in the server. Protects clients from those who receive the model, *not* from the server: it sees the raw
    updates, and knows the noise. Costs little utility where many clients share the noise. A client whose update is
    exactly zero ends the run (Flower divides by its norm), and one error reply costs the whole round.

    Parameters
    ----------
    clipping_norm, noise_multiplier, target_epsilon, delta, rounds
        See `client_dp`.

    Notes
    -----
    Flower's noise multiplier is for a client's update beside *nothing* in its place (a step of zero): the two means
    differ by C / n. Beside any other update they differ by 2 C / n, a multiplier of z / 2: `promises` gives both.
    """

    def __init__(
        self,
        clipping_norm: float,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        delta: float = 1e-5,
        rounds: int | None = None,
    ) -> None:
        super().__init__(clipping_norm, noise_multiplier, target_epsilon, delta)
        if (target_epsilon is None) != (rounds is None):
            raise UserError(f"{_NAME}: placement 'server' takes rounds with target_epsilon, and only with it")
        if rounds is not None:
            whole(_NAME, 1, rounds=rounds)
        self.rounds = rounds

    def strategy(self, strategy: Strategy) -> Strategy:
        """Wrap it.

        Raises
        ------
        UserError
            For `fl_privacy.FedSGD` whose clients reply gradients, or a strategy that does not say how many clients it
            samples.
        """
        from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

        if getattr(strategy, "reply", None) == "gradient":
            raise UserError(f"{_NAME}: {GRADIENTS}")
        if not isinstance(strategy, FedAvg):
            raise UserError(
                f"{_NAME}: placement 'server' goes directly around FedAvg or one of its kind, not around "
                f"{type(strategy).__name__}"
            )
        sampled, multiplier = strategy.min_train_nodes, self.multiplier
        known = type(strategy).aggregate_train is FedAvg.aggregate_train
        accountant = None
        if known and multiplier:
            accountant = _accountant(self.delta, max(strategy.min_available_nodes, sampled))
        return DifferentialPrivacyServerSideFixedClipping(
            strategy, multiplier, self.clipping_norm, sampled, accountant=accountant
        )

    @functools.cached_property
    def multiplier(self) -> float:
        """z, calibrated for the rounds that were named where a target is set."""
        if self.clips_only or self.noise_multiplier is not None:
            return float(self.noise_multiplier or 0.0)
        assert self.target_epsilon is not None
        assert self.rounds is not None
        low, high = 1e-3, _LARGEST
        if _flowers_epsilon(high, self.delta, self.rounds) > self.target_epsilon:
            raise UserError(
                f"{_NAME}: epsilon {self.target_epsilon} at delta {self.delta} cannot be reached over "
                f"{self.rounds} rounds"
            )
        while high / low > 1 + 1e-6:
            middle = math.sqrt(low * high)
            if _flowers_epsilon(middle, self.delta, self.rounds) > self.target_epsilon:
                low = middle
            else:
                high = middle
        return high

    def promises(self, run: Accounted) -> list[Privacy]:
        """What Flower's accountant says over all rounds; and the same noise for clients that are replaced."""
        rows = []
        for beside, share in (("nothing, as Flower's accountant counts", 1.0), ("any other client", 0.5)):
            z = share * self.multiplier
            rows.append(
                Privacy(
                    unit="client",
                    mechanism=f"{_NAME} (server), a client beside {beside}" + ("" if z else _SILENT),
                    protects_from="all who receive the model, but not the server, which adds the noise",
                    epsilon_accountant=_flowers_epsilon(z, self.delta, run.rounds) if z else None,
                    delta=self.delta,
                )
            )
        return rows


GRADIENTS = (
    "Flower's DP wrappers clip the difference to the model that was sent, which wrecks gradients; use FedSGD with "
    "reply = 'step', or placement 'client'"
)


def _accountant(delta: float, population: int) -> RdpAccountant:
    from flwr.serverapp import PrivacyConfig, RdpAccountant, SamplingMethod
    from flwr.supercore.privacy_accounting import NeighboringRelation

    relation, sampling = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    return RdpAccountant(PrivacyConfig(delta, population, relation, sampling))


def _flowers_epsilon(multiplier: float, delta: float, rounds: int) -> float:
    """Return what Flower's accountant gives for so many releases, none of them amplified by sampling."""
    from flwr.supercore.privacy_accounting import GaussianPrivacyEvent

    accountant = _accountant(delta, 1)
    accountant.compose(GaussianPrivacyEvent(multiplier, 1, 1), rounds)
    return accountant.get_epsilon(delta)
