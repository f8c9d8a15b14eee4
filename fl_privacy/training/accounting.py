"""How much privacy a client has spent: the steps that it took, kept in its own state, composed once at the end."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

KEY = "privacy"
"""Names in a client's memory that begin so are its ledger."""

_MOST_NOISE = 1e5
"""Beyond it nothing is gained: what remains is the price of turning Rényi's privacy into (epsilon, delta)."""
_LEAST_NOISE = 0.05


@dataclass(frozen=True)
class Ledger:
    """The noisy steps that one client took, as flat lists (equal neighbours are one entry).

    Attributes
    ----------
    unit : str
        What each step protects: "example" or "client".
    noise_multipliers : tuple of float
    sample_rates : tuple of float
    steps : tuple of int
    """

    unit: str
    noise_multipliers: tuple[float, ...] = ()
    sample_rates: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()

    @classmethod
    def read(cls, memory: MutableMapping[str, Any], unit: str) -> Ledger:
        """Read a unit's ledger from what a client keeps."""
        noise, rates, steps = (memory.get(f"{KEY}.{unit}.{what}", ()) for what in ("noise", "rates", "steps"))
        return cls(unit, tuple(map(float, noise)), tuple(map(float, rates)), tuple(map(int, steps)))

    def write(self, memory: MutableMapping[str, Any]) -> None:
        """Keep it in a client's memory, as flat lists of numbers."""
        if self.steps:
            memory[f"{KEY}.{self.unit}.noise"] = list(self.noise_multipliers)
            memory[f"{KEY}.{self.unit}.rates"] = list(self.sample_rates)
            memory[f"{KEY}.{self.unit}.steps"] = list(self.steps)

    def added(self, noise_multiplier: float, sample_rate: float, steps: int) -> Ledger:
        """Return it with further steps."""
        if self.steps and (self.noise_multipliers[-1], self.sample_rates[-1]) == (noise_multiplier, sample_rate):
            more = (*self.steps[:-1], self.steps[-1] + steps)
            return Ledger(self.unit, self.noise_multipliers, self.sample_rates, more)
        return Ledger(
            self.unit,
            (*self.noise_multipliers, noise_multiplier),
            (*self.sample_rates, sample_rate),
            (*self.steps, steps),
        )

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all its steps together: what Opacus' `RDPAccountant` says of them.

        Parameters
        ----------
        delta : float
            Above 0, below 1.

        Returns
        -------
        float
            0 for no steps; infinity where a step had no noise.

        Raises
        ------
        UserError
            For a delta that is none.

        Notes
        -----
        Rényi privacy of the sampled Gaussian mechanism (Mironov et al., arXiv 1908.10530) over the accountant's own
        orders, and the conversion of Balle et al. (arXiv 1905.09982). It takes a tenth of a second for each pair of
        noise and rate that has not been met before.
        """
        _check_delta(delta)
        if not any(self.steps):
            return 0.0
        entries = [
            entry for entry in zip(self.noise_multipliers, self.sample_rates, self.steps, strict=True) if entry[2]
        ]
        if any(noise == 0.0 and rate > 0.0 for noise, rate, _ in entries):
            return math.inf
        rdp = sum(_rdp(noise, rate, _orders()) * steps for noise, rate, steps in entries)
        return max(_epsilon(_orders(), np.asarray(rdp), delta), 0.0)


def noise_multiplier_for(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the least noise with which so many steps stay within an epsilon, by the accountant of `Ledger.epsilon`.

    Parameters
    ----------
    target_epsilon : float
        Above 0; infinity asks for no noise.
    delta : float
        Above 0, below 1.
    sample_rate : float
        Probability with which an example is in a step's batch.
    steps : int
        Over the whole run.

    Returns
    -------
    float
        At most 0.01 % above the least; 0.05 where less would do, which is as good as none.

    Raises
    ------
    UserError
        For a target that no noise reaches, and for values that are impossible.
    """
    _check_delta(delta)
    if not target_epsilon > 0.0:
        raise UserError(f"target_epsilon is {target_epsilon}: it must be above 0 (inf for clipping without noise)")
    if not 0.0 < sample_rate <= 1.0:
        raise UserError(f"the sampling rate is {sample_rate}: it is a probability, above 0 and at most 1")
    if steps < 1:
        raise UserError(f"there are {steps} steps to account for: there must be at least 1")
    return 0.0 if target_epsilon == math.inf else _calibrated(target_epsilon, delta, sample_rate, steps)


@functools.lru_cache(maxsize=4096)
def _calibrated(target: float, delta: float, rate: float, steps: int) -> float:
    """Bisect, over few orders first, then over those around the best of them."""
    from scipy.optimize import brentq

    every = _orders()
    at = [*range(0, len(every) - 1, 8), len(every) - 1]

    def excess(log_noise: float, orders: tuple[float, ...]) -> float:
        return _epsilon(orders, _rdp(math.exp(log_noise), rate, orders) * steps, delta) - target

    # A smaller choice of orders never says less than all of them, so that what is found is within the target.
    few = tuple(every[i] for i in at)
    if (over := excess(math.log(_MOST_NOISE), few)) > 0.0:
        raise UserError(
            f"target_epsilon = {target:g} cannot be reached in {steps} steps at delta = {delta:g}: the accountant says "
            f"{target + over:.3g} however strong the noise is. Ask for more than that, or raise delta"
        )
    low, high = math.log(_LEAST_NOISE), math.log(_MOST_NOISE)
    if excess(low, few) <= 0.0:
        return _LEAST_NOISE
    found = brentq(excess, low, high, args=(few,), xtol=1e-2)
    spent = [_epsilon((order,), _rdp(math.exp(found), rate, (order,)) * steps, delta) for order in few]
    best = int(np.argmin(spent))
    near = every[at[max(best - 1, 0)] : at[min(best + 1, len(at) - 1)] + 1]
    low, high = found - 0.5, found + 0.02
    while excess(low, near) <= 0.0:
        low -= 0.5
    while excess(high, near) > 0.0:
        high += 0.5
    found = brentq(excess, low, high, args=(near,), xtol=2e-5)
    while excess(found, near) > 0.0:
        found += 2e-5
    return math.exp(found)


@functools.cache
def _orders() -> tuple[float, ...]:
    from opacus.accountants import RDPAccountant  # seconds

    return tuple(RDPAccountant.DEFAULT_ALPHAS)


@functools.lru_cache(maxsize=4096)
def _rdp(noise: float, rate: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the Rényi privacy of one step."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(orders)))


def _epsilon(orders: Sequence[float], rdp: NDArray[np.float64], delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    with warnings.catch_warnings():  # that another order might say less: it would, and this holds as well
        warnings.simplefilter("ignore", UserWarning)
        return float(get_privacy_spent(orders=list(orders), rdp=rdp, delta=delta)[0])


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise UserError(f"delta is {delta}: it must be above 0 and below 1")
