"""What DP-SGD promises a group of examples: all voices of one speaker, where each step protects a single voice.

Of a group of k examples a Poisson batch holds Binomial(k, q) many, each of which moves the clipped sum by at most the
clipping norm. So a step with the group and a step without it are told apart at best as well as a mixture of Gaussians
at 0, 1, ..., k from one Gaussian at 0 (Ganesh 2024, arXiv 2401.10294). At the same delta that is more than k times the
epsilon of one example, but less than the general rule for groups gives: k times an epsilon at a delta that is smaller
by a factor of about exp((k - 1) epsilon), which soon says nothing.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.training.accounting import Ledger, _check_delta, _epsilon, _orders

_POINTS = 8
"""Points of the quadrature in a standard deviation of the noise."""
_TAIL = 14.0
"""Standard deviations beyond which nothing is left."""


def group_epsilon(ledger: Ledger, group: int, delta: float) -> float:
    """Return the epsilon of noisy steps for a group of examples that are all there, or all not.

    Parameters
    ----------
    ledger : Ledger
        Steps that protect an example each.
    group : int
        How many examples; for one it is `Ledger.epsilon`.
    delta : float
        Above 0, below 1.

    Returns
    -------
    float
        0 for no steps; infinity where a step had no noise.

    Raises
    ------
    UserError
        For a delta or a group that is none.

    Notes
    -----
    Rényi divergences of the pair of distributions, in both directions, by the trapezoidal rule; converted as
    `Ledger.epsilon` does. Noise so small that the rule would need more than some million points counts as none.
    """
    _check_delta(delta)
    if group < 1:
        raise UserError(f"a group of {group} examples: there must be one at least")
    entries = [
        e for e in zip(ledger.noise_multipliers, ledger.sample_rates, ledger.steps, strict=True) if e[2] and e[1]
    ]
    if not entries:
        return 0.0
    if any(group / noise > 1e3 if noise else True for noise, _, _ in entries):
        return math.inf
    rdp = sum(_group_rdp(noise, rate, group) * steps for noise, rate, steps in entries)
    return max(_epsilon(_orders(), np.asarray(rdp), delta), 0.0)


@functools.lru_cache(maxsize=256)
def _group_rdp(noise: float, rate: float, group: int) -> NDArray[np.float64]:
    """Return the Rényi divergences of one step, the larger of both directions, at the accountant's orders."""
    from scipy.special import logsumexp
    from scipy.stats import binom, norm

    orders = np.array(_orders())
    step = group / noise  # the farthest Gaussian, in standard deviations
    ends = orders.max() * step + _TAIL
    x = np.arange(-ends, ends + 1.0 / _POINTS, 1.0 / _POINTS)
    without = norm.logpdf(x)
    chances = binom.logpmf(np.arange(group + 1), group, rate)
    mixed = np.full_like(x, -np.inf)
    for number, chance in enumerate(chances):
        if chance > -np.inf:
            mixed = np.logaddexp(mixed, chance + norm.logpdf(x, number / noise))
    found = []
    for order in orders:
        directions = (order * p + (1.0 - order) * q for p, q in ((mixed, without), (without, mixed)))
        found.append(max(float(logsumexp(d)) for d in directions) - math.log(_POINTS))
    return np.asarray(np.maximum(np.array(found), 0.0) / (orders - 1.0), dtype=np.float64)
