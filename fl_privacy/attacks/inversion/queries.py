"""Inversion of a classifier that only answers: its gradient is estimated from scores, and queries are counted.

Natural evolution strategies as of Ilyas et al. (2018, arXiv 1804.08598): differences of the cost at pairs of points on
either side of the wave. Directions are drawn below a frequency, where speech is, which needs far fewer queries than all
directions would. With labels alone the cost is the share of neighbours that get another label, as in the
boundary-repelling attack of Kahla et al. (2022, arXiv 2203.13920); far from the class every neighbour does, so such an
attack starts from real speech that gets the label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import idct
from torch import Tensor

from fl_privacy.attacks.inversion.gradients import Slopes
from fl_privacy.audit.metrics import Floats
from fl_privacy.errors import UserError

Windows = NDArray[np.float32]
Answers = Callable[[Windows, np.random.Generator], Floats]
"""What the target answers: probabilities (n, classes) of windows (n, window), a countermeasure's noise included."""


class Access:
    """A target that answers, through a countermeasure or none, and counts.

    Parameters
    ----------
    probabilities : callable
        Of windows (n, window) the model's probabilities (n, classes).
    defense : callable, optional
        As `fl_privacy.defenses.outputs.OutputDefense`.

    Attributes
    ----------
    queries : int
        Windows asked so far.
    """

    def __init__(
        self,
        probabilities: Callable[[Windows], Floats],
        defense: Callable[[Floats, np.random.Generator], Floats] | None = None,
    ) -> None:
        self._probabilities, self._defense = probabilities, defense
        self.queries = 0

    def __call__(self, windows: Windows, rng: np.random.Generator) -> Floats:
        """Answer."""
        self.queries += len(windows)
        found = self._probabilities(windows)
        return found if self._defense is None else self._defense(found, rng)


@dataclass(frozen=True)
class Estimation:
    """How a gradient is estimated.

    Attributes
    ----------
    pairs : int
        Of points on either side of a wave: twice as many queries.
    radius : float
        How far these lie, as a share of the wave's standard deviation.
    below : float
        Highest frequency of the directions, as a share of half the sampling rate.
    repeats : int
        How often each point is asked, for an attacker who knows that answers are noisy.
    objective : str
        "log": minus the logarithm of the class's probability; "probability": one minus it, all that labels can give.
    """

    pairs: int = 24
    radius: float = 0.1
    below: float = 0.5
    repeats: int = 1
    objective: str = "log"

    def __post_init__(self) -> None:
        for name in ("pairs", "radius", "below", "repeats"):
            if getattr(self, name) <= 0:
                raise UserError(f"estimation: {name} must be positive, not {getattr(self, name)}")
        if self.below > 1:
            raise UserError(f"estimation: below = {self.below} is a share of half the sampling rate")
        if self.objective not in ("log", "probability"):
            raise UserError(f'estimation: objective = {self.objective!r}: give "log" or "probability"')


class EstimatedGradients:
    """Costs and their gradients from answers alone, in the place of a classifier's own.

    Parameters
    ----------
    access : Access
    estimation : Estimation
    length, classes : int
        Samples of a window, and classes of the target.
    """

    def __init__(self, access: Access, estimation: Estimation, length: int, classes: int) -> None:
        self.access, self.estimation = access, estimation
        self.length, self.classes = length, classes
        self.device = torch.device("cpu")

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Estimate, each point from queries of its own.

        Parameters
        ----------
        points : Tensor, (n, length)
        identities : Tensor, (n,)
        rngs : sequence of Generator
            Each point's own chance, the noise of the target's answers to it included.

        Returns
        -------
        Slopes
            Cost and probability are means over the points asked.
        """
        how = self.estimation
        found = []
        for wave, identity, rng in zip(points.numpy(), identities.tolist(), rngs, strict=True):
            directions = band_limited(how.pairs, wave.size, how.below, rng)
            reach = how.radius * max(float(wave.std()), 1e-8)
            asked = np.concatenate([wave + reach * directions, wave - reach * directions]).astype(np.float32)
            answers = self.access(np.tile(asked, (how.repeats, 1)), rng)[:, identity]
            probabilities = answers.reshape(how.repeats, -1).mean(axis=0)
            costs = self._cost(probabilities)
            slope = (costs[: how.pairs] - costs[how.pairs :]) @ directions / (2 * reach * how.pairs)
            found.append((costs.mean(), slope, 1 - probabilities.mean()))
        cost, gradient, miss = (torch.from_numpy(np.array(part)).float() for part in zip(*found, strict=True))
        return Slopes(cost, gradient, miss)

    def _cost(self, probabilities: Floats) -> Floats:
        if self.estimation.objective == "probability":
            return 1 - probabilities
        found: Floats = -np.log(np.clip(probabilities, 1e-6, None))
        return found


def band_limited(n: int, length: int, below: float, rng: np.random.Generator) -> Floats:
    """Draw directions (n, length) of root mean square 1 in expectation, with no energy above a frequency.

    Parameters
    ----------
    n, length : int
    below : float
        Share of half the sampling rate.
    rng : numpy.random.Generator
    """
    kept = max(1, round(below * length))
    coefficients = np.zeros((n, length))
    coefficients[:, :kept] = rng.standard_normal((n, kept)) * np.sqrt(length / kept)
    found: Floats = idct(coefficients, norm="ortho", axis=1)
    return found
