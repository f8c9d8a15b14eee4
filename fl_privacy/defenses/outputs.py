"""Countermeasures on what a speaker classifier answers: they change the probabilities that a caller sees.

They stand between the model and whoever asks it, so that they hinder an attacker who has nothing but answers. An
attacker who holds the model (white-box) takes the gradient of the model itself and never meets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy._registry import make
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]


class OutputDefense(Protocol):
    """Changes answers before they are seen."""

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Return what is seen (n, classes) of the model's probabilities (n, classes), each row a sum of 1."""


@dataclass(frozen=True)
class ConfidenceNoise:
    """Uniform noise on each confidence, then rows of sum 1 again (after Salem et al. 2019, arXiv 1904.01067).

    Attributes
    ----------
    amount : float
        Noise is uniform from 0 to this.
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        if not self.amount > 0:
            raise UserError(f"confidence-noise: amount = {self.amount} must be positive")

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Add noise."""
        return _rows(probabilities + rng.uniform(0.0, self.amount, probabilities.shape))


@dataclass(frozen=True)
class Rounding:
    """Confidences rounded to so many digits (Fredrikson, Jha and Ristenpart 2015, CCS).

    Attributes
    ----------
    digits : int
        After the point.
    """

    digits: int = 1

    def __post_init__(self) -> None:
        if self.digits < 0:
            raise UserError(f"rounding: digits = {self.digits} must not be negative")

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Round; rows no longer sum to 1."""
        found: Floats = np.round(probabilities, self.digits)
        return found


@dataclass(frozen=True)
class Purification:
    """Confidences seen through an autoencoder that keeps few directions (after Yang et al. 2020, arXiv 2005.03915).

    Linear, in the space of log-probabilities: the answer is projected on the principal directions of answers to
    reference voices, so that answers to unlike voices look more alike. The larger network and the adversarial loss of
    the study are left out.

    Attributes
    ----------
    keep : int
        Directions that are kept.
    """

    keep: int = 8

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"purification: keep = {self.keep} must be positive")

    def fitted(self, probabilities: ArrayLike) -> Purified:
        """Return the defense itself, fitted on the model's answers (n, classes) to reference voices.

        Raises
        ------
        UserError
            With fewer than two answers.
        """
        given = np.asarray(probabilities, dtype=np.float64)
        if given.ndim != 2 or len(given) < 2:
            raise UserError(f"purification is fitted on answers (two at least, classes); got {given.shape}")
        logs = np.log(np.maximum(given, _LEAST))
        mean = logs.mean(axis=0)
        _, _, directions = np.linalg.svd(logs - mean, full_matrices=False)
        return Purified(mean, directions[: self.keep])

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Refuse: it has to see answers to reference voices first."""
        raise UserError("purification is fitted on answers to reference voices first: use fitted(...)")


@dataclass(frozen=True)
class Purified:
    """`Purification`, fitted.

    Attributes
    ----------
    mean : ndarray, shape (classes,)
        Of log-probabilities.
    directions : ndarray, shape (keep, classes)
    """

    mean: Floats
    directions: Floats

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Project."""
        logs = np.log(np.maximum(probabilities, _LEAST)) - self.mean
        seen = logs @ self.directions.T @ self.directions + self.mean
        return _rows(np.exp(seen - seen.max(axis=1, keepdims=True)))


@dataclass(frozen=True)
class LabelOnly:
    """The name of the likeliest class and nothing else: 1 for it, 0 for the others."""

    def __call__(self, probabilities: Floats, rng: np.random.Generator) -> Floats:
        """Keep the largest."""
        found = np.zeros_like(probabilities)
        found[np.arange(len(probabilities)), np.argmax(probabilities, axis=1)] = 1.0
        return found


_LEAST = 1e-12

OUTPUTS: Mapping[str, str] = {
    "confidence-noise": f"{__name__}:ConfidenceNoise",
    "rounding": f"{__name__}:Rounding",
    "purification": f"{__name__}:Purification",
    "label-only": f"{__name__}:LabelOnly",
}
"""Countermeasures on answers by name."""


def output_defense(settings: Mapping[str, Any]) -> OutputDefense:
    """Make a countermeasure from its name and settings.

    Raises
    ------
    UserError
        For an unknown name, or settings that it does not take.
    """
    made: OutputDefense = make("countermeasure", OUTPUTS, settings)
    return made


def _rows(values: Floats) -> Floats:
    found: Floats = values / values.sum(axis=1, keepdims=True)
    return found
