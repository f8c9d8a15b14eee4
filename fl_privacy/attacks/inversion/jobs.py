"""What is asked of an inversion, and what comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.objectives import objective
from fl_privacy.attacks.inversion.steps import check_step
from fl_privacy.errors import UserError

Reason = Literal["threshold", "patience", "iterations", "diverged"]
"""Why it ended: the probability was reached, nothing improved, the steps were used up, numbers were not finite."""


@dataclass(frozen=True, slots=True)
class Inversion:
    """How points are inverted: Algorithm 1 of Pizzi et al. 2023 (arXiv 2301.03206), and what mends it.

    Attributes
    ----------
    objective : str
        See `fl_privacy.attacks.inversion.objectives.OBJECTIVES`; "one-minus-p" as published.
    step : str
        See `fl_privacy.attacks.inversion.steps.STEPS`; "plain" as published.
    scale : {"variance", "absolute"}
        Whether step sizes are relative to the start's standard deviation, or as they stand, as published.
    iterations : int
        Steps for a window at most (alpha).
    patience : int
        It ends when a cost is no lower than all of so many before it (beta).
    threshold : float
        It ends when one minus the identity's probability is this or less (gamma).

    Raises
    ------
    UserError
        For names and numbers that are impossible.
    """

    objective: str = "cross-entropy"
    step: str = "plain"
    scale: Literal["variance", "absolute"] = "variance"
    iterations: int = 1000
    patience: int = 100
    threshold: float = 1e-3

    def __post_init__(self) -> None:
        objective(self.objective)
        check_step(self.step)
        if self.scale not in ("variance", "absolute"):
            raise UserError(f"scale is {self.scale!r}. Known: variance, absolute")
        if self.iterations < 1 or self.patience < 1:
            raise UserError(f"iterations and patience must be positive; got {self.iterations} and {self.patience}")
        if not 0.0 <= self.threshold < 1.0:
            raise UserError(f"threshold is {self.threshold}: it must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One inversion to be done.

    Attributes
    ----------
    identity : int
        Class number.
    start : ndarray of float32, (length,)
    step_size : float
        Lambda; see `Inversion.scale`.
    seed : int
        Of this job's own chance, where gradients have any. Results depend on it, never on other jobs.
    """

    identity: int
    start: NDArray[np.float32]
    step_size: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """What came of one window of a job.

    Attributes
    ----------
    offset : int
        Its first number within the start.
    cost : float
        Lowest that was met, at the point that is kept; infinite where none was finite.
    probability : float
        Of the identity there.
    iterations : int
        Steps taken.
    reason : Reason
    """

    offset: int
    cost: float
    probability: float
    iterations: int
    reason: Reason


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """What came of a job.

    Attributes
    ----------
    identity : int
    wave : ndarray of float32, (length,)
        The best points that were met, in place of the start.
    windows : tuple of Window
        In the order in which they were inverted.
    """

    identity: int
    wave: NDArray[np.float32]
    windows: tuple[Window, ...]

    @property
    def cost(self) -> float:
        """Of the last window."""
        return self.windows[-1].cost

    @property
    def probability(self) -> float:
        """Of the identity, in the last window, as it was when that was done."""
        return self.windows[-1].probability

    @property
    def iterations(self) -> int:
        """Steps taken, over all windows."""
        return sum(window.iterations for window in self.windows)

    @property
    def reason(self) -> Reason:
        """Why the last window ended; "diverged" where any did, which ends a job."""
        return self.windows[-1].reason


def check_job(job: Job, number: int, settings: Inversion, classes: int, length: int, longer: bool) -> None:
    """Refuse a job that cannot be done.

    Raises
    ------
    UserError
        For a class that does not exist, a start of a wrong length or with numbers that are not finite, a step size that
        is not positive, and a constant start where step sizes are relative to its variance.
    """
    start = np.asarray(job.start)
    if not 0 <= job.identity < classes:
        raise UserError(
            f"job {number}: there is no class {job.identity}; the target has {classes} (0 to {classes - 1})"
        )
    if start.ndim != 1 or (len(start) < length if longer else len(start) != length):
        least = "at least " if longer else ""
        raise UserError(f"job {number}: the start has shape {start.shape}; expected ({least}{length},)")
    if not np.isfinite(start).all():
        raise UserError(f"job {number}: the start holds numbers that are not finite")
    if not 0 < job.step_size < math.inf:
        raise UserError(f"job {number}: step_size is {job.step_size}: it must be a number above 0")
    if settings.scale == "variance" and not unit_of(job, settings) > 0:
        raise UserError(
            f"job {number}: the start is constant, so that a step relative to its variance is none; "
            "use scale='absolute' and a step size of your own"
        )


def unit_of(job: Job, settings: Inversion) -> float:
    """Return what a job's step size is relative to."""
    return float(np.asarray(job.start, dtype=np.float64).std()) if settings.scale == "variance" else 1.0
