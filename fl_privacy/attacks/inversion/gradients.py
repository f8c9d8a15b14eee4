"""Where an inversion gets costs and gradients from: the network itself, or whatever else can tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fl_privacy.attacks.inversion.objectives import miss, objective
from fl_privacy.models.classifier import SpeakerClassifier


class Slopes(NamedTuple):
    """What is known of some points.

    Attributes
    ----------
    cost : Tensor, (n,)
        The objective.
    gradient : Tensor, (n, length)
        Of each cost by its point.
    miss : Tensor, (n,)
        One minus the probability of the identity: what the threshold is about, whatever the objective.
    """

    cost: Tensor
    gradient: Tensor
    miss: Tensor


@runtime_checkable
class Gradients(Protocol):
    """Tells costs and gradients of points: windows of a wave, d-vectors, parameters of a voice.

    What it tells of a point must not depend on the other points of the call.
    """

    @property
    def length(self) -> int:
        """Numbers in a point."""

    @property
    def classes(self) -> int:
        """Identities there are."""

    @property
    def device(self) -> torch.device:
        """Where points lie."""

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Return the costs and gradients of points.

        Parameters
        ----------
        points : Tensor, (n, length)
        identities : Tensor, (n,)
            Class numbers.
        rngs : sequence of Generator
            Each point's own source of chance, for estimates and random transforms.
        """


class WhiteBox:
    """The gradients of a classifier that lies open, by its windows.

    Parameters
    ----------
    classifier : SpeakerClassifier
    objective_name : str
        See `fl_privacy.attacks.inversion.objectives.OBJECTIVES`.
    """

    def __init__(self, classifier: SpeakerClassifier, objective_name: str = "cross-entropy") -> None:
        self.classifier, self._objective = classifier, objective(objective_name)
        self.length, self.classes = classifier.window, len(classifier.classes)
        self.device = classifier.device

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Return costs and gradients by automatic differentiation."""
        windows = points.detach().to(self.classifier.dtype).requires_grad_()
        logits = self.classifier.logits(windows)
        cost = self._objective(logits, identities)
        (gradient,) = torch.autograd.grad(cost.sum(), windows)
        return Slopes(cost.detach(), gradient.to(points.dtype), miss(logits.detach(), identities))
