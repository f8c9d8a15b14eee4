"""Partial inversion: the classifier's last layer alone, from a d-vector; plain, and under a prior of d-vectors.

Without a prior it reads off a row of the classifier (experiment 2 of Pizzi et al. 2023, arXiv 2301.03206): from zero,
the first step is along ``W_t - sum_j p_j W_j``. That tells the class, not what d-vectors of the person look like.

With a prior it is the most probable d-vector: a Gaussian in the principal directions of d-vectors that the attacker has
of other people. Directions in which those hardly vary, which a row of the classifier is free to use, are closed to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy.attacks.inversion.checkpoint import Checkpoint
from fl_privacy.attacks.inversion.gradients import Slopes
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reconstruction
from fl_privacy.attacks.inversion.objectives import miss, objective
from fl_privacy.attacks.inversion.queue import Told, serve
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier

_PLAIN = Inversion(scale="absolute")


@dataclass(frozen=True, eq=False)
class Prior:
    """What d-vectors look like: a Gaussian in their principal directions.

    Attributes
    ----------
    mean : ndarray, (d,)
    directions : ndarray, (r, d)
        Of unit variance: a d-vector is ``mean + z @ directions`` with z standard normal.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def fit(cls, dvectors: NDArray[np.float32], *, share: float = 0.99) -> Prior:
        """Estimate it from auxiliary d-vectors.

        Parameters
        ----------
        dvectors : ndarray, (n, d)
            Of people that the attacker has recordings of, none of them attacked.
        share : float
            Of the variance, that the principal directions hold.

        Raises
        ------
        UserError
            For fewer than three d-vectors, or some that are all the same or not finite.
        """
        if dvectors.ndim != 2 or len(dvectors) < 3 or not np.isfinite(dvectors).all():
            raise UserError(f"a prior needs three finite d-vectors (n, d) at least; got shape {dvectors.shape}")
        mean = dvectors.mean(axis=0, dtype=np.float64)
        _, values, rows = np.linalg.svd(dvectors - mean, full_matrices=False)
        variance = values**2 / (len(dvectors) - 1)
        if not variance.sum() > 0:
            raise UserError("a prior needs d-vectors that differ")
        kept = int(np.searchsorted(np.cumsum(variance) / variance.sum(), share)) + 1
        directions = np.sqrt(variance[:kept, None]) * rows[:kept]
        return cls(mean.astype(np.float32), directions.astype(np.float32))


class _LastLayer:
    """The gradients of the last layer, by d-vectors or by coordinates under a prior."""

    def __init__(self, classifier: SpeakerClassifier, name: str, prior: Prior | None, weight: float) -> None:
        self._classifier, self._objective, self._weight = classifier, objective(name), weight
        self.device, self.classes = classifier.device, len(classifier.classes)
        self.length = _dimension(classifier) if prior is None else len(prior.directions)
        self._mean = self._directions = None
        if prior is not None:
            self._mean = torch.from_numpy(prior.mean).to(self.device)
            self._directions = torch.from_numpy(prior.directions).to(self.device)

    def dvectors(self, points: Tensor) -> Tensor:
        """Return the d-vectors that points stand for."""
        if self._mean is None or self._directions is None:
            return points
        return self._mean + points @ self._directions

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Return costs and gradients."""
        free = points.detach().requires_grad_()
        logits = self._classifier.classify(self.dvectors(free).to(self._classifier.dtype))
        cost = self._objective(logits, identities)
        if self._mean is not None:
            cost = cost + 0.5 * self._weight * free.square().sum(dim=1)
        (gradient,) = torch.autograd.grad(cost.sum(), free)
        return Slopes(cost.detach(), gradient, miss(logits.detach(), identities))


def invert_dvector(
    classifier: SpeakerClassifier,
    identities: Sequence[int],
    settings: Inversion = _PLAIN,
    *,
    starts: NDArray[np.float32] | None = None,
    step_size: float = 1.0,
    micro_batch: int = 512,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Reconstruction]:
    """Invert the last layer.

    Parameters
    ----------
    classifier : SpeakerClassifier
    identities : sequence of int
    settings : Inversion
        With ``scale="absolute"`` where starts are zero.
    starts : ndarray, (n, d), optional
        By default zero, the best of the study.
    step_size : float
    micro_batch : int
    told : callable, optional
    checkpoint : Checkpoint, optional
        See `fl_privacy.attacks.inversion.standard.invert`.

    Returns
    -------
    list of Reconstruction
        Whose ``wave`` is the d-vector (d,).
    """
    gradients = _LastLayer(classifier, settings.objective, None, 0.0)
    given = np.zeros((len(identities), gradients.length), dtype=np.float32) if starts is None else starts
    if len(given) != len(identities):
        raise UserError(f"{len(given)} starts for {len(identities)} identities: give one for each")
    jobs = [Job(identity, start, step_size) for identity, start in zip(identities, given, strict=True)]
    return serve(gradients, jobs, settings, micro_batch=micro_batch, told=told, checkpoint=checkpoint)


def map_dvector(
    classifier: SpeakerClassifier,
    identities: Sequence[int],
    prior: Prior,
    settings: Inversion | None = None,
    *,
    weight: float = 0.01,
    step_size: float = 0.1,
    micro_batch: int = 512,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Reconstruction]:
    """Find the most probable d-vectors of identities under a prior: cross-entropy plus ``weight / 2 |z|^2``.

    Parameters
    ----------
    classifier : SpeakerClassifier
    identities : sequence of int
    prior : Prior
        From d-vectors of other people.
    settings : Inversion, optional
        By default Adam, with no threshold: the optimum is wanted, not the first point that is accepted.
    weight : float
        Of the prior; 1 for one observation of the class.
    step_size : float
    micro_batch : int
    told : callable, optional
    checkpoint : Checkpoint, optional
        See `fl_privacy.attacks.inversion.standard.invert`.

    Returns
    -------
    list of Reconstruction
        Whose ``wave`` is the d-vector (d,).

    Raises
    ------
    UserError
        For a prior of another dimension, or a weight that is negative.
    """
    if len(prior.mean) != (dimension := _dimension(classifier)):
        raise UserError(f"the prior is of d-vectors of {len(prior.mean)} numbers, the classifier's have {dimension}")
    if not weight >= 0:
        raise UserError(f"weight is {weight}: it must not be negative")
    settings = settings or Inversion(step="adam", scale="absolute", iterations=300, patience=30, threshold=0.0)
    gradients = _LastLayer(classifier, settings.objective, prior, weight)
    zero = np.zeros(gradients.length, dtype=np.float32)
    jobs = [Job(identity, zero, step_size) for identity in identities]
    found = serve(gradients, jobs, settings, micro_batch=micro_batch, told=told, checkpoint=checkpoint)
    return [Reconstruction(one.identity, prior.mean + one.wave @ prior.directions, one.windows) for one in found]


def _dimension(classifier: SpeakerClassifier) -> int:
    with torch.no_grad():
        return int(
            classifier.dvectors(
                torch.zeros(1, classifier.window, device=classifier.device, dtype=classifier.dtype)
            ).shape[1]
        )
