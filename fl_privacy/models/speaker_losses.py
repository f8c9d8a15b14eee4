"""What speaker encoders are trained by: each a module of (embeddings, speakers' numbers) to the mean loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.errors import UserError


class SpeakerLoss(nn.Module):
    """A loss with its own parameters.

    Attributes
    ----------
    by_example : bool
        Whether the loss is a mean over the crops of a batch, so that each crop has a gradient of its own; without that
        there is no DP-SGD.
    """

    by_example: ClassVar[bool] = True


class SeparableLoss(SpeakerLoss, ABC):
    """A loss of each crop alone: by a crop's scores for the training speakers, and who it is of."""

    @abstractmethod
    def scores(self, embeddings: Tensor) -> Tensor:
        """Return what a crop's embedding says of each training speaker: (n, speakers) of (n, d)."""

    @abstractmethod
    def each(self, scores: Tensor, speakers: Tensor) -> Tensor:
        """Return the loss of each crop (n,) by its scores (n, speakers)."""

    def forward(self, embeddings: Tensor, speakers: Tensor) -> Tensor:
        """Return the mean loss of embeddings (n, d) of speakers (n,)."""
        return self.each(self.scores(embeddings), speakers).mean()


class Softmax(SeparableLoss):
    """Cross-entropy of a linear layer over the training speakers.

    Parameters
    ----------
    dimension : int
        Of an embedding.
    speakers : int
        That are trained on.
    """

    def __init__(self, dimension: int, speakers: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dimension, speakers)

    def scores(self, embeddings: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layer(functional.relu(embeddings))
        return logits

    def each(self, scores: Tensor, speakers: Tensor) -> Tensor:
        """Return the cross-entropy of each crop."""
        return functional.cross_entropy(scores, speakers, reduction="none")


class Cosines(nn.Module):
    """Cosines with a direction for each training speaker: a layer of its own, as gradients of single crops need it.

    Parameters
    ----------
    dimension, speakers : int
    """

    def __init__(self, dimension: int, speakers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(speakers, dimension))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return cosines (n, speakers) of embeddings (n, d)."""
        return functional.linear(functional.normalize(embeddings), functional.normalize(self.weight))


class AAMSoftmax(SeparableLoss):
    """Additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698).

    Parameters
    ----------
    dimension, speakers : int
        As for `Softmax`.
    scale : float
        Of the cosines.
    margin : float
        Added to the angle to the own speaker, in radians.
    """

    def __init__(self, dimension: int, speakers: int, scale: float = 30.0, margin: float = 0.2) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.cosines = Cosines(dimension, speakers)

    def scores(self, embeddings: Tensor) -> Tensor:
        """Return cosines."""
        cosines: Tensor = self.cosines(embeddings)
        return cosines

    def each(self, scores: Tensor, speakers: Tensor) -> Tensor:
        """Return the loss of each crop."""
        cosine, own = scores, functional.one_hot(speakers, scores.shape[1]).bool()
        # The root has no gradient at 0, where the angle is 0.
        sine = (1.0 - cosine.square()).clamp_min(1e-6).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        # Past pi - margin the angle would wrap around: go on in a line (as Deng et al.'s code).
        beyond = cosine - self.margin * math.sin(math.pi - self.margin)
        target = torch.where(cosine > math.cos(math.pi - self.margin), shifted, beyond)
        return functional.cross_entropy(self.scale * torch.where(own, target, cosine), speakers, reduction="none")


class GE2E(SpeakerLoss):
    """Generalised end-to-end loss, softmax form (Wan et al. 2018, arXiv 1710.10467).

    Each crop is drawn to the mean of its speaker's *other* crops in the batch, and away from the other speakers' means;
    so a batch holds several crops of each of several speakers, and no crop has a loss of its own.

    Parameters
    ----------
    dimension, speakers : int
        Not used; as for the other losses.
    """

    by_example: ClassVar[bool] = False

    def __init__(self, dimension: int, speakers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))
        # As in the code that SLMIA-SR attacks: scale and offset learn a hundred times more slowly.
        for parameter in (self.weight, self.bias):
            parameter.register_hook(lambda gradient: 0.01 * gradient)  # type: ignore[no-untyped-call]

    def forward(self, embeddings: Tensor, speakers: Tensor) -> Tensor:
        """Return the mean loss of embeddings (n, d) of speakers (n,), each with at least two."""
        names, codes, sizes = torch.unique(speakers, return_inverse=True, return_counts=True)
        if len(names) < 2 or int(sizes.min()) < 2:
            raise UserError("GE2E needs batches of at least two speakers, each with at least two crops.")
        unit = functional.normalize(embeddings)
        member = functional.one_hot(codes, len(names)).to(unit)
        sums = member.T @ unit
        similar = unit @ functional.normalize(sums).T
        others = functional.normalize(sums[codes] - unit)
        own = (unit * others).sum(dim=1, keepdim=True)
        similar = torch.where(member.bool(), own, similar)
        return functional.cross_entropy(self.weight.clamp_min(1e-6) * similar + self.bias, codes)


LOSSES: Mapping[str, Callable[[int, int], SpeakerLoss]] = MappingProxyType(
    {"softmax": Softmax, "aam-softmax": AAMSoftmax, "ge2e": GE2E}
)
"""The losses by name, made of (dimension, speakers)."""


def make_loss(name: str, dimension: int, speakers: int) -> SpeakerLoss:
    """Make a loss by name.

    Raises
    ------
    UserError
        If the name is not in `LOSSES`.
    """
    if name not in LOSSES:
        raise UserError(f"unknown speaker loss {name!r}. Known: {', '.join(LOSSES)}")
    return LOSSES[name](dimension, speakers)
